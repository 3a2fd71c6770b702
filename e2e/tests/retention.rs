//! `mover forget`, beside stock restic, which is asked what it would keep.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use e2e::place::{Place, assert_refused};
use e2e::program::restic;
use e2e::tree::random;
use serde_json::Value;

/// Snapshots of two hosts, now and then over three years.
fn some_years(place: &Place) {
    place.file("source/file", b"content");
    let mut days: u64 = 1;
    for i in 0..70_u64 {
        // Close together at first, then further and further apart.
        days += 1 + i * i * 7 % (1 + i / 2);
        let time = jiff::Timestamp::from_second(1_700_000_000 + i64::try_from(days * 86_400 + i * 7_717 % 86_400).unwrap()).unwrap();
        let host = if i % 5 == 0 { "other" } else { "main" };
        let tag = ["daily", "weekly", "daily,weekly"][(i % 3) as usize];
        place.mover.ok(&["backup", &place.text("source"), "--host", host, "--time", &time.to_string(), "--tag", tag]);
    }
}

fn ids(all: &Value) -> BTreeSet<String> {
    all.as_array().into_iter().flatten().map(|each| each["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_same_policies_keep_what_restic_would_keep() {
    let place = Place::new();
    some_years(&place);
    let mover = place.mover.clone().env("TZ", "UTC");
    let stock = restic("restic-new", place.text("repository"));
    let policies: [&[&str]; 9] = [
        &["--keep-last", "5"],
        &["--keep-daily", "7", "--keep-weekly", "5", "--keep-monthly", "12", "--keep-yearly", "75"],
        &["--keep-hourly", "100"],
        &["--keep-weekly", "unlimited"],
        &["--keep-monthly", "3", "--keep-tag", "weekly"],
        &["--keep-tag", "daily,weekly", "--keep-last", "1"],
        &["--keep-within", "1y2m3d4h"],
        &["--keep-within", "40d", "--group-by", "host"],
        &["--keep-yearly", "2", "--group-by", "host,paths,tags"],
    ];
    let mut removals = 0;
    for policy in policies {
        let theirs: Value = serde_json::from_str(&stock.ok(&[&["forget", "--dry-run", "--json"], policy].concat()).stdout).unwrap();
        let theirs: BTreeSet<String> = theirs.as_array().unwrap().iter().flat_map(|group| ids(&group["remove"])).collect();
        let ours = mover.ok(&[&["--json", "forget", "--dry-run", "--remove-last"], policy].concat());
        let goes = |line: &&Value| line["reasons"].as_array().unwrap().is_empty();
        let verdicts = ours.lines("verdict");
        let ours: BTreeSet<String> = verdicts.iter().filter(goes).map(|line| line["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!((verdicts.len(), &ours), (70, &theirs), "{policy:?}");
        removals += ours.len();
    }
    assert!(removals > 100, "policies that remove nothing show nothing");
    // Nothing was removed by any of them; now it is.
    let summary = mover.ok(&["--json", "forget", "--keep-monthly", "12"]);
    let summary = &summary.lines("forget_summary")[0];
    let left: Value = serde_json::from_str(&stock.ok(&["snapshots", "--json"]).stdout).unwrap();
    assert_eq!(summary["kept"].as_u64().unwrap() + summary["removed"].as_u64().unwrap(), 70, "{summary}");
    assert_eq!(left.as_array().unwrap().len() as u64, summary["kept"], "{summary}");
    place.is_sound();
}

#[test]
fn forgetting_cannot_hurt() {
    let place = Place::new();
    place.file("source/file", &random(1 << 20, 1));
    for day in 1..=3 {
        place.mover.ok(&["backup", &place.text("source"), "--time", &format!("2026-11-0{day}T12:00:00Z")]);
    }
    let listed = || -> Vec<Value> { place.mover.ok(&["--json", "snapshots"]).lines("snapshot") };
    let id = |index: usize| listed()[index]["id"].as_str().unwrap().to_owned();
    // Without a policy nothing goes, and a typo in one keeps everything.
    assert_refused(&place.mover.run(&["forget"]), 1, "nothing says what to keep");
    assert!(place.mover.run(&["forget", "--keep-last", "x"]).code != 0);
    assert!(place.mover.run(&["forget", "--keep-last", "1", &id(0)]).code != 0, "a policy and an id");
    assert_refused(&place.mover.run(&["forget", "0123456789"]), 1, "no snapshot matches");
    assert_eq!(listed().len(), 3);
    // A dry run says what would happen, and why.
    let said = place.mover.ok(&["forget", "--keep-last", "1", "--dry-run"]).stdout;
    assert!(said.contains("stays: last") && said.contains("would go") && said.contains("nothing was removed"), "{said}");
    assert_eq!(listed().len(), 3);
    // Somebody prunes: not now.
    let stock = restic("restic-new", place.text("repository"));
    let mut check = stock.start(&["check", "--read-data", "--limit-download", "1"]);
    e2e::eventually("its lock", || place.locks() > 0);
    assert_eq!(place.mover.run(&["forget", "--keep-last", "1"]).code, 11);
    check.signal(rustix::process::Signal::INT);
    check.wait();
    stock.ok(&["unlock"]);
    // By name; the last one goes only when that is said.
    place.mover.ok(&["forget", &id(0)]);
    let (second, third) = (id(0), id(1));
    assert_refused(&place.mover.run(&["forget", &second, &third]), 1, "the last complete snapshot");
    assert_eq!(listed().len(), 2);
    let said = place.mover.ok(&["forget", "--keep-tag", "no-such"]).stdout;
    assert!(said.contains("stays: the last complete one"), "{said}");
    assert_eq!(id(0), third);
    place.mover.ok(&["forget", &third, "--remove-last"]);
    assert!(listed().is_empty());
    place.is_sound();
}
