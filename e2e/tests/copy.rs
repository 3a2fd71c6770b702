//! `mover copy`: between stores of any kind, with stock restic on either side.
#![allow(clippy::unwrap_used, clippy::panic)]

use e2e::minio::{Minio, credentials};
use e2e::place::{Place, assert_refused};
use e2e::program::{PASSWORD, RESTICS, mover, restic};
use e2e::tree::{assert_same, difficult, random};

fn source() -> Place {
    let place = Place::new();
    difficult(&place.path("source/difficult"));
    for i in 0..10 {
        place.file(&format!("source/files/{i}"), &random(3 << 20, i));
    }
    place.mover.ok(&["backup", &place.text("source"), "--tag", "first"]);
    place.file("source/files/new", &random(3 << 20, 99));
    place.mover.ok(&["backup", &place.text("source"), "--tag", "second"]);
    place
}

#[test]
fn to_minio_and_from_there_with_restic_on_either_side() {
    let (place, minio) = (source(), Minio::start());
    let there = minio.mover("copies");
    let from = place.text("repository");
    let args = ["--from-repository", &from];
    there.clone().env("MOVER_FROM_PASSWORD", PASSWORD).ok(&[&["init", "--copy-chunker-params"], &args[..]].concat());
    let with_password = there.clone().env("MOVER_FROM_PASSWORD", PASSWORD);
    let dry = with_password.ok(&[&["--json", "copy", "--dry-run"], &args[..]].concat());
    assert_eq!((dry.json("snapshots_copied"), dry.json("saved")), (2.into(), serde_json::json!([])));
    let one = with_password.ok(&[&["--json", "copy", "--tag", "first"], &args[..]].concat());
    assert_eq!((one.json("snapshots_copied"), one.json("snapshots_known")), (1.into(), 0.into()));
    let other = with_password.ok(&[&["--json", "copy"], &args[..]].concat());
    assert_eq!((other.json("snapshots_copied"), other.json("snapshots_known")), (1.into(), 1.into()));
    assert!(other.json("bytes").as_u64().unwrap() < 4 << 20, "only what is new is sent: {other:?}");
    // Both cut alike: a backup there finds all of it.
    let again = there.ok(&["--json", "backup", &place.text("source")]);
    assert_eq!(again.json("data_blobs"), 0);
    for version in RESTICS {
        minio.restic(version, "copies").ok(&["check", "--read-data"]);
    }
    there.ok(&["restore", "latest", &place.text("target")]);
    assert_same(&place.path("source"), &place.path("target"));
    // And back, by restic, to where restic knows them again.
    let back = restic(RESTICS[1], place.text("back"));
    back.ok(&["init"]);
    let back = credentials(mover(place.path("back"))).env("MOVER_FROM_PASSWORD", PASSWORD);
    let copied = back.ok(&["--json", "copy", "--from-repository", &minio.location("copies")]);
    assert_eq!(copied.json("snapshots_copied"), 3);
    restic(RESTICS[0], place.text("back")).ok(&["check", "--read-data"]);
}

#[test]
fn what_cannot_be_copied_is_said() {
    let (place, other) = (source(), Place::new());
    let from = place.text("repository");
    let copy = |args: &[&str]| other.mover.run(&[&["copy"], args].concat());
    assert_refused(&copy(&[]), 1, "no repository was named");
    assert_refused(&copy(&["--from-repository", &from]), 1, "no password was given");
    let other = Place { mover: other.mover.clone().env("RESTIC_FROM_PASSWORD", "wrong"), ..other };
    assert_refused(&other.mover.run(&["copy", "--from-repo", &from]), 12, "");
    let other = Place { mover: other.mover.clone().env("MOVER_FROM_PASSWORD", PASSWORD), ..other };
    assert_refused(&other.mover.run(&["copy", "--from-repo", &place.text("nothing")]), 10, "");
    assert_refused(&other.mover.run(&["copy", "--from-repo", &from, "0123456789"]), 1, "no snapshot matches");
    assert_refused(&other.mover.run(&["copy", "--from-repo", &other.text("repository")]), 1, "that is one repository");
    assert_eq!((other.locks(), place.locks(), other.snapshots()), (0, 0, 0));
}
