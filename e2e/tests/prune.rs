//! `mover prune`, beside stock restic, which judges what is left.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use e2e::place::{Place, assert_refused};
use e2e::program::{RESTICS, restic};
use e2e::tree::{assert_same, difficult, random};
use rustix::process::Signal;

/// Four nights of a tree of which a part changes, of which the first three are forgotten.
fn some_nights() -> Place {
    let place = Place::new();
    difficult(&place.path("source/kept"));
    for night in 0..4_u64 {
        for i in 0..24_u64 {
            let seed = if i < 8 { i } else { night * 100 + i };
            place.file(&format!("source/files/{i}"), &random(700_000, seed));
        }
        place.mover.ok(&["backup", &place.text("source")]);
    }
    place.mover.ok(&["forget", "--keep-last", "1"]);
    place
}

fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { bytes_of(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}

/// All files below.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let below = |path: PathBuf| if path.is_dir() { names(&path) } else { [path].into() };
    std::fs::read_dir(folder).unwrap().flat_map(|entry| below(entry.unwrap().path())).collect()
}

fn restores(place: &Place) {
    let to = tempfile::tempdir().unwrap();
    place.mover.ok(&["restore", "latest", to.path().to_str().unwrap()]);
    assert_same(&place.path("source"), to.path());
}

#[test]
fn restic_finds_nothing_left_to_do() {
    let place = some_nights();
    let data = place.path("repository/data");
    let before = bytes_of(&data);
    // Said first, and nothing is changed.
    let planned = place.mover.ok(&["--json", "prune", "--max-unused", "0%", "--dry-run"]);
    let planned = planned.lines("prune_summary").remove(0);
    assert_eq!((bytes_of(&data), planned["bytes_before"].as_u64()), (before, Some(before)), "{planned:#}");
    let done = place.mover.ok(&["--json", "prune", "--max-unused", "0%"]).lines("prune_summary").remove(0);
    for figure in ["bytes_needed", "blobs_needed", "blobs_unused", "packs_repacked", "packs_removed", "bytes_freed"] {
        assert_eq!(done[figure], planned[figure], "{figure}");
    }
    for requests in ["put", "delete"] {
        let (about, made) = (&planned["requests"][requests], &done["requests"][requests]);
        assert!(about.as_u64() >= made.as_u64(), "{requests}: about {about} were said, {made} made");
    }
    let after = bytes_of(&data);
    let freed = done["bytes_freed"].as_u64().unwrap();
    assert!(before.abs_diff(after + freed) < 10_000, "{before} bytes before, {after} after, {freed} said to be freed");
    assert!(freed > 30_000_000 && done["packs_repacked"].as_u64() > Some(0), "{done:#}");
    for version in RESTICS {
        let judge = restic(version, place.text("repository"));
        judge.ok(&["check", "--read-data"]);
        let said = judge.ok(&["prune", "--max-unused", "0", "--dry-run"]).stdout;
        let line =
            |name: &str| said.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{said}")).to_owned();
        let total = line("total prune:");
        assert!(total.split_whitespace().collect::<Vec<_>>().windows(2).any(|pair| pair == ["0", "blobs"]), "{said}");
    }
    restores(&place);
    // What is written later rests on what stayed.
    place.file("source/files/0", &random(700_000, 1000));
    place.mover.ok(&["backup", &place.text("source")]);
    restores(&place);
    place.is_sound();
    // All of it goes, and the repository is as good as new.
    place.mover.ok(&["forget", "--keep-tag", "no-such", "--remove-last"]);
    assert_refused(&place.mover.run(&["prune"]), 1, "say --allow-empty");
    let summary = place.mover.ok(&["prune", "--allow-empty"]).stdout;
    assert!(summary.contains("freed") && bytes_of(&data) == 0, "{summary}");
    place.mover.ok(&["backup", &place.text("source")]);
    restores(&place);
}

/// Restic stores, forgets and leaves a mess; we clear it up, and the other way round.
#[test]
fn what_restic_leaves_is_pruned_too() {
    let place = Place::new();
    let stock = restic("restic-new", place.text("repository"));
    for night in 0..3_u64 {
        for i in 0..20_u64 {
            place.file(&format!("source/files/{i}"), &random(300_000, if i < 6 { i } else { night * 100 + i }));
        }
        stock.ok(&["backup", &place.text("source")]);
    }
    stock.ok(&["forget", "--keep-last", "1"]);
    let ours = place.mover.ok(&["--json", "prune", "--max-unused", "1MiB"]).lines("prune_summary").remove(0);
    assert!(ours["bytes_unused_after"].as_u64().unwrap() <= 1 << 20, "{ours:#}");
    stock.ok(&["check", "--read-data"]);
    place.is_sound();
    place.mover.ok(&["backup", &place.text("source")]);
    place.mover.ok(&["forget", "--keep-last", "1"]);
    stock.ok(&["prune", "--max-unused", "0"]);
    place.is_sound();
    restores(&place);
}

#[test]
fn killed_in_the_middle_it_has_lost_nothing() {
    let place = some_nights();
    // Slow enough that it is still at it when the first thing has changed: packs go, what was left half goes, packs come.
    let slow = place.mover.clone().arg("--limit-upload").arg("500KiB").arg("--limit-download").arg("2MiB");
    for _ in 0..3 {
        let there = || names(&place.path("repository/data"));
        let before = there();
        let mut running = slow.start(&["prune", "--max-unused", "0%"]);
        e2e::eventually("a change", || there() != before);
        assert!(running.child().try_wait().unwrap().is_none(), "it was over before it was killed");
        running.signal(Signal::KILL);
        running.wait();
        place.mover.ok(&["unlock", "--remove-all"]);
        place.is_sound();
    }
    // As a write leaves it that was cut off a little later than these.
    place.file(&format!("repository/data/00/{}-tmp-1", "0".repeat(64)), b"half");
    place.mover.ok(&["prune", "--max-unused", "0%"]);
    restic("restic-new", place.text("repository")).ok(&["check", "--read-data"]);
    restores(&place);
    // Nothing that was under way is left: no pack, and no file that was cut off.
    let cut_off = |path: &PathBuf| path.to_str().unwrap().contains("-tmp-");
    assert!(!names(&place.path("repository/data")).iter().any(cut_off));
    assert!(place.mover.ok(&["--json", "prune", "--max-unused", "0%", "--dry-run"]).lines("prune_summary")[0]["packs_removed"] == 0);
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let place = some_nights();
    // Somebody writes.
    let mut running = place.mover.start(&["backup", "--stdin", "--stdin-filename", "stream"]);
    e2e::eventually("its lock", || place.locks() == 1);
    assert_refused(&place.mover.run(&["prune"]), 11, "by run ");
    assert_eq!(place.mover.run(&["prune", "--dry-run"]).code, 0, "looking is in nobody's way");
    std::io::Write::write_all(running.child().stdin.as_mut().unwrap(), b"content").unwrap();
    assert_eq!(running.wait().code, 0);
    // A pack that a snapshot needs is gone.
    let data = place.path("repository/data");
    let (packs, hidden) = (names(&data), place.path("hidden"));
    let lost = packs.iter().find(|pack| {
        std::fs::rename(pack, &hidden).unwrap();
        let is_needed = place.mover.run(&["prune", "--dry-run"]).code != 0;
        if !is_needed {
            std::fs::rename(&hidden, pack).unwrap();
        }
        is_needed
    });
    let lost = lost.expect("one is needed");
    // It says which, whether it holds trees or content.
    let name = lost.file_name().unwrap().to_str().unwrap();
    assert_refused(&place.mover.run(&["prune", "--max-unused", "0%"]), 1, &format!("{name} in"));
    std::fs::rename(&hidden, lost).unwrap();
    assert_eq!((place.locks(), place.snapshots(), names(&data)), (0, 2, packs));
    place.is_sound();
    for (limit, words) in [("150%", "no limit"), ("-1", "unexpected argument"), ("lots", "no limit")] {
        assert_refused(&place.mover.run(&["prune", "--max-unused", limit]), 1, words);
    }
}
