//! Restores into what is there: only what differs is fetched and written, and with `--delete` nothing else is left.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use e2e::place::{Loop, Mounted, Place, assert_refused};
use e2e::program::Ran;
use e2e::tree::{assert_same, difficult, many, random};
use rustix::process::Signal;

fn source() -> Place {
    let place = Place::new();
    difficult(&place.path("source/difficult"));
    many(&place.path("source/many"), 600);
    place.file("source/large", &random(48 << 20, 1));
    place.mover.ok(&["backup", &place.text("source"), "--as", "/shop/data"]);
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    place
}

fn number(ran: &Ran, key: &str) -> u64 {
    ran.json(key).as_u64().unwrap()
}

fn received(ran: &Ran) -> u64 {
    ran.json("requests")["bytes_received"].as_u64().unwrap()
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// What tells whether an entry was touched.
fn identity(path: &Path) -> (u64, i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ino(), meta.ctime(), meta.ctime_nsec())
}

#[test]
fn only_what_differs_is_fetched_and_nothing_else_is_touched() {
    let place = source();
    let (target, untouched) = (place.text("target"), ["many/0000/file-000007", "difficult/link", "difficult/random", "difficult/d"]);
    for mode in ["always", "if-changed"] {
        let before = untouched.map(|name| identity(&place.path("target").join(name)));
        let inode = fs::metadata(place.path("target/large")).unwrap().ino();
        overwrite(&place.path("target/large"), 20 << 20, &random(1 << 20, 2));
        fs::File::options().append(true).open(place.path("target/many/0000/file-000001")).unwrap().write_at(b"longer", 0).unwrap();
        fs::File::options().write(true).open(place.path("target/many/0001/file-000501")).unwrap().set_len(1).unwrap();
        fs::set_permissions(place.path("target/many/0000/file-000002"), fs::Permissions::from_mode(0o666)).unwrap();
        xattr::set(place.path("target/many/0000/file-000003"), "user.new", b"x").unwrap();
        std::os::unix::fs::chown(place.path("target/many"), Some(77), None).unwrap();
        fs::remove_file(place.path("target/many/0000/file-000004")).unwrap();
        fs::remove_file(place.path("target/difficult/dangling")).unwrap();
        symlink("elsewhere", place.path("target/difficult/dangling")).unwrap();
        let restore = ["--json", "restore", "latest", &target, "--overwrite", mode];
        let plan = place.mover.ok(&[&restore[..], &["--dry-run"]].concat());
        assert!(plan.lines("difference").iter().any(|line| line["path"] == "large" && line["change"] == "content"), "{plan:?}");
        let ran = place.mover.ok(&restore);
        assert_same(&place.path("source"), &place.path("target"));
        assert_eq!(before, untouched.map(|name| identity(&place.path("target").join(name))), "{mode}");
        assert_eq!(inode, fs::metadata(place.path("target/large")).unwrap().ino());
        // Two chunks at most were hit, of 8 MiB at most.
        let fetched = number(&ran, "bytes_to_fetch");
        assert!(fetched < 17 << 20 && number(&ran, "bytes_in_place") >= 32 << 20, "{mode}: {ran:?}");
        assert_eq!((number(&plan, "bytes_to_fetch"), number(&plan, "files_restored")), (fetched, number(&ran, "files_restored")));
        assert!(received(&ran) < fetched + (4 << 20), "{ran:?}");
    }
    // Nothing differs any more. (A file with several names is written anew where content is not believed.)
    for (mode, fetched) in [("if-changed", 0), ("always", 1)] {
        let ran = place.mover.ok(&["--json", "restore", "latest", &target, "--overwrite", mode, "--verify"]);
        assert_eq!((number(&ran, "pack_requests"), number(&ran, "files_restored")), (fetched, fetched), "{ran:?}");
    }
    assert_same(&place.path("source"), &place.path("target"));
}

#[test]
fn other_names_of_a_file_keep_what_they_have() {
    let place = source();
    fs::hard_link(place.path("target/large"), place.path("other-name")).unwrap();
    overwrite(&place.path("target/large"), 0, b"changed");
    place.mover.ok(&["restore", "latest", &place.text("target"), "--overwrite", "if-changed"]);
    assert!(fs::read(place.path("other-name")).unwrap().starts_with(b"changed"));
    assert_same(&place.path("source"), &place.path("target"));
    // A program that runs cannot be written to: it is replaced.
    fs::copy("/bin/sleep", place.path("source/sleep")).unwrap();
    place.mover.ok(&["backup", &place.text("source"), "--as", "/shop/data"]);
    fs::copy("/bin/sleep", place.path("target/sleep")).unwrap();
    let mut running = std::process::Command::new(place.path("target/sleep")).arg("60").spawn().unwrap();
    place.mover.ok(&["restore", "latest", &place.text("target"), "--overwrite", "always"]);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_same(&place.path("source"), &place.path("target"));
}

#[test]
fn of_a_device_only_other_blocks_are_written() {
    let place = Place::new();
    let image = random(64 << 20, 1);
    place.file("disk", &image);
    place.mover.ok(&["backup", "--block", &place.text("disk"), "--as", "/vm/root"]);
    place.file("device", &image);
    overwrite(&place.path("device"), (33 << 20) + 5, b"changed");
    let device = Loop::new(&place.path("device"));
    let restore = ["--json", "restore", "latest", &device.0];
    let ran = place.mover.ok(&[&restore[..], &["--overwrite", "always"]].concat());
    assert_eq!((number(&ran, "bytes_restored"), number(&ran, "bytes_in_place")), (4 << 20, 60 << 20), "{ran:?}");
    assert!(number(&ran, "bytes_to_fetch") < 5 << 20);
    let whole = place.mover.ok(&restore);
    assert_eq!(number(&whole, "bytes_restored"), 64 << 20, "without being asked it is not read");
    drop(device);
    assert!(fs::read(place.path("device")).unwrap() == image);
}

#[test]
fn what_the_snapshot_does_not_have_goes() {
    let place = source();
    let (target, outside) = (place.path("target"), place.path("outside"));
    place.file("outside/precious", b"precious");
    place.file("target/extra", b"extra");
    place.file("target/many/extra/deep/er", b"extra");
    symlink(&outside, target.join("extra-link")).unwrap();
    symlink(&outside, target.join("many/extra/link")).unwrap();
    drop(UnixListener::bind(target.join("many/socket")).unwrap());
    place.file("target/lost+found/what-fsck-found", b"kept");
    place.file("target/many/keep.me", b"excluded");
    place.file("target/many/extra/keep.me", b"excluded");
    // Of another kind on either side.
    fs::remove_file(target.join("large")).unwrap();
    place.file("target/large/was/a/file", b"a directory");
    fs::remove_dir_all(target.join("difficult/a")).unwrap();
    place.file("target/difficult/a", b"a file");
    let before = e2e::tree::manifest(&target);
    let restore = ["--json", "restore", "latest", &place.text("target"), "--overwrite", "if-changed", "--delete", "--exclude", "keep.me"];
    let plan = place.mover.ok(&[&restore[..], &["--dry-run"]].concat());
    let mut gone: Vec<_> = plan
        .lines("difference")
        .iter()
        .filter(|line| line["change"] == "removed")
        .map(|line| line["path"].as_str().unwrap().to_owned())
        .collect();
    gone.sort();
    let in_extra = ["many/extra/deep", "many/extra/deep/er", "many/extra/link"];
    let in_place = ["difficult/a", "large", "large/was", "large/was/a", "large/was/a/file"];
    let mut expected = [&["extra", "extra-link"][..], &in_extra, &in_place[1..]].concat();
    expected.sort_unstable();
    assert_eq!(gone, expected, "{plan:?}");
    assert!(plan.lines("difference").iter().any(|line| line["path"] == "difficult/a" && line["change"] == "kind"), "{plan:?}");
    assert_eq!(before, e2e::tree::manifest(&target), "a plan changes nothing");
    let ran = place.mover.ok(&restore);
    assert_eq!((number(&ran, "deleted"), number(&plan, "deleted")), (9, 9), "{ran:?}");
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read(target.join("lost+found/what-fsck-found")).unwrap(), b"kept");
    for kept in ["many/keep.me", "many/extra/keep.me"] {
        assert_eq!(fs::read(target.join(kept)).unwrap(), b"excluded");
    }
    place.mover.ok(&restore[..restore.len() - 2]);
    fs::remove_dir_all(target.join("lost+found")).unwrap();
    // No snapshot has sockets.
    fs::remove_file(target.join("many/socket")).unwrap();
    place.mover.ok(&["restore", "latest", &place.text("target"), "--overwrite", "if-changed"]);
    assert_same(&place.path("source"), &target);
    // Of what is not restored, nothing goes.
    place.file("target/extra", b"extra");
    place.file("target/many/extra", b"extra");
    let part = ["restore", "latest", &place.text("target"), "--overwrite", "if-changed", "--delete", "--include", "many"];
    place.mover.ok(&part);
    assert!(target.join("extra").exists() && target.join("difficult").exists() && !target.join("many/extra").exists());
}

#[test]
fn what_must_not_go_stays() {
    let place = source();
    let target = place.text("target");
    let restore = |args: &[&str]| place.mover.run(&[&["restore", "latest", &target], args].concat());
    assert_refused(&restore(&["--delete"]), 1, "--overwrite <OVERWRITE>");
    assert_refused(&restore(&["--delete", "--overwrite", "never"]), 1, "--overwrite never does not");
    let of_file = ["restore", "latest:/shop/data/large", &target, "--overwrite", "always", "--delete"];
    assert_refused(&place.mover.run(&of_file), 1, "what is to be restored is one file");
    // Another file system within.
    let mounted = Mounted::tmpfs(&place.path("target/extra/mounted"), "1m");
    place.file("target/extra/mounted/precious", b"precious");
    let ran = restore(&["--delete", "--overwrite", "if-changed"]);
    assert_refused(&ran, 3, "another file system is mounted");
    assert!(place.path("target/extra/mounted/precious").exists());
    drop(mounted);
    fs::remove_dir_all(place.path("target/extra")).unwrap();
    // At a directory of the snapshot, also of the same file system.
    let mounted = Mounted::tmpfs(&place.path("target/many/0001"), "1m");
    place.file("target/many/0001/precious", b"precious");
    let bound = Mounted::bind(&place.path("other"), &place.path("target/many/0000"));
    place.file("other/precious", b"precious");
    assert_eq!(restore(&["--delete", "--overwrite", "if-changed"]).code, 0);
    assert!(place.path("target/many/0001/precious").exists() && place.path("other/precious").exists());
    drop((mounted, bound));
    place.mover.ok(&["restore", "latest", &target, "--overwrite", "if-changed", "--delete"]);
    assert_same(&place.path("source"), &place.path("target"));
    // After an error nothing goes: what is damaged may have another name there.
    place.file("target/extra", b"extra");
    fs::remove_file(place.path("target/large")).unwrap();
    let largest = place.packs().pop().unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    fs::set_permissions(&largest, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&largest, bytes).unwrap();
    let ran = restore(&["--delete", "--overwrite", "if-changed", "--json"]);
    assert_eq!((ran.code, number(&ran, "deleted"), number(&ran, "extras_kept")), (3, 0, 1), "{ran:?}");
    assert!(place.path("target/extra").exists());
    // What a lost blob would be needed for is left as it is, though it is not what the snapshot says.
    fs::write(place.path("target/difficult/plain.txt"), b"changed").unwrap();
    place.mover.ok(&["repair", "packs", "--apply"]);
    let ran = restore(&["--overwrite", "always", "--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let lost = ran.lines("item");
    assert!(lost.iter().any(|item| item["path"] == "many/0000/file-000007") || lost.iter().any(|item| item["path"] == "large"), "{ran:?}");
    let is_there = |item: &&serde_json::Value| place.path("target").join(item["path"].as_str().unwrap()).exists();
    assert!(lost.iter().filter(is_there).count() + 1 >= lost.len(), "only the large one was gone before: {ran:?}");
    // A snapshot of nothing.
    fs::create_dir(place.path("empty")).unwrap();
    place.mover.ok(&["backup", &place.text("empty"), "--allow-empty"]);
    assert_refused(&restore(&["--delete", "--overwrite", "always"]), 1, "would remove all");
    assert!(place.path("target/extra").exists());
}

#[test]
fn what_the_backup_left_out_says_nothing() {
    let place = Place::new();
    many(&place.path("source"), 10);
    place.file("source/cache/file", b"left out");
    place.file("source/0000/x.tmp", b"left out");
    // As the source is called, not as it is stored.
    let cache = place.text("source/cache");
    place.mover.ok(&["backup", &place.text("source"), "--as", "/shop/data", "--exclude", &cache, "--exclude", "*.tmp"]);
    let listed = place.mover.ok(&["ls", "latest"]).stdout;
    assert!(listed.contains("file-000001") && !listed.contains("cache") && !listed.contains(".tmp"), "{listed}");
    place.file("source/extra", b"extra");
    let restore = ["restore", "latest", &place.text("source"), "--overwrite", "if-changed", "--delete"];
    place.mover.ok(&restore);
    assert!(place.path("source/cache/file").exists() && place.path("source/0000/x.tmp").exists() && !place.path("source/extra").exists());
    // Beside what was saved nothing is known either.
    place.file("shop/other/precious", b"precious");
    place.mover.ok(&["restore", "latest:/shop", &place.text("shop"), "--overwrite", "if-changed", "--delete"]);
    assert!(place.path("shop/other/precious").exists() && place.path("shop/data/0000/file-000001").exists());
    place.mover.ok(&["tag", "--add", "estiba:incomplete", "latest"]);
    assert_refused(&place.mover.run(&restore), 1, "the snapshot lacks items");
}

#[test]
fn a_link_where_a_directory_was_is_not_asked_about() {
    let place = source();
    fs::rename(place.path("target/many"), place.path("moved")).unwrap();
    symlink(place.path("moved"), place.path("target/many")).unwrap();
    place.mover.ok(&["restore", "latest", &place.text("target"), "--overwrite", "always", "--include", "plain.txt"]);
    assert!(fs::symlink_metadata(place.path("target/many")).unwrap().is_symlink());
}

#[test]
fn one_that_was_killed_is_made_whole_by_the_next() {
    let place = source();
    for round in 0..4_u64 {
        overwrite(&place.path("target/large"), 0, &random(48 << 20, 10 + round));
        fs::remove_dir_all(place.path("target/many")).unwrap();
        place.file("target/many/extra", b"extra");
        let args = ["restore", "latest", &place.text("target"), "--overwrite", "if-changed", "--delete"];
        let mut running = place.mover.start_unheard(&args);
        e2e::eventually("a file", || place.path("target/many/0000").exists());
        std::thread::sleep(Duration::from_millis(20 * round));
        running.signal(Signal::KILL);
        running.wait();
        place.mover.ok(&args);
        assert_same(&place.path("source"), &place.path("target"));
        place.mover.ok(&["unlock", "--remove-all"]);
    }
}
