//! A backup that is interrupted keeps what is done, and the next one goes on from there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::time::{Duration, Instant};

use e2e::place::{Place, assert_refused, objects};
use e2e::program::{Program, Ran, restic};
use e2e::tree::{assert_same, difficult, random};
use rustix::process::Signal;

const RECORDS: &str = "repository/x-estiba/resume";

/// Files of all kinds, and one that takes long; nothing in it is there twice.
fn source() -> Place {
    let place = Place::new();
    difficult(&place.path("source/difficult"));
    for i in 0..60 {
        place.file(&format!("source/many/{:02}/{i}", i % 7), &random(400_000, i));
    }
    place.file("source/large", &random(60 << 20, 1000));
    place.file("source/next", &random(90 << 20, 1001));
    settle(&place, &["backup", &place.text("source")]);
    place
}

/// Reading sets times of access, once: from here on they stay.
fn settle(place: &Place, args: &[&str]) {
    place.mover.ok(&[args, &["--dry-run"]].concat());
}

/// Slow enough to be interrupted, and with little on its way.
fn slow(place: &Place) -> Program {
    place.mover.clone().arg("--memory").arg("128MiB").arg("--limit-upload").arg("12MiB").arg("--json")
}

/// Interrupted once that much is stored.
fn interrupted(place: &Place, args: &[&str], stored: u64) -> Ran {
    let running = slow(place).start(args);
    let bytes = || place.packs().iter().map(|pack| fs::metadata(pack).map_or(0, |meta| meta.len())).sum::<u64>();
    e2e::eventually("some packs", || bytes() >= stored);
    let start = Instant::now();
    let ran = running.end();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    ran
}

fn number(ran: &Ran, key: &str) -> u64 {
    ran.json(key).as_u64().unwrap()
}

#[test]
fn what_was_done_is_neither_read_nor_sent_again() {
    let place = source();
    let args = ["backup", &place.text("source"), "--as", "/shop/data", "--source-id", "snapshot-1"];
    let ran = interrupted(&place, &args, 24 << 20);
    assert_eq!((ran.code, ran.json("code"), ran.json("is_final")), (75, 75.into(), false.into()), "{ran:?}");
    assert_eq!((place.locks(), place.snapshots(), objects(&place.path(RECORDS))), (0, 0, 1));
    let (stored, before) = (place.packs().len(), place.packs());
    place.is_sound();
    let ran = place.mover.ok(&[&["--json"], &args[..]].concat());
    let (total, resumed) = (number(&ran, "total_bytes"), number(&ran, "bytes_resumed"));
    assert!(stored > 1 && resumed > 20 << 20, "{resumed} of {total} in {stored} packs");
    // Each file that was cut is looked at once more at its last block: 8 MiB at most, and there are as many as readers.
    let again = number(&ran, "bytes_read") + resumed - total;
    assert!(again <= 2 * (8 << 20), "{again} bytes were read again");
    assert!(number(&ran, "bytes_added") < (total - resumed) + (total - resumed) / 50 + 100_000, "{ran:?}");
    // As if nothing had happened: the same tree, of the same blobs.
    let whole = place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--parent", "none"]);
    assert_eq!((whole.json("tree_id"), whole.json("data_blobs")), (ran.json("tree_id"), 0.into()));
    assert_eq!((whole.json("total_bytes"), whole.json("total_files")), (ran.json("total_bytes"), ran.json("total_files")));
    assert_eq!(objects(&place.path(RECORDS)), 0, "it has served");
    assert!(before.iter().all(|pack| pack.exists()));
    place.is_sound();
    restic("restic-new", place.text("repository")).ok(&["check", "--read-data"]);
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert_same(&place.path("source"), &place.path("target"));
}

/// Again and again, also before it has come to where it was: what was sent once is not sent again.
#[test]
fn interrupted_as_often_as_may_be() {
    let place = source();
    let args = ["backup", &place.text("source"), "--as", "/shop/data", "--source-id", "snapshot-1"];
    let (mut rounds, start) = (0_u64, Instant::now());
    let ran = loop {
        let running = slow(&place).start(&args);
        std::thread::sleep(Duration::from_millis(600 + 300 * (rounds % 5)));
        let ran = running.end();
        if ran.code == 0 {
            break ran;
        }
        // Before it has its lock there is nothing to keep.
        let is_early = ran.code == 130 && !ran.stdout.contains("status");
        assert!(is_early || ran.code == 75, "{ran:?}");
        assert_eq!((place.locks(), place.snapshots()), (0, 0), "{ran:?}");
        rounds += u64::from(!is_early);
        assert!(start.elapsed() < Duration::from_secs(120), "it never comes to its end");
    };
    assert!(rounds > 2, "it was over after {rounds} interruptions");
    let sent: u64 = place.packs().iter().map(|pack| fs::metadata(pack).unwrap().len()).sum();
    let total = number(&ran, "total_bytes");
    assert!(sent < total + total / 20, "{sent} bytes were sent for {total}, in {rounds} interruptions");
    let whole = place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--parent", "none"]);
    assert_eq!((whole.json("tree_id"), whole.json("data_blobs")), (ran.json("tree_id"), 0.into()));
    place.is_sound();
}

#[test]
fn an_image_goes_on_at_the_block_where_it_stopped() {
    let place = Place::new();
    let mut image = random(160 << 20, 7);
    image[20 << 20..32 << 20].fill(0);
    place.file("image", &image);
    settle(&place, &["backup", "--block", &place.text("image")]);
    let args = ["backup", "--block", &place.text("image"), "--as", "/vm/root", "--source-id", "handle"];
    let ran = interrupted(&place, &args, 12 << 20);
    assert_eq!(ran.code, 75, "{ran:?}");
    let ran = place.mover.ok(&[&["--json"], &args[..]].concat());
    let resumed = number(&ran, "bytes_resumed");
    assert!(resumed >= 8 << 20 && resumed.is_multiple_of(4 << 20), "{ran:?}");
    assert!(number(&ran, "bytes_read") <= (160 << 20) - resumed + (4 << 20), "{ran:?}");
    let whole = place.mover.ok(&["--json", "backup", "--block", &place.text("image"), "--as", "/vm/root", "--parent", "none"]);
    assert_eq!((whole.json("tree_id"), whole.json("data_blobs")), (ran.json("tree_id"), 0.into()));
    place.is_sound();
}

#[test]
fn what_does_not_fit_is_not_gone_on_from() {
    let place = source();
    // Another source: nothing is taken over, and nothing of the first one is lost.
    begin_at(&place);
    let run = |id: &str| place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--source-id", id]);
    let other = run("two");
    assert_eq!((number(&other, "bytes_resumed"), objects(&place.path(RECORDS))), (0, 1));
    assert!(number(&run("one"), "files_unchanged") > 60);
    assert_eq!(objects(&place.path(RECORDS)), 0);
    // A record that is damaged says so, costs time, and is gone afterwards.
    let place = source();
    begin_at(&place);
    let record = fs::read_dir(place.path(RECORDS)).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    bytes[20] ^= 1;
    fs::write(&record, bytes).unwrap();
    let ran = place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--source-id", "one"]);
    assert_eq!((number(&ran, "bytes_resumed"), number(&ran, "warnings"), objects(&place.path(RECORDS))), (0, 1, 0), "{ran:?}");
    // A file that is another one by now, though it has the same times: what is done of it is not believed.
    let place = source();
    begin_at(&place);
    let times = fs::metadata(place.path("source/large")).unwrap().modified().unwrap();
    place.file("source/large", &random(60 << 20, 2000));
    fs::File::options().write(true).open(place.path("source/large")).unwrap().set_modified(times).unwrap();
    let ran = place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--source-id", "one"]);
    assert!(ran.stdout.contains("it is not what an interrupted run has read of it"), "{ran:?}");
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert!(fs::read(place.path("target/large")).unwrap() == random(60 << 20, 2000));
    // A prune takes what no snapshot needs: then all is done again.
    let place = source();
    begin_at(&place);
    place.mover.ok(&["prune", "--allow-empty"]);
    assert_eq!((place.packs().len(), objects(&place.path(RECORDS))), (0, 0));
    let ran = place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--source-id", "one"]);
    assert_eq!((number(&ran, "bytes_resumed"), number(&ran, "warnings")), (0, 0), "{ran:?}");
    place.is_sound();
}

fn begin_at(place: &Place) {
    let ran = interrupted(place, &["backup", &place.text("source"), "--as", "/shop/data", "--source-id", "one"], 24 << 20);
    assert_eq!(ran.code, 75, "{ran:?}");
}

#[test]
fn without_time_to_keep_anything_it_stops_as_ever() {
    let place = Place::new();
    place.file("source/large", &random(64 << 20, 1));
    let slow = place.mover.clone().arg("--limit-upload").arg("1MiB");
    for (grace, signals) in [("1s", 1), ("30s", 2)] {
        let mut running = slow.start(&["backup", &place.text("source"), "--as", "/shop/data", "--source-id", "one", "--grace", grace]);
        e2e::eventually("a lock", || place.locks() == 1);
        std::thread::sleep(Duration::from_millis(800));
        let start = Instant::now();
        for _ in 0..signals {
            running.signal(Signal::TERM);
            std::thread::sleep(Duration::from_millis(300));
        }
        let ran = running.wait();
        assert_refused(&ran, 130, "what was done is whole");
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        assert_eq!((place.locks(), place.snapshots(), objects(&place.path(RECORDS))), (0, 0, 0));
    }
    assert_refused(&place.mover.run(&["backup", &place.text("source"), "--grace", "1s"]), 1, "--source-id");
    assert_refused(&place.mover.run(&["backup", "--stdin", "--stdin-filename", "x", "--source-id", "y"]), 1, "cannot be used with");
    place.is_sound();
}

#[test]
fn killed_it_loses_no_more_than_since_the_last_record() {
    let place = source();
    let args = ["backup", &place.text("source"), "--as", "/shop/data", "--source-id", "snapshot-1", "--record-every", "1s"];
    assert_refused(&place.mover.run(&[&args[..args.len() - 1], &["0s"]].concat()), 1, "needs a time");
    let mut running = slow(&place).start_unheard(&args);
    let mut records = std::collections::BTreeSet::new();
    e2e::eventually("some records", || {
        let record = fs::read_dir(place.path(RECORDS)).into_iter().flatten().map(|entry| entry.unwrap().path()).find(|path| path.is_file());
        records.extend(record.and_then(|path| fs::metadata(path).ok()).and_then(|meta| meta.modified().ok()));
        records.len() >= 4
    });
    running.signal(Signal::KILL);
    running.wait();
    place.mover.ok(&["unlock", "--remove-all"]);
    place.is_sound();
    let stored: u64 = place.packs().iter().map(|pack| fs::metadata(pack).unwrap().len()).sum();
    let ran = place.mover.ok(&[&["--json"], &args[..]].concat());
    let (total, resumed) = (number(&ran, "total_bytes"), number(&ran, "bytes_resumed"));
    // In a second 12 MiB are sent; as much may wait in memory.
    assert!(resumed > 20 << 20 && resumed + (40 << 20) > stored, "{resumed} of {stored} stored");
    let again = number(&ran, "bytes_read") + resumed - total;
    let laps = 2 + ran.json("seconds").as_f64().unwrap() as u64;
    assert!(again <= 2 * (8 << 20) * laps, "{again} bytes were read again: {ran:?}");
    is_as_if_undisturbed(&place, &ran);
}

#[test]
fn records_on_the_way_change_nothing() {
    let place = source();
    let args = ["backup", &place.text("source"), "--as", "/shop/data", "--source-id", "snapshot-1", "--record-every", "1s"];
    let ran = place.mover.clone().arg("--limit-upload").arg("30MiB").arg("--json").ok(&args);
    let (total, read) = (number(&ran, "total_bytes"), number(&ran, "bytes_read"));
    let laps = 2 + ran.json("seconds").as_f64().unwrap() as u64;
    assert!(read > total && read < total + 2 * (8 << 20) * laps, "{read} of {total} were read");
    assert_eq!((number(&ran, "bytes_resumed"), number(&ran, "files_changed"), number(&ran, "errors")), (0, 0, 0), "{ran:?}");
    let done: Vec<u64> = ran.lines("status").iter().map(|status| status["bytes_done"].as_u64().unwrap()).collect();
    assert!(done.is_sorted() && done.iter().all(|done| *done <= total), "{done:?} of {total}");
    let whole = is_as_if_undisturbed(&place, &ran);
    assert_eq!(number(&ran, "files_new"), number(&whole, "total_files"));
    assert!(number(&ran, "bytes_added") < total + total / 50, "{ran:?}");
    assert_eq!(objects(&place.path(RECORDS)), 0);
}

/// The same tree, of the same blobs; it restores.
fn is_as_if_undisturbed(place: &Place, ran: &Ran) -> Ran {
    let whole = place.mover.ok(&["--json", "backup", &place.text("source"), "--as", "/shop/data", "--parent", "none"]);
    assert_eq!((whole.json("tree_id"), whole.json("data_blobs")), (ran.json("tree_id"), 0.into()));
    assert_eq!((whole.json("total_bytes"), whole.json("total_files")), (ran.json("total_bytes"), ran.json("total_files")));
    place.is_sound();
    place.mover.ok(&["restore", "latest", &place.text("target")]);
    assert_same(&place.path("source"), &place.path("target"));
    whole
}
