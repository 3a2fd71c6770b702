//! From what the kernel says of an entry to a node, without its content.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::unistd::{Gid, Group, Uid, User};
use repository::format::node::{Node, NodeKind, Xattr, go_mode};
use repository::format::time::Time;
use rustix::fs::{FileType, Stat};

/// What an entry is, in the format's terms.
pub(crate) fn kind(stat: &Stat) -> Option<NodeKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Dir,
        FileType::Symlink => NodeKind::Symlink,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::Unknown => return None,
    })
}

/// Names of users and groups, asked for once each.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Owners {
    fn user(&self, uid: u32) -> String {
        let ask = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name).unwrap_or_default();
        self.users.lock().expect("no holder panics").entry(uid).or_insert_with(ask).clone()
    }

    fn group(&self, gid: u32) -> String {
        let ask = || Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name).unwrap_or_default();
        self.groups.lock().expect("no holder panics").entry(gid).or_insert_with(ask).clone()
    }

    /// Everything of a node that `stat` tells. Times of access are not kept: they would make every tree new.
    #[allow(clippy::unnecessary_cast, reason = "the number of links has 32 bits on some processors")]
    pub(crate) fn node(&self, name: &[u8], kind: NodeKind, stat: &Stat) -> Node {
        let time = |seconds: i64, nanos| Time::new(seconds, u32::try_from(nanos).unwrap_or(0));
        let mtime = time(stat.st_mtime, stat.st_mtime_nsec);
        let is_device = matches!(kind, NodeKind::BlockDevice | NodeKind::CharDevice);
        let has_links = is_device || matches!(kind, NodeKind::File | NodeKind::Symlink);
        Node {
            mode: go_mode(kind, stat.st_mode),
            mtime,
            atime: mtime,
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: self.user(stat.st_uid),
            group: self.group(stat.st_gid),
            inode: stat.st_ino,
            // A claim's device number differs from pod to pod: only hard links need it.
            device_id: if has_links && stat.st_nlink > 1 { stat.st_dev } else { 0 },
            size: if kind == NodeKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            links: if has_links { stat.st_nlink as u64 } else { 0 },
            device: if is_device { stat.st_rdev } else { 0 },
            ..Node::new(name.to_owned(), kind)
        }
    }
}

/// A path to an entry by its directory's descriptor: as long as the name, whatever the full path's length, and the
/// directory cannot be swapped. The entry itself is not followed.
pub(crate) fn entry_path(dir: impl AsFd, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_fd().as_raw_fd().to_string()).join(OsStr::from_bytes(name.to_bytes()))
}

/// A path to an open file.
pub(crate) fn fd_path(fd: impl AsFd) -> PathBuf {
    // The dot at the end makes the kernel resolve the link in /proc; for files the descriptor itself is used instead.
    Path::new("/proc/self/fd").join(fd.as_fd().as_raw_fd().to_string())
}

/// Extended attributes of an entry, ACLs and capabilities among them, sorted by name.
pub(crate) fn xattrs(path: &Path) -> io::Result<Vec<Xattr>> {
    collect(xattr::list(path), |name| xattr::get(path, name))
}

/// Extended attributes of what a path leads to: for `/proc/self/fd/N`.
pub(crate) fn xattrs_of_fd(fd: impl AsFd) -> io::Result<Vec<Xattr>> {
    let path = fd_path(fd);
    collect(xattr::list_deref(&path), |name| xattr::get_deref(&path, name))
}

fn collect(list: io::Result<xattr::XAttrs>, get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>) -> io::Result<Vec<Xattr>> {
    let names = match list {
        // File systems without attributes.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names {
        // One that is gone since it was listed was removed.
        if let Some(value) = get(&name)? {
            xattrs.push(Xattr { name: name.to_string_lossy().into_owned(), value });
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}
