//! Trees to back up, and a way to say that two are the same: content, owner, mode, times, attributes, links, holes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use sha2::{Digest, Sha256};

/// Bytes that do not compress, the same for the same seed.
pub fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(length);
    bytes
}

/// Everything that a file system on Linux can hold and a backup program tends to forget. Needs root.
pub fn difficult(at: &Path) {
    fs::create_dir_all(at.join("a/b/c")).unwrap();
    fs::create_dir(at.join("d")).unwrap();
    let file = |name: &[u8], content: &[u8]| fs::write(at.join(OsStr::from_bytes(name)), content).unwrap();
    file(b"plain.txt", b"hello\n");
    file(b"empty", b"");
    file(b"text", &b"all work and no play ".repeat(40_000));
    file(b"random", &random(5_000_000, 1));
    file(b"a/b/c/deep", b"deep\n");
    let names: [&[u8]; 8] = [
        b"new\nline",
        b"bad\xff\xfename",
        b"quote\"back\\slash",
        b"<html>&amp;",
        "t\u{e4}st \u{65e5}\u{672c} \u{1f600}".as_bytes(),
        b"ctrl\x01\x7f",
        "nbsp\u{a0}zwsp\u{200b}ls\u{2028}".as_bytes(),
        &[b'n'; 255],
    ];
    names.iter().for_each(|name| file(name, name));
    symlink("plain.txt", at.join("link")).unwrap();
    symlink("/nonexistent/absolute", at.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"bad\xfftarget"), at.join("rawlink")).unwrap();
    fs::hard_link(at.join("plain.txt"), at.join("a/hard")).unwrap();
    fs::hard_link(at.join("link"), at.join("d/hardlink-of-link")).unwrap();
    let make = |name: &str, kind, device| rustix::fs::mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    make("pipe", FileType::Fifo, 0);
    make("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("block", FileType::BlockDevice, rustix::fs::makedev(7, 200));
    drop(std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap());
    std::os::unix::fs::chown(at.join("plain.txt"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::lchown(at.join("dangling"), Some(1), Some(2)).unwrap();
    for (name, mode) in [("text", 0o4755), ("d", 0o2755), ("a", 0o1777), ("empty", 0o000)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    xattr::set(at.join("plain.txt"), "user.comment", b"value").unwrap();
    xattr::set(at.join("plain.txt"), "user.empty", b"").unwrap();
    xattr::set(at.join("d"), "user.binary", b"\x00\xff\x00").unwrap();
    xattr::set(at.join("random"), "security.capability", &hex("0100000200200000000000000000000000000000")).unwrap();
    let acl = |args: &[&str], name: &str| assert!(Command::new("setfacl").args(args).arg(at.join(name)).status().unwrap().success());
    acl(&["-m", "u:1000:rwx"], "plain.txt");
    acl(&["-d", "-m", "g:5:r"], "d");
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.set_len(20_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 10_000_000).unwrap();
    for (name, seconds, nanos) in [
        ("a/b/c/deep", -152_000_000, 123_456_789),
        ("quote\"back\\slash", 5_680_000_000, 5),
        ("a/b", 946_684_800, 0),
        ("link", 978_307_200, 1),
    ] {
        set_mtime(&at.join(name), seconds, nanos);
    }
}

/// Sets the time of last change.
pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Many small files in folders of 500.
pub fn many(at: &Path, count: u32) {
    for i in 0..count {
        let folder = at.join(format!("{:04}", i / 500));
        if i % 500 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("file-{i:06}")), format!("content of file {i}\n").repeat(i as usize % 40 + 1)).unwrap();
    }
}

/// All there is to know of a tree, by path. Sockets do not count: nothing can restore them.
pub fn manifest(at: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut entries = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    describe(at, at, &mut entries, &mut first_names);
    entries
}

fn describe(root: &Path, path: &Path, entries: &mut BTreeMap<Vec<u8>, String>, first_names: &mut BTreeMap<u64, Vec<u8>>) {
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.file_type().is_socket() {
        return;
    }
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
    let mut text = format!("mode {:o} owner {}:{} mtime {}.{:09}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
    let kind = meta.file_type();
    if kind.is_file() {
        write!(text, " size {} sha256 {:x?}", meta.len(), Sha256::digest(fs::read(path).unwrap())).unwrap();
    } else if kind.is_symlink() {
        write!(text, " to {:?}", fs::read_link(path).unwrap()).unwrap();
    } else if kind.is_block_device() || kind.is_char_device() {
        write!(text, " device {}", meta.rdev()).unwrap();
    }
    if !kind.is_dir() && meta.nlink() > 1 {
        let first = first_names.entry(meta.ino()).or_insert_with(|| name.clone());
        write!(text, " links {} same as {}", meta.nlink(), first.escape_ascii()).unwrap();
    }
    let mut xattrs: Vec<_> = xattr::list(path).unwrap().map(|name| (name.clone(), xattr::get(path, &name).unwrap())).collect();
    xattrs.sort();
    write!(text, " xattrs {xattrs:x?}").unwrap();
    entries.insert(name, text);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().for_each(|name| describe(root, name, entries, first_names));
    }
}

/// Fails, naming the entries that differ, unless two trees are the same.
pub fn assert_same(expected: &Path, found: &Path) {
    assert_manifests(&manifest(expected), &manifest(found));
}

/// As [`assert_same`].
pub fn assert_manifests(expected: &BTreeMap<Vec<u8>, String>, found: &BTreeMap<Vec<u8>, String>) {
    let mut differences = String::new();
    let names: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for name in names {
        let (a, b) = (expected.get(name), found.get(name));
        if a != b {
            writeln!(differences, "{}\n  expected {a:?}\n  found    {b:?}", name.escape_ascii()).unwrap();
        }
    }
    assert!(differences.is_empty(), "the trees differ:\n{differences}");
}
