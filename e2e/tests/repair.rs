//! `mover repair packs`, `repair snapshots` and `rewrite`, with stock restic as the judge of what they leave.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::place::{Place, assert_refused};
use e2e::program::{RESTICS, restic};
use e2e::tree::{assert_same, random};

/// Two nights of some files; the newer one has one file more.
fn two_nights() -> Place {
    let place = Place::new();
    for i in 0..20_u64 {
        place.file(&format!("source/files/{i}"), &random(300_000, i));
        place.file(&format!("source/cache/{i}.tmp"), &random(10_000, 100 + i));
    }
    place.mover.ok(&["backup", &place.text("source")]);
    place.file("source/files/new", &random(300_000, 99));
    place.mover.ok(&["backup", &place.text("source")]);
    place
}

#[test]
fn what_is_left_after_a_damage_is_sound_to_restic_and_to_us() {
    for version in RESTICS {
        let place = two_nights();
        let stock = restic(version, place.text("repository"));
        let largest = place.packs().pop().unwrap();
        fs::set_permissions(&largest, fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = fs::read(&largest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&largest, bytes).unwrap();
        // Only said at first, and nothing is to be repaired in snapshots as long as the index believes in it.
        let ran = place.mover.ok(&["--json", "repair", "packs"]);
        assert_eq!((ran.json("packs_damaged"), ran.json("blobs_lost"), ran.json("dry_run")), (1.into(), 1.into(), true.into()));
        assert!(largest.exists());
        let name = largest.file_name().unwrap().to_str().unwrap();
        place.mover.ok(&["repair", "packs", &name[..10], "--apply"]);
        assert!(!largest.exists());
        let ran = place.mover.ok(&["--json", "repair", "snapshots"]);
        assert_eq!((ran.json("changed"), ran.json("left_out"), ran.json("saved")), (2.into(), 2.into(), serde_json::json!([])));
        let lost = ran.lines("item")[0]["path"].as_str().unwrap().split_once("/source/").unwrap().1.to_owned();
        place.mover.ok(&["repair", "snapshots", "--apply", "--forget"]);
        stock.ok(&["check", "--read-data"]);
        place.is_sound();
        // All but that file.
        place.mover.ok(&["verify", "latest"]);
        stock.ok(&["restore", "latest", "--target", &place.text("target")]);
        let restored = place.path("target").join(place.text("source").trim_start_matches('/'));
        let count = |folder: &str| fs::read_dir(restored.join(folder)).unwrap().count();
        assert!(!restored.join(&lost).exists() && count("files") + count("cache") == 40, "{lost}");
        // What the source still has comes back with the next backup, whole.
        place.mover.ok(&["backup", &place.text("source")]);
        place.mover.ok(&["restore", "latest", &place.text("again")]);
        assert_same(&place.path("source"), &place.path("again"));
        stock.ok(&["check", "--read-data"]);
    }
}

#[test]
fn a_snapshot_without_some_of_its_files() {
    let place = two_nights();
    let stock = restic(RESTICS[0], place.text("repository"));
    let dry = place.mover.ok(&["--json", "rewrite", "--exclude", "*.tmp", "--dry-run"]);
    assert_eq!((dry.json("changed"), dry.json("left_out"), dry.json("saved")), (2.into(), 40.into(), serde_json::json!([])));
    assert_eq!(place.snapshots(), 2);
    // The old ones stay, unless they are to go; and so does what has nothing of it.
    let ran = place.mover.ok(&["--json", "rewrite", "--exclude", "/nowhere/*", "--exclude", "*.tmp"]);
    assert_eq!((place.snapshots(), ran.json("saved").as_array().unwrap().len()), (4, 2));
    for pair in ran.json("saved").as_array().unwrap() {
        place.mover.ok(&["forget", pair[0].as_str().unwrap()]);
    }
    let again = place.mover.ok(&["--json", "rewrite", "--exclude", "*.tmp", "--forget"]);
    assert_eq!((again.json("snapshots"), again.json("changed"), place.snapshots()), (2.into(), 0.into(), 2));
    let newer = place.mover.ok(&["--json", "rewrite", "latest", "--exclude", "files/0", "--forget"]);
    assert_eq!((newer.json("left_out"), place.snapshots()), (1.into(), 2));
    stock.ok(&["check", "--read-data"]);
    place.is_sound();
    let listed = stock.ok(&["ls", "latest"]).stdout;
    assert!(listed.contains("/source/files/new") && listed.contains("/source/cache\n"), "{listed}");
    assert!(!listed.contains(".tmp\n") && !listed.contains("files/0\n"), "{listed}");
    stock.ok(&["prune"]);
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    for i in 1..20 {
        let file = format!("files/{i}");
        assert!(fs::read(place.path("target").join(&file)).unwrap() == fs::read(place.path("source").join(&file)).unwrap());
    }
}

#[test]
fn what_cannot_be_repaired_or_rewritten_is_said() {
    let place = two_nights();
    assert_refused(&place.mover.run(&["repair", "packs", "0123456789"]), 1, "0 packs that an index file names have ids that begin with");
    assert_refused(&place.mover.run(&["repair", "snapshots", "0123456789"]), 1, "no snapshot matches");
    assert_refused(&place.mover.run(&["repair", "snapshots", "--forget"]), 1, "--apply");
    assert_refused(&place.mover.run(&["rewrite"]), 1, "--exclude");
    assert_refused(&place.mover.run(&["rewrite", "--exclude", "["]), 1, "exclude pattern");
    // A pack that is gone is for the index to forget before.
    fs::remove_file(place.packs().pop().unwrap()).unwrap();
    assert_refused(&place.mover.run(&["repair", "snapshots"]), 1, "`mover repair index` comes first");
    // Whole or not, what is healthy says so.
    let place = two_nights();
    assert!(place.mover.ok(&["repair", "packs"]).stdout.contains("nothing to repair"));
    assert!(place.mover.ok(&["repair", "snapshots"]).stdout.contains("2 snapshots lack nothing"));
}
