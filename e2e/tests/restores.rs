//! What a restore does with targets, parts, owners, devices and damage.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use e2e::place::{Loop, Place, as_nobody, assert_refused};
use e2e::program::mover;
use e2e::tree::{assert_same, difficult, manifest, many, random, set_mtime};
use serde_json::json;
use tempfile::tempdir;

#[test]
fn restore_never_makes_a_repository() {
    let dir = tempdir().unwrap();
    let ran = mover(dir.path().join("typo")).run(&["restore", "latest", dir.path().join("target").to_str().unwrap()]);
    assert_refused(&ran, 10, "there is no repository");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
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
    // One level, and in pages that together are the whole.
    let children = place.mover.ok(&["ls", "latest", "/shop/data", "--depth", "1"]).stdout;
    assert!(children.contains("/shop/data/a\n") && !children.contains("/shop/data/a/"), "{children}");
    let pages: String = (0..)
        .map(|page| place.mover.ok(&["ls", "latest", "--skip", &(page * 7).to_string(), "--limit", "7"]).stdout)
        .take_while(|page| !page.is_empty())
        .collect();
    assert_eq!(pages, listed);
    let json = place.mover.ok(&["--json", "ls", "latest", "/shop/data/plain.txt"]).stdout;
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["message_type"], &lines[1]["path"]),
        (2, &"snapshot".into(), &"/shop/data/plain.txt".into()),
        "{json}"
    );
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

#[test]
fn damage_costs_what_it_hits_and_no_more() {
    let place = Place::new();
    for i in 0..20 {
        place.file(&format!("source/file-{i}"), &random(2 << 20, i));
        fs::hard_link(place.path(&format!("source/file-{i}")), place.path(&format!("source/link-{i}"))).unwrap();
    }
    place.mover.ok(&["backup", &place.text("source")]);
    let whole = place.mover.ok(&["--json", "verify", "latest"]).lines("verify_summary").remove(0);
    assert_eq!(
        (&whole["files"], &whole["others"], &whole["bytes"], &whole["errors"]),
        (&json!(20), &json!(20), &json!(40 << 20), &json!(0))
    );
    let packs = place.packs();
    let largest = packs.last().unwrap();
    flip(largest, |length| vec![length / 2]);
    let check = place.mover.run(&["check", "--read-data", "--json"]);
    assert_eq!(check.code, 1);
    assert_eq!(check.json("errors"), 1, "{check:?}");
    // Restored to nowhere, it says the same of what a restore would leave out, and other parts are whole.
    let verify = place.mover.run(&["verify", "latest", "--json"]);
    assert_eq!((verify.code, verify.json("errors")), (1, json!(1)), "{verify:?}");
    let lost = verify.lines("item")[0]["path"].as_str().unwrap().to_owned();
    let part = |path: &str| place.mover.run(&["verify", &format!("latest:{}/{path}", place.text("source"))]).code;
    assert_eq!((0..20).filter(|i| part(&format!("file-{i}")) != 0).count(), 1);
    assert_eq!(part(&lost), 1);
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

/// Flips a bit at each of these.
fn flip(pack: &Path, positions: impl Fn(usize) -> Vec<usize>) {
    fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(pack).unwrap();
    positions(bytes.len()).into_iter().for_each(|at| bytes[at] ^= 1);
    fs::write(pack, bytes).unwrap();
}

#[test]
fn a_damaged_blob_is_read_from_another_copy() {
    let place = Place::new();
    difficult(&place.path("source"));
    let copy = |from: &str, to: &str| {
        assert!(Command::new("cp").args(["-a", &place.text(from), &place.text(to)]).status().unwrap().success());
    };
    // Two runs that did not know of each other have stored everything twice.
    copy("repository", "other");
    place.mover.ok(&["backup", &place.text("source")]);
    let damaged = place.packs();
    mover(place.path("other")).ok(&["backup", &place.text("source")]);
    copy("other/.", "repository");
    // All blobs of every pack of the first: trees and data.
    for pack in damaged {
        flip(&pack, |length| (0..length).step_by(30).collect());
    }
    assert_eq!(place.mover.run(&["check", "--read-data"]).code, 1);
    place.mover.ok(&["restore", "latest", &place.text("target"), "--verify"]);
    assert_same(&place.path("source"), &place.path("target"));
}

#[test]
fn a_restore_without_roots_rights_reads_back_what_it_may_not_read_later() {
    let place = Place::new();
    place.file("source/closed", b"closed");
    fs::set_permissions(place.path("source/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    place.mover.ok(&["backup", &place.text("source")]);
    assert!(Command::new("chown").args(["-R", "65534", &place.text("repository")]).status().unwrap().success());
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let ran = as_nobody(&place, &["restore", "latest", &place.text("target"), "--verify", "--json"]);
    assert_eq!((ran.code, ran.json("bytes_verified")), (0, 6.into()), "{ran:?}");
    assert_eq!(fs::metadata(place.path("target/closed")).unwrap().permissions().mode() & 0o777, 0);
}

#[test]
fn a_file_that_is_kept_is_compared_when_asked() {
    let place = Place::new();
    place.file("source/file", b"right");
    set_mtime(&place.path("source/file"), 1_000_000_000, 0);
    place.mover.ok(&["backup", &place.text("source")]);
    let restore = ["restore", "latest", &place.text("target"), "--overwrite", "if-changed", "--verify"];
    place.mover.ok(&restore);
    place.mover.ok(&restore);
    // The same size and time, other content: what a power cut may leave of a file system that does not order its writes.
    place.file("target/file", b"wrong");
    set_mtime(&place.path("target/file"), 1_000_000_000, 0);
    let ran = place.mover.run(&restore);
    assert!(ran.code == 3 && ran.stderr.contains("was kept, but differs"), "{ran:?}");
}
