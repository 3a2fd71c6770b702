//! Sources that are empty, closed, changing, badly named, mounted over: what is saved, and what is said.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use e2e::place::{Mounted, Place, as_nobody, assert_refused};
use e2e::program::restic;
use e2e::tree::{assert_same, many, random, set_mtime};

#[test]
fn sources_that_hold_nothing_are_refused() {
    let place = Place::new();
    fs::create_dir_all(place.path("empty/lost+found")).unwrap();
    place.file("zero", b"");
    for (source, words) in
        [("missing", "never saved as an empty one"), ("empty", "is empty: is something not mounted?"), ("zero", "is empty")]
    {
        assert_refused(&place.mover.run(&["backup", &place.text(source)]), 1, words);
    }
    assert_refused(&place.mover.run(&["backup", "--stdin", "--stdin-filename", "x"]), 1, "standard input is empty");
    assert_eq!(place.snapshots(), 0);
    place.mover.ok(&["backup", "--allow-empty", &place.text("empty")]);
    assert_eq!((place.snapshots(), place.locks()), (1, 0));
}

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_saved() {
    let place = Place::new();
    place.file("source/good", b"good");
    place.file("source/secret", b"secret");
    place.file("source/closed/inside", b"inside");
    fs::set_permissions(place.path("source/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(place.path("source/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let open = |path: &Path| assert!(Command::new("chown").args(["-R", "65534", path.to_str().unwrap()]).status().unwrap().success());
    open(&place.path("repository"));
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let ran = as_nobody(&place, &["backup", &place.text("source"), "--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let items: Vec<String> = ran.lines("item").iter().map(|item| item["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(items.len(), 2, "{ran:?}");
    assert!(items.iter().any(|path| path.ends_with("/secret")) && items.iter().any(|path| path.ends_with("/closed")));
    let restored = place.mover.ok(&["ls", "latest"]);
    assert!(restored.stdout.contains("/good") && !restored.stdout.contains("secret"));
    assert!(place.mover.ok(&["snapshots"]).stdout.contains("estiba:incomplete"));
    // A run that is repeated says the same.
    let again = place.mover.run(&["backup", &place.text("source"), "--once", "--tag", "estiba:incomplete"]);
    assert_eq!(again.code, 3, "{again:?}");
    place.is_sound();
}

#[test]
fn files_that_change_shrink_grow_and_vanish_while_they_are_read() {
    let place = Place::new();
    many(&place.path("source"), 3000);
    place.file("source/log", &random(30 << 20, 5));
    let source = place.path("source");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut i = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let file = source.join(format!("{:04}/file-{:06}", i % 6, (i % 6) * 500 + i % 500));
                match i % 3 {
                    0 => drop(fs::remove_file(&file)),
                    1 => drop(fs::write(&file, random(2000 + i as usize % 5000, i))),
                    _ => drop(fs::write(&file, b"")),
                }
                let log = fs::OpenOptions::new().write(true).open(source.join("log")).unwrap();
                log.set_len((20 << 20) + i % 7 * 1_000_000).unwrap();
                i += 1;
            }
        });
        for _ in 0..4 {
            let ran = place.mover.run(&["backup", source.to_str().unwrap()]);
            assert!(matches!(ran.code, 0 | 3), "{ran:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    place.is_sound();
    restic("restic-new", place.path("repository")).ok(&["check", "--read-data"]);
    place.mover.ok(&["backup", source.to_str().unwrap()]);
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert_same(&source, &place.path("target"));
}

/// Changed within the same tick of the clock, with the same size: only reading it again can tell.
#[test]
fn a_file_changed_while_its_parent_was_read_is_read_again() {
    let place = Place::new();
    place.file("source/file", b"one");
    place.file("source/old", b"old");
    place.mover.ok(&["backup", &place.text("source")]);
    let time = |name: &str| rustix::fs::stat(place.path(name)).map(|stat| (stat.st_mtime, stat.st_mtime_nsec)).unwrap();
    let (seconds, nanos) = time("source/file");
    place.file("source/file", b"two");
    set_mtime(&place.path("source/file"), seconds, nanos as i64);
    place.mover.ok(&["backup", &place.text("source"), "--ignore-ctime"]);
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert_eq!(fs::read(place.path("target/file")).unwrap(), b"two");
}

#[test]
fn names_and_paths_at_their_limits() {
    let place = Place::new();
    // 30 levels of 200 bytes: longer than any path the kernel takes.
    fs::create_dir(place.path("source")).unwrap();
    let mut dir = rustix::fs::open(place.path("source"), rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    for level in 0..30 {
        let name = format!("{level:02}{}", "d".repeat(198));
        rustix::fs::mkdirat(&dir, &name, rustix::fs::Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    }
    let file = rustix::fs::openat(&dir, "bottom", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY, rustix::fs::Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    place.mover.ok(&["backup", &place.text("source")]);
    let target = place.text("target");
    let ran = place.mover.ok(&["restore", "latest", &target, "--verify", "--json"]);
    assert_eq!((ran.json("files_restored"), ran.json("bytes_verified")), (1.into(), 4.into()));
    for path in [place.path("source"), place.path("target")] {
        assert!(Command::new("rm").arg("-rf").arg(path).status().unwrap().success());
    }
}

#[test]
fn a_mount_below_the_source() {
    let place = Place::new();
    place.file("source/here", b"here");
    let mounted = Mounted::tmpfs(&place.path("source/there"), "1m");
    fs::write(mounted.0.join("other"), b"other").unwrap();
    place.mover.ok(&["backup", &place.text("source"), "-x"]);
    let listed = place.mover.ok(&["ls", "latest"]).stdout;
    assert!(listed.contains("/there\n") && !listed.contains("/other"), "{listed}");
    place.mover.ok(&["backup", &place.text("source")]);
    assert!(place.mover.ok(&["ls", "latest"]).stdout.contains("/other"));
}

#[test]
fn names_that_are_not_text_are_shown_escaped() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source").join(std::ffi::OsStr::from_bytes(b"a\nb\xff")), b"x").unwrap();
    place.mover.ok(&["backup", &place.text("source")]);
    assert!(place.mover.ok(&["ls", "latest"]).stdout.contains("a\\nb\\xff"));
}
