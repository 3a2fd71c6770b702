//! rustic, a third implementation of the format, reads ours, and we read its.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use e2e::place::Place;
use e2e::program::{PASSWORD, Program, Ran, restic, tool};
use e2e::tree::{assert_same, difficult, many};

fn rustic(place: &Place, args: &[&str]) -> Ran {
    let environment =
        [("RUSTIC_REPOSITORY", place.text("repository")), ("RUSTIC_PASSWORD", PASSWORD.to_owned()), ("RUSTIC_NO_CACHE", "true".to_owned())];
    let program = environment.into_iter().fold(Program::new(tool("rustic")), |program, (name, value)| program.env(name, value));
    program.env("HOME", place.text("home")).ok(args)
}

#[test]
#[ignore = "rustic takes a quarter of an hour to build: make nightly"]
fn rustic_reads_what_we_write_and_we_read_what_it_writes() {
    let place = Place::new();
    difficult(&place.path("source"));
    many(&place.path("source/many"), 500);
    place.mover.ok(&["backup", &place.text("source"), "--as", "/data"]);
    rustic(&place, &["check", "--read-data"]);
    rustic(&place, &["restore", "latest:/data", &place.text("theirs")]);
    let count = |at: &Path| e2e::tree::manifest(at).len();
    assert_eq!(count(&place.path("source")), count(&place.path("theirs")));
    let differs =
        Command::new("diff").args(["-r", "--no-dereference", &place.text("source/many"), &place.text("theirs/many")]).output().unwrap();
    assert!(differs.status.success(), "{}", String::from_utf8_lossy(&differs.stdout));
    // Its own backup, on top of ours and in the same repository.
    rustic(&place, &["backup", &place.text("source"), "--host", "rustic"]);
    place.is_sound();
    restic("restic-new", place.path("repository")).ok(&["check", "--read-data"]);
    place.mover.ok(&["restore", "latest", &place.text("ours"), "--host", "rustic", "--path", &place.text("source"), "--verify"]);
    assert_same(&place.path("source/many"), &place.path("ours/many"));
    // And ours on top of its, with its snapshot as parent.
    let again = place.mover.ok(&["backup", &place.text("source"), "--host", "rustic", "--json"]);
    assert_eq!(again.json("data_blobs"), 0, "{again:?}");
}
