//! Faults on one machine: each ends with an error that names the thing and the next step, nothing lost.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::time::{Duration, Instant};

use e2e::eventually;
use e2e::place::{Mounted, Place, assert_refused};
use e2e::program::{Program, built, mover, restic};
use e2e::tree::{assert_same, many, random};
use rustix::process::Signal;

#[test]
fn repositories_that_cannot_be_opened() {
    let place = Place::new();
    let wrong = place.mover.clone().env("MOVER_PASSWORD", "wrong");
    assert_refused(&wrong.run(&["snapshots"]), 12, "wrong password: none of the 1 keys");
    assert_refused(&mover(place.path("nothing")).run(&["snapshots"]), 10, "there is no repository");
    assert_refused(&place.mover.run(&["init"]), 1, "config is there already");
    assert_refused(&mover(place.path("typo/repository")).run(&["init"]), 1, "typo");
    assert!(!place.path("typo").exists());
    let nobody = Program::new(built("mover"));
    assert_refused(&nobody.run(&["snapshots"]), 1, "no repository was named");
    let json = wrong.run(&["snapshots", "--json"]);
    assert_eq!((json.code, json.json("code").as_u64()), (12, Some(12)));
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
        assert_refused(&ran, 130, "what was done is whole; run it again to go on");
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
