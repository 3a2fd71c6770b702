//! Bad input and faults on one machine: each ends with an error that names the thing and the next step, nothing lost.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::eventually;
use e2e::program::{Program, Ran, mover, restic};
use e2e::tree::{assert_same, difficult, manifest, many, random, set_mtime};
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

struct Place {
    dir: TempDir,
    mover: Program,
}

impl Place {
    /// A directory with an empty repository in it.
    fn new() -> Self {
        let dir = tempdir().unwrap();
        let mover = mover(dir.path().join("repository"));
        mover.ok(&["init"]);
        Self { dir, mover }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn locks(&self) -> usize {
        fs::read_dir(self.path("repository/locks")).map_or(0, Iterator::count)
    }

    fn snapshots(&self) -> usize {
        fs::read_dir(self.path("repository/snapshots")).map_or(0, Iterator::count)
    }

    fn is_sound(&self) {
        self.mover.ok(&["check", "--read-data"]);
    }
}

fn assert_refused(ran: &Ran, code: i32, words: &str) {
    assert!(ran.code == code && ran.stderr.contains(words), "{code}, {words:?}: {ran:?}");
}

#[test]
fn repositories_that_cannot_be_opened() {
    let place = Place::new();
    let wrong = place.mover.clone().env("MOVER_PASSWORD", "wrong");
    assert_refused(&wrong.run(&["snapshots"]), 12, "wrong password: none of the 1 keys");
    assert_refused(&mover(place.path("nothing")).run(&["snapshots"]), 10, "there is no repository");
    assert_refused(&place.mover.run(&["init"]), 1, "config is there already");
    assert_refused(&mover(place.path("typo/repository")).run(&["init"]), 1, "typo");
    assert!(!place.path("typo").exists());
    let nobody = Program::new(std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("mover"));
    assert_refused(&nobody.run(&["snapshots"]), 1, "no repository was named");
    let json = wrong.run(&["snapshots", "--json"]);
    assert_eq!((json.code, json.json("code").as_u64()), (12, Some(12)));
}

#[test]
fn restore_never_makes_a_repository() {
    let dir = tempdir().unwrap();
    let ran = mover(dir.path().join("typo")).run(&["restore", "latest", dir.path().join("target").to_str().unwrap()]);
    assert_refused(&ran, 10, "there is no repository");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

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
    place.is_sound();
}

/// Runs the mover as somebody who owns nothing.
fn as_nobody(place: &Place, args: &[&str]) -> Ran {
    let here = std::env::current_exe().unwrap();
    // Where nobody may run it.
    let copy = place.path("mover");
    fs::copy(here.parent().unwrap().parent().unwrap().join("mover"), &copy).unwrap();
    let setpriv = ["--reuid", "65534", "--regid", "65534", "--clear-groups", copy.to_str().unwrap()];
    let program =
        Program::new("/usr/bin/setpriv").env("MOVER_REPOSITORY", place.text("repository")).env("MOVER_PASSWORD", e2e::program::PASSWORD);
    program.run(&[&setpriv, args].concat())
}

#[test]
fn owners_that_may_not_be_set_are_said_once_and_counted() {
    let place = Place::new();
    many(&place.path("source"), 20);
    place.mover.ok(&["backup", &place.text("source")]);
    assert!(Command::new("chown").args(["-R", "65534", &place.text("repository")]).status().unwrap().success());
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let ran = as_nobody(&place, &["restore", "latest", &place.text("target"), "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json("owners_not_set"), 22);
    assert_eq!(ran.lines("item").len(), 1, "{ran:?}");
    assert_eq!(fs::read(place.path("target/0000/file-000001")).unwrap(), fs::read(place.path("source/0000/file-000001")).unwrap());
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

/// A file system in memory; gone with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).status().unwrap();
        assert!(done.success(), "cannot mount a tmpfs: these tests need root");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_under_the_repository_and_under_the_target() {
    let place = Place::new();
    place.file("source/small", b"small");
    place.mover.ok(&["backup", &place.text("source")]);
    place.file("source/large", &random(24 << 20, 1));
    let disk = Mounted::tmpfs(&place.path("disk"), "12m");
    let full = mover(disk.0.join("repository"));
    full.ok(&["init"]);
    full.ok(&["backup", &place.text("source/small")]);
    assert_refused(&full.run(&["backup", &place.text("source")]), 1, "make room there");
    full.ok(&["check", "--read-data"]);
    full.ok(&["restore", "latest", &place.text("small")]);
    place.mover.ok(&["backup", &place.text("source")]);
    let ran = place.mover.run(&["restore", "latest", disk.0.join("target").to_str().unwrap()]);
    assert_refused(&ran, 1, "is too small");
    place.mover.ok(&["restore", "latest", &place.text("roomy")]);
    assert_same(&place.path("source"), &place.path("roomy"));
}

#[test]
fn what_happens_to_files_that_are_there_already() {
    let place = Place::new();
    place.file("source/same", b"same");
    place.file("source/changed", b"new content");
    symlink("same", place.path("source/link")).unwrap();
    place.mover.ok(&["backup", &place.text("source")]);
    let target = place.text("target");
    place.mover.ok(&["restore", "latest", &target]);
    place.file("target/changed", b"old");
    place.file("target/extra", b"extra");
    let outside = place.path("outside");
    fs::write(&outside, b"outside").unwrap();
    assert_refused(&place.mover.run(&["restore", "latest", &target]), 1, "is not empty");
    place.mover.ok(&["restore", "latest", &target, "--overwrite", "never"]);
    assert_eq!(fs::read(place.path("target/changed")).unwrap(), b"old");
    let plan = place.mover.ok(&["restore", "latest", &target, "--overwrite", "if-changed", "--dry-run", "--json"]);
    assert_eq!((plan.json("files_restored"), plan.json("files_skipped")), (1.into(), 1.into()), "{plan:?}");
    assert_eq!(fs::read(place.path("target/changed")).unwrap(), b"old");
    // A link in place of a file is replaced, not followed.
    fs::remove_file(place.path("target/changed")).unwrap();
    symlink(&outside, place.path("target/changed")).unwrap();
    place.mover.ok(&["restore", "latest", &target, "--overwrite", "if-changed"]);
    assert_eq!(fs::read(place.path("target/changed")).unwrap(), b"new content");
    assert_eq!(fs::read(&outside).unwrap(), b"outside");
    place.mover.ok(&["restore", "latest", &target, "--overwrite", "always"]);
    fs::remove_file(place.path("target/extra")).unwrap();
    set_mtime(&place.path("target"), manifest_mtime(&place.path("source")), 0);
    let (mut expected, mut found) = (manifest(&place.path("source")), manifest(&place.path("target")));
    expected.remove(&Vec::new());
    found.remove(&Vec::new());
    e2e::tree::assert_manifests(&expected, &found);
}

fn manifest_mtime(path: &Path) -> i64 {
    rustix::fs::stat(path).unwrap().st_mtime
}

#[test]
fn parts_of_a_snapshot() {
    let place = Place::new();
    difficult(&place.path("source"));
    place.mover.ok(&["backup", &place.text("source"), "--as", "/shop/data", "--exclude", "random", "--tag", "a,b"]);
    let listed = place.mover.ok(&["ls", "latest", "--path", "/shop/data", "--tag", "b"]).stdout;
    assert!(listed.contains("/shop/data/a/b/c/deep\n") && !listed.contains("random"), "{listed}");
    assert_eq!(place.mover.ok(&["dump", "latest", "/shop/data/plain.txt"]).stdout, "hello\n");
    place.mover.ok(&["restore", "latest:/shop/data/a/b", &place.text("part")]);
    assert_same(&place.path("source/a/b"), &place.path("part"));
    place.mover.ok(&["restore", "latest", &place.text("some"), "--include", "deep"]);
    let some = manifest(&place.path("some"));
    assert_eq!(some.keys().filter(|name| name.ends_with(b"deep")).count(), 1);
    assert!(!some.contains_key(&b"plain.txt"[..]));
    place.mover.ok(&["restore", "latest:/shop/data/plain.txt", &place.text("one")]);
    assert_eq!(fs::read(place.path("one/plain.txt")).unwrap(), b"hello\n");
    assert_refused(&place.mover.run(&["restore", "latest:/no/such", &place.text("x")]), 1, "no snapshot matches path /no/such");
    assert_refused(
        &place.mover.run(&["restore", "latest", &place.text("x"), "--before", "2001-01-01"]),
        1,
        "no snapshot matches latest of before",
    );
    assert_refused(&place.mover.run(&["restore", "latest", &place.text("x"), "--host", "elsewhere"]), 1, "host elsewhere");
    assert!(!place.path("x").exists());
}

#[test]
fn block_images_streams_and_what_stays_the_same() {
    let place = Place::new();
    let image = fs::File::create(place.path("disk.img")).unwrap();
    image.set_len((64 << 20) + 12_345).unwrap();
    let (first, tail) = (random(5 << 20, 8), random(12_345, 9));
    std::os::unix::fs::FileExt::write_all_at(&image, &first, 9 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &tail, 64 << 20).unwrap();
    // Zeros that are there, beside holes that are not.
    std::os::unix::fs::FileExt::write_all_at(&image, &vec![0; 8 << 20], 40 << 20).unwrap();
    let backup = ["backup", "--block", &place.text("disk.img"), "--as", "/vm/root", "--json"];
    let ran = place.mover.ok(&backup);
    // Two blocks of data, the tail, and zeros once.
    assert_eq!(ran.json("data_blobs"), 4, "{ran:?}");
    assert!(ran.json("bytes_read").as_u64().unwrap() < 30 << 20, "{ran:?}");
    let again = place.mover.ok(&[&backup[..], &["--skip-if-unchanged"]].concat());
    assert_eq!((again.json("data_blobs"), again.json("snapshot_id")), (0.into(), serde_json::Value::Null));
    place.mover.ok(&["restore", "latest", &place.text("out"), "--sparse"]);
    assert!(fs::read(place.path("out/root")).unwrap() == fs::read(place.path("disk.img")).unwrap());
    // Onto a device that held something else.
    fs::write(place.path("device.img"), random(80 << 20, 3)).unwrap();
    let device = Loop::new(&place.path("device.img"));
    place.mover.ok(&["restore", "latest", &device.0, "--verify"]);
    drop(device);
    let size = (64 << 20) + 12_345;
    assert!(fs::read(place.path("device.img")).unwrap()[..size] == fs::read(place.path("disk.img")).unwrap());
    fs::write(place.path("small.img"), vec![0; 1 << 20]).unwrap();
    let small = Loop::new(&place.path("small.img"));
    assert_refused(&place.mover.run(&["restore", "latest", &small.0]), 1, "are to be written");
    let stream = random(3_000_000, 4);
    let ran = place.mover.run_with_input(&["backup", "--stdin", "--stdin-filename", "dump.rdb"], &stream);
    assert_eq!(ran.code, 0, "{ran:?}");
    place.mover.ok(&["restore", "latest", &place.text("stream")]);
    assert!(fs::read(place.path("stream/dump.rdb")).unwrap() == stream);
    let dry = place.mover.ok(&["backup", "--dry-run", &place.text("out"), "--json"]);
    assert_eq!(dry.json("snapshot_id"), serde_json::Value::Null);
    assert_eq!(place.snapshots(), 2);
    place.is_sound();
}

/// A loop device; detached with the test.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Self {
        let done = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(String::from_utf8(done.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_signal_stops_within_ten_seconds_and_leaves_no_lock() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        place.file("source/large", &random(200 << 20, 1));
        let mut running = place.mover.start(&["backup", &place.text("source"), "--limit-upload", "4MiB"]);
        eventually("a lock", || place.locks() == 1);
        std::thread::sleep(Duration::from_millis(800));
        let start = Instant::now();
        running.signal(signal);
        let ran = running.wait();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_refused(&ran, 130, "nothing that was there before has changed");
        assert_eq!((place.locks(), place.snapshots()), (0, 0));
        place.is_sound();
    }
}

#[test]
fn a_signal_is_noticed_while_a_stream_brings_nothing() {
    let place = Place::new();
    let mut running = place.mover.start(&["backup", "--stdin", "--stdin-filename", "stream"]);
    eventually("a lock", || place.locks() == 1);
    std::thread::sleep(Duration::from_millis(500));
    running.signal(Signal::INT);
    let stdin = running.child().stdin.take();
    let ran = running.wait();
    drop(stdin);
    assert_eq!((ran.code, place.locks(), place.snapshots()), (130, 0, 0), "{ran:?}");
}

#[test]
fn killed_at_any_moment_everything_visible_restores() {
    let place = Place::new();
    many(&place.path("source"), 2000);
    place.file("source/large", &random(60 << 20, 1));
    let source = place.text("source");
    let restic = restic("restic-new", place.path("repository"));
    let mut survivors = 0;
    for round in 0..20_u64 {
        place.file("source/changing", &random(4 << 20, round));
        let mut running = place.mover.start(&["backup", &source]);
        // Opening takes half a second; the rest of the run a little more.
        std::thread::sleep(Duration::from_millis(400 + round * 60));
        running.signal(Signal::KILL);
        let ran = running.wait();
        survivors += usize::from(ran.code == 0);
        place.mover.ok(&["unlock", "--remove-all"]);
        place.is_sound();
        if round % 5 == 4 {
            restic.ok(&["check", "--read-data"]);
        }
    }
    assert!(survivors < 20, "nothing was killed in time");
    place.mover.ok(&["backup", &source]);
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert_same(&place.path("source"), &place.path("target"));
}

#[test]
fn keys_come_and_go() {
    let place = Place::new();
    place.file("new", b"second\n");
    place.file("third", b"third\nrest of the file");
    place.mover.ok(&["key", "add", "--new-password-file", &place.text("new")]);
    let second = mover(place.path("repository")).env("MOVER_PASSWORD", "second");
    let listed = second.ok(&["key", "list", "--json"]);
    let keys = listed.lines("key");
    assert_eq!(keys.len(), 2);
    let id = |current: bool| keys.iter().find(|key| key["current"] == current).unwrap()["id"].as_str().unwrap().to_owned();
    assert_refused(&second.run(&["key", "remove", &id(true)]), 1, "opened the repository just now");
    second.ok(&["key", "remove", &id(false)[..8]]);
    assert_eq!(place.mover.run(&["snapshots"]).code, 12);
    second.ok(&["key", "passwd", "--new-password-file", &place.text("third")]);
    assert_eq!(second.run(&["snapshots"]).code, 12);
    let third = second.env("MOVER_PASSWORD", "third");
    third.ok(&["snapshots"]);
    restic("restic-old", place.path("repository")).env("RESTIC_PASSWORD", "third").ok(&["snapshots"]);
    fs::write(place.path("empty"), b"").unwrap();
    assert_refused(&third.run(&["key", "add", "--new-password-file", &place.text("empty")]), 1, "protects nothing");
}

#[test]
fn damage_costs_what_it_hits_and_no_more() {
    let place = Place::new();
    for i in 0..20 {
        place.file(&format!("source/file-{i}"), &random(2 << 20, i));
        fs::hard_link(place.path(&format!("source/file-{i}")), place.path(&format!("source/link-{i}"))).unwrap();
    }
    place.mover.ok(&["backup", &place.text("source")]);
    let packs: Vec<PathBuf> = fs::read_dir(place.path("repository/data"))
        .unwrap()
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|pack| pack.unwrap().path())
        .collect();
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::set_permissions(largest, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).unwrap();
    let check = place.mover.run(&["check", "--read-data", "--json"]);
    assert_eq!(check.code, 1);
    assert_eq!(check.json("errors"), 1, "{check:?}");
    let ran = place.mover.run(&["restore", "latest", &place.text("target"), "--json"]);
    // The file, and its other name.
    assert_eq!((ran.code, ran.lines("item").len()), (3, 2), "{ran:?}");
    assert!(ran.lines("item")[0]["problem"].as_str().unwrap().contains("damaged"));
    // The file that was hit is not there half; the others are whole.
    assert_eq!(fs::read_dir(place.path("target")).unwrap().count(), 38);
    for entry in fs::read_dir(place.path("target")).unwrap() {
        let entry = entry.unwrap();
        assert!(fs::read(entry.path()).unwrap() == fs::read(place.path("source").join(entry.file_name())).unwrap());
    }
    // A later run stores nothing again that it believes to be there: so it is said.
    fs::remove_file(largest).unwrap();
    assert_refused(&place.mover.run(&["check"]), 1, "the index names it, but it is missing");
}

#[test]
fn names_that_are_not_text_are_shown_escaped() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source").join(std::ffi::OsStr::from_bytes(b"a\nb\xff")), b"x").unwrap();
    place.mover.ok(&["backup", &place.text("source")]);
    assert!(place.mover.ok(&["ls", "latest"]).stdout.contains("a\\nb\\xff"));
}
