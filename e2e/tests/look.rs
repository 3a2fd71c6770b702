//! What looks at snapshots: `diff`, `find`, `stats`, `dump`; and `tag`. Stock restic says the same where it says anything.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::minio::Minio;
use e2e::place::{Place, as_nobody, assert_refused};
use e2e::program::{Program, RESTICS, restic};
use e2e::tree::{assert_same, difficult, many, random};
use serde_json::{Value, json};

/// Two snapshots of one source, and what was done between them.
fn two_snapshots() -> Place {
    let place = Place::new();
    difficult(&place.path("source"));
    for name in ["stays", "grows", "goes", "becomes-a-directory", "changes-mode", "rots"] {
        place.file(&format!("source/{name}"), name.as_bytes());
    }
    place.file("source/folder/goes/with", b"all");
    let backup = |tag: &str| place.mover.ok(&["backup", &place.text("source"), "--as", "/shop/data", "--tag", tag]);
    backup("first");
    place.file("source/grows", b"grows and grows");
    fs::remove_file(place.path("source/goes")).unwrap();
    fs::remove_dir_all(place.path("source/folder/goes")).unwrap();
    fs::remove_file(place.path("source/becomes-a-directory")).unwrap();
    place.file("source/becomes-a-directory/with", b"a file");
    place.file("source/new/deep/er", b"new");
    let before = fs::metadata(place.path("source/rots")).unwrap().modified().unwrap();
    place.file("source/rots", b"ROTS");
    fs::File::options().write(true).open(place.path("source/rots")).unwrap().set_modified(before).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(place.path("source/changes-mode"), fs::Permissions::from_mode(0o600)).unwrap();
    backup("second");
    place
}

fn id(place: &Place, tag: &str) -> String {
    place.mover.ok(&["snapshots", "--tag", tag, "--json"]).json("id").as_str().unwrap().to_owned()
}

#[test]
fn what_differs_is_said_as_restic_says_it() {
    let place = two_snapshots();
    let (first, second) = (id(&place, "first"), id(&place, "second"));
    let lines = |text: &str| -> Vec<String> {
        let entries = text.lines().filter(|line| line.len() > 5 && line[1..].trim_start().starts_with('/'));
        let mut lines: Vec<String> = entries.map(|line| format!("{}  {}", &line[..1], line[2..].trim())).collect();
        lines.sort();
        lines
    };
    let ours = |args: &[&str]| -> Vec<String> {
        let text = place.mover.ok(&[&["diff", &first, &second], args].concat()).stdout;
        let mut lines: Vec<String> = text.lines().filter(|line| line.contains("  /")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let new = restic(RESTICS[1], place.text("repository"));
    let (mut found, stock) = (ours(&[]), new.ok(&["diff", &first, &second]).stdout);
    let with_metadata = ours(&["--metadata"]);
    assert!(found.iter().all(|line| with_metadata.contains(line)) && with_metadata.contains(&"U  /shop/data/changes-mode".to_owned()));
    // Restic says nothing of what is in a directory that was a file, nor that a content changed behind its time.
    let in_it = found.iter().position(|line| line == "+  /shop/data/becomes-a-directory/with").unwrap();
    found.remove(in_it);
    let mut stock = lines(&stock);
    stock.iter_mut().filter(|line| line.ends_with("/rots")).for_each(|line| line.replace_range(..1, "?"));
    stock.sort();
    assert_eq!(found, stock);
    let json = place.mover.ok(&["--json", "diff", &first, &second]);
    assert_eq!(json.json("added"), json!({"files": 2, "dirs": 2, "others": 0, "bytes": 9}), "{json:?}");
    assert_eq!(json.json("removed"), json!({"files": 2, "dirs": 1, "others": 0, "bytes": 7}), "{json:?}");
    assert_eq!(json.json("changed"), json!({"files": 2, "dirs": 1, "others": 0, "bytes": 19}), "{json:?}");
    // Parts; and nothing differs from itself.
    let part = |args: &[&str]| place.mover.ok(&[&["--json", "diff"], args].concat()).lines("difference");
    let below = part(&[&format!("{first}:/shop/data/folder"), "latest:/shop/data/folder"]);
    let paths: Vec<&Value> = below.iter().map(|line| &line["path"]).collect();
    assert_eq!(paths, [&json!("/goes"), &json!("/goes/with")]);
    assert!(part(&["latest", "latest"]).is_empty());
    assert_refused(&place.mover.run(&["diff", "latest", &format!("{first}:/shop/data/stays")]), 1, "is not a directory");
    assert_refused(&place.mover.run(&["diff", "latest", "0123456789abcdef"]), 1, "no snapshot matches");
}

#[test]
fn files_are_found_in_every_snapshot_that_has_them() {
    let place = two_snapshots();
    let found = |args: &[&str]| {
        let ran = place.mover.ok(&[&["--json", "find"], args].concat());
        let paths: Vec<String> = ran.lines("node").iter().map(|node| node["path"].as_str().unwrap().to_owned()).collect();
        (paths, ran.json("snapshots"), ran.json("with_matches"))
    };
    let goes = ["/shop/data/folder/goes", "/shop/data/goes"].map(str::to_owned).to_vec();
    assert_eq!(found(&["goes"]), (goes.clone(), 2.into(), 1.into()));
    assert_eq!(found(&["goes", "--tag", "second"]), (Vec::new(), 1.into(), 0.into()));
    assert_eq!(found(&["goes", "--snapshot", &id(&place, "first")]), (goes, 1.into(), 1.into()));
    assert_eq!(found(&["/shop/*/stays", "er"]).0, ["/shop/data/new/deep/er", "/shop/data/stays", "/shop/data/stays"]);
    let text = place.mover.ok(&["find", "--long", "changes-mode"]).stdout;
    let (newest, oldest) = (text.find("-rw-------").unwrap(), text.find("-rw-r--r--").unwrap());
    assert!(newest < oldest && text.ends_with("2 entries in 2 of 2 snapshots\n"), "{text}");
    // What restic finds, we find. (It finds all that is in a directory that matches, too.)
    for pattern in ["*", "stays", "*.txt", "[m-z]*s"] {
        let stock = restic(RESTICS[1], place.text("repository")).ok(&["find", "--json", pattern]).stdout;
        let stock: Value = serde_json::from_str(&stock).unwrap();
        let count: u64 = stock.as_array().unwrap().iter().map(|snapshot| snapshot["hits"].as_u64().unwrap()).sum();
        let ours = place.mover.ok(&["--json", "find", pattern]);
        assert_eq!(ours.json("matches"), count, "{pattern}");
    }
}

#[test]
fn what_is_stored_is_counted_as_restic_counts_it() {
    let place = two_snapshots();
    place.file("source/large", &random(5 << 20, 1));
    place.file("source/again", &random(5 << 20, 1));
    place.mover.ok(&["backup", &place.text("source"), "--as", "/shop/data", "--tag", "third"]);
    let stock =
        |mode: &str, args: &[&str]| restic(RESTICS[1], place.text("repository")).ok(&[&["stats", "--json", "--mode", mode], args].concat());
    for chosen in [&[][..], &["latest"]] {
        let ours = place.mover.ok(&[&["--json", "stats"], chosen].concat());
        let raw = stock("raw-data", chosen);
        let (data, trees) = (ours.json("data"), ours.json("trees"));
        let sum = |key: &str| data[key].as_u64().unwrap() + trees[key].as_u64().unwrap();
        assert_eq!(raw.json("total_size"), sum("bytes_stored"), "{chosen:?} {ours:?}");
        // It counts what sealing adds.
        assert_eq!(raw.json("total_uncompressed_size"), sum("bytes") + 32 * sum("count"), "{chosen:?}");
        assert_eq!(raw.json("total_blob_count"), sum("count"), "{chosen:?}");
        assert_eq!(ours.json("blobs_lost"), 0);
    }
    let ours = place.mover.ok(&["--json", "stats", "latest"]).json("restored");
    let sizes: u64 = place.mover.ok(&["--json", "ls", "latest"]).lines("node").iter().map(|node| node["size"].as_u64().unwrap()).sum();
    assert_eq!(ours["bytes"], sizes);
    let text = place.mover.ok(&["stats"]).stdout;
    assert!(text.contains("snapshots  3\n") && text.contains(" : 1)"), "{text}");
}

#[test]
fn tags_change_and_nothing_else_does() {
    let place = two_snapshots();
    let (first, second) = (id(&place, "first"), id(&place, "second"));
    let tag = |args: &[&str]| place.mover.ok(&[&["--json", "tag"], args].concat()).json("saved");
    let saved = tag(&["--add", "keep,me", &first]);
    assert_eq!(saved.as_array().unwrap().len(), 1);
    let now = id(&place, "keep");
    assert_eq!(saved, json!([[first, now]]));
    assert_eq!(tag(&["--add", "me", &now]), json!([]), "it has it");
    tag(&["--set", "", "--tag", "second"]);
    tag(&["--remove", "first", "--tag", "keep"]);
    assert_eq!(place.snapshots(), 2);
    for version in RESTICS {
        let stock = restic(version, place.text("repository"));
        let all: Value = serde_json::from_str(&stock.ok(&["snapshots", "--json"]).stdout).unwrap();
        let of = |i: usize, key: &str| all[i].get(key).cloned().unwrap_or(Value::Null);
        assert_eq!((of(0, "tags"), of(0, "original")), (json!(["keep", "me"]), json!(first)));
        assert_eq!((of(1, "tags"), of(1, "original")), (Value::Null, json!(second)));
        // What restic changes, and has of its own, stays when we change it.
        stock.ok(&["tag", "--add", version, "latest"]);
        tag(&["--remove", version, "--tag", version]);
    }
    assert_refused(&place.mover.run(&["tag", "latest"]), 1, "--add <TAG>");
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert_same(&place.path("source"), &place.path("target"));
    restic(RESTICS[0], place.text("repository")).ok(&["check"]);
}

/// Dumps to a file, and has tar unpack it.
fn dump_to_tar(mover: &Program, args: &[&str], into: &Path) {
    fs::create_dir_all(into).unwrap();
    let archive = into.with_extension("tar");
    let dump = mover.command(&[&["dump"], args].concat()).stdout(fs::File::create(&archive).unwrap()).output().unwrap();
    assert!(dump.status.success(), "{dump:?}");
    let flags = ["-x", "-p", "--same-owner", "--xattrs", "--xattrs-include=*", "-f"];
    let tar = Command::new("tar").args(flags).arg(archive).arg("-C").arg(into).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
}

#[test]
fn a_directory_is_dumped_as_an_archive_that_tar_restores() {
    let (place, minio) = (Place::new(), Minio::start());
    let mover = minio.mover("dump");
    mover.ok(&["init"]);
    difficult(&place.path("source/difficult"));
    many(&place.path("source/many"), 2000);
    place.file("source/large", &random(200 << 20, 1));
    place.file("source/repeated", &random(64 << 10, 2).repeat(200));
    mover.ok(&["backup", &place.text("source"), "--as", "/shop/data"]);
    dump_to_tar(&mover, &["latest"], &place.path("whole"));
    assert_same(&place.path("source"), &place.path("whole"));
    dump_to_tar(&mover, &["latest", "/shop/data/many/0001"], &place.path("part"));
    assert_same(&place.path("source/many/0001"), &place.path("part"));
    // A file is dumped as it is.
    for name in ["large", "repeated", "many/0001/file-000777"] {
        let dumped = mover.command(&["dump", "latest", &format!("/shop/data/{name}")]).output().unwrap();
        assert!(dumped.status.success() && dumped.stdout == fs::read(place.path("source").join(name)).unwrap(), "{name}");
    }
    // A reader that goes ends it, however much is on its way, and the lock is gone.
    let mut dump = mover.clone().arg("--memory").arg("128MiB").command(&["dump", "latest", "/shop/data/large"]).spawn().unwrap();
    dump.stdout.as_mut().unwrap().read_exact(&mut [0; 100_000]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    drop(dump.stdout.take());
    let ended = dump.wait_with_output().unwrap();
    assert!(!ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains("Broken pipe"), "{ended:?}");
    assert_refused(&mover.run(&["dump", "latest", "/shop/data/no"]), 1, "no snapshot matches path");
    assert_eq!(mover.run(&["dump", "latest", "--json"]).json("code"), 1);
    minio.restic(RESTICS[1], "dump").ok(&["prune"]);
}

#[test]
fn what_is_lost_is_not_dumped_as_if_it_were_there() {
    let place = Place::new();
    for i in 0..8 {
        place.file(&format!("source/{i}"), &random(1 << 20, i));
    }
    place.mover.ok(&["backup", &place.text("source"), "--as", "/data"]);
    let largest = place.packs().pop().unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&largest).unwrap();
    fs::File::create(&largest).unwrap().write_all(&bytes).unwrap();
    // Met in the middle, it ends the archive before its end.
    let ran = place.mover.run(&["dump", "latest"]);
    assert_refused(&ran, 1, "damaged");
    // Known before, it costs the file and no other.
    place.mover.ok(&["repair", "packs", "--apply"]);
    let dump = place.mover.command(&["dump", "latest"]).output().unwrap();
    assert_eq!(dump.status.code(), Some(3), "{}", String::from_utf8_lossy(&dump.stderr));
    let mut tar = Command::new("tar").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&dump.stdout).unwrap();
    assert_eq!(String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap().lines().count(), 1 + 7);
}

/// Where only reading is allowed, and where somebody who was alone has left a lock behind.
#[test]
fn whoever_only_reads_may_go_without_a_lock() {
    use std::os::unix::fs::PermissionsExt;
    let place = two_snapshots();
    assert!(Command::new("chmod").args(["-R", "a+rX", &place.text("repository")]).status().unwrap().success());
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_refused(&as_nobody(&place, &["snapshots"]), 1, "--no-lock");
    assert_refused(&as_nobody(&place, &["backup", &place.text("source")]), 1, "cannot write locks/");
    let target = place.text("target");
    let restore = ["restore", "latest:/shop/data/new", &target, "--verify"];
    for command in [&["snapshots"][..], &["check", "--read-data"], &["ls", "latest"], &["verify", "latest"], &restore] {
        let ran = as_nobody(&place, &[command, &["--no-lock"]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(fs::read(place.path("target/deep/er")).unwrap(), b"new");
    assert_eq!(place.locks(), 0);
    let mut running = place.mover.clone().arg("--limit-download").arg("1KiB").start(&["prune", "--max-unused", "0"]);
    e2e::eventually("its lock", || place.locks() == 1);
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    assert_refused(&place.mover.run(&["snapshots"]), 11, "--no-lock");
    place.mover.ok(&["snapshots", "--no-lock"]);
    assert_refused(&place.mover.run(&["backup", &place.text("source"), "--no-lock"]), 1, "commands that only read");
    assert_eq!(place.snapshots(), 2);
}
