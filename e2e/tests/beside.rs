//! A prune on S3, beside those who are at work: ours and stock restic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use e2e::eventually;
use e2e::minio::Minio;
use e2e::place::Place;
use e2e::program::{Program, RESTICS};
use e2e::tree::{assert_same, random};
use repository::Repository;
use repository::access::Access;
use repository::lock::{Identity, Lock};
use rustix::process::Signal;
use serde_json::Value;

const REPOSITORY: &str = "r";

/// Four nights of a tree of which a part changes, of which the first three are forgotten.
fn some_nights() -> (Minio, Place, Program) {
    let (minio, place) = (Minio::start(), Place::new());
    let mover = minio.mover(REPOSITORY);
    mover.ok(&["init"]);
    for night in 0..4_u64 {
        for i in 0..12_u64 {
            place.file(&format!("source/{i}"), &random(900_000, if i < 4 { i } else { night * 100 + i }));
        }
        mover.ok(&["backup", &place.text("source")]);
    }
    mover.ok(&["forget", "--keep-last", "1"]);
    (minio, place, mover)
}

fn prune(mover: &Program, more: &[&str]) -> Value {
    mover.ok(&[&["--json", "prune", "--max-unused", "0"], more].concat()).lines("prune_summary").remove(0)
}

fn condemned(minio: &Minio) -> usize {
    minio.objects(&format!("{REPOSITORY}/x-estiba/condemned"))
}

fn all_is_well(minio: &Minio, place: &Place, mover: &Program) {
    for version in RESTICS {
        minio.restic(version, REPOSITORY).ok(&["check", "--read-data"]);
    }
    mover.ok(&["check", "--read-data"]);
    let to = tempfile::tempdir().unwrap();
    mover.ok(&["restore", "latest", to.path().to_str().unwrap(), "--path", &place.text("source")]);
    assert_same(&place.path("source"), to.path());
}

#[test]
fn a_backup_at_work_stops_no_prune_and_no_prune_stops_a_backup() {
    let (minio, place, mover) = some_nights();
    // What is younger than the oldest at work would be left alone, by whole seconds.
    std::thread::sleep(Duration::from_secs(2));
    // One that began before: what is to go waits for it.
    let mut first = mover.start(&["backup", "--stdin", "--stdin-filename", "stream"]);
    eventually("its lock", || minio.objects(&format!("{REPOSITORY}/locks")) == 1);
    let data = || minio.objects(&format!("{REPOSITORY}/data"));
    let before = data();
    let said = prune(&mover, &[]);
    assert!(said["packs_waiting"].as_u64() > Some(0) && said["bytes_waiting"].as_u64() > Some(20_000_000), "{said:#}");
    assert_eq!((&said["packs_removed"], &said["bytes_freed"]), (&Value::from(0), &Value::from(0)), "{said:#}");
    let holder = said["waits_for"][0].as_str().unwrap();
    assert!(holder.contains("by run ") && holder.contains("began 0 min ago"), "{holder}");
    assert!(condemned(&minio) > 0 && data() >= before, "{} packs", data());
    // In words, and it condemns nothing twice.
    let words = mover.ok(&["prune", "--max-unused", "0"]).stdout;
    assert!(words.contains("waiting") && words.contains("by run "), "{words}");
    let lists = condemned(&minio);
    prune(&mover, &[]);
    assert_eq!(condemned(&minio), lists);
    // One that begins now uses nothing of that: the content of the first night is stored again, though its packs are there.
    for i in 4..12_u64 {
        place.file(&format!("source/{i}"), &random(900_000, i));
    }
    let again = mover.ok(&["--json", "backup", &place.text("source")]).lines("backup_summary").remove(0);
    assert!(again["bytes_added"].as_u64() > Some(8 * 900_000), "{again:#}");
    // A third one honours it, and so is nobody that the prune has to wait for when the first has ended.
    let mut third = mover.start(&["backup", "--stdin", "--stdin-filename", "other"]);
    eventually("its lock", || minio.objects(&format!("{REPOSITORY}/locks")) >= 2);
    std::thread::sleep(Duration::from_secs(2));
    first.child().stdin.as_mut().unwrap().write_all(b"content").unwrap();
    assert_eq!(first.wait().code, 0);
    let done = prune(&mover, &[]);
    assert_eq!((&done["packs_waiting"], condemned(&minio)), (&Value::from(0), 0), "{done:#}");
    assert!(done["packs_removed"].as_u64() > Some(0) && done["bytes_freed"].as_u64() > Some(20_000_000), "{done:#}");
    third.child().stdin.as_mut().unwrap().write_all(b"content").unwrap();
    assert_eq!(third.wait().code, 0);
    all_is_well(&minio, &place, &mover);
    assert_eq!(minio.objects(&format!("{REPOSITORY}/locks")), 0);
}

/// Stock restic honours no list: it is waited for, as long as one is asked to.
#[test]
fn a_prune_waits_for_stock_restic() {
    let (minio, place, mover) = some_nights();
    for version in RESTICS {
        // What it stores has no end, until it is told.
        let stock = minio.restic(version, REPOSITORY);
        let mut running = stock.start(&["backup", "--stdin", "--stdin-filename", "stream"]);
        eventually("its lock", || minio.objects(&format!("{REPOSITORY}/locks")) == 1);
        place.file("source/0", &random(900_000, 77));
        mover.ok(&["backup", &place.text("source")]);
        mover.ok(&["forget", "--keep-last", "1", "--path", &place.text("source")]);
        assert!(prune(&mover, &[])["packs_waiting"].as_u64() > Some(0));
        let waiting = mover.start(&["--json", "prune", "--max-unused", "0", "--retry-lock", "60s"]);
        std::thread::sleep(Duration::from_secs(1));
        running.child().stdin.as_mut().unwrap().write_all(b"content").unwrap();
        assert_eq!(running.wait().code, 0);
        let done = waiting.wait();
        assert_eq!(done.code, 0, "{done:?}");
        let done = done.lines("prune_summary").remove(0);
        assert_eq!((&done["packs_waiting"], condemned(&minio)), (&Value::from(0), 0), "{done:#}");
        all_is_well(&minio, &place, &mover);
    }
}

/// While packs are removed: backups go on, whoever reads waits, stock restic sees an exclusive lock.
#[test]
fn a_fence_keeps_out_whom_it_must() {
    let (minio, place, mover) = some_nights();
    let access = Access::new(Arc::new(minio.store(REPOSITORY)), Identity::new("test".to_owned(), "test".to_owned()));
    let repository = Arc::new(Repository::open(&access, e2e::program::PASSWORD).unwrap());
    let (fence, _) = Lock::raise_fence(&repository, &HashSet::new()).unwrap();
    mover.ok(&["backup", &place.text("source")]);
    let reads = mover.start(&["snapshots"]);
    for version in RESTICS {
        let stock = minio.restic(version, REPOSITORY);
        for command in [&["backup", &place.text("source")][..], &["prune"], &["snapshots"]] {
            let ran = stock.run(command);
            assert!(ran.code != 0 && ran.stderr.contains("lock"), "{version} {command:?}: {ran:?}");
        }
        stock.ok(&["unlock"]);
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(minio.objects(&format!("{REPOSITORY}/locks")), 1, "restic left it alone");
    fence.release().unwrap();
    let read = reads.wait();
    assert!(read.code == 0 && read.stdout.contains("source"), "{read:?}");
    all_is_well(&minio, &place, &mover);
}

/// Killed anywhere, it leaves lists and copies; the next one goes on with these.
#[test]
fn killed_in_the_middle_the_next_one_goes_on() {
    let (minio, place, mover) = some_nights();
    for round in 0..6_u64 {
        place.file(&format!("source/{}", 4 + round), &random(900_000, 1000 + round));
        mover.ok(&["backup", &place.text("source")]);
        mover.ok(&["forget", "--keep-last", "1"]);
        let mut running = mover.start(&["prune", "--max-unused", "0"]);
        std::thread::sleep(Duration::from_millis(300 + round * 250));
        if running.child().try_wait().unwrap().is_none() {
            running.signal(Signal::KILL);
        }
        running.wait();
        minio.restic(RESTICS[1], REPOSITORY).ok(&["unlock", "--remove-all"]);
        mover.ok(&["check", "--read-data"]);
    }
    let done = prune(&mover, &[]);
    assert_eq!((&done["packs_waiting"], condemned(&minio)), (&Value::from(0), 0), "{done:#}");
    let left = mover.ok(&["--json", "prune", "--max-unused", "0", "--dry-run"]).lines("prune_summary").remove(0);
    assert_eq!((&left["packs_removed"], &left["packs_repacked"]), (&Value::from(0), &Value::from(0)), "{left:#}");
    all_is_well(&minio, &place, &mover);
}
