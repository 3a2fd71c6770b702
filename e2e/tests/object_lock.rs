//! Buckets with object lock: what is retained outlives whoever has all keys, and is paid for until it may go.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use e2e::minio::{Minio, credentials};
use e2e::place::{Place, assert_refused};
use e2e::program::{PASSWORD, Program, mover};
use e2e::tree::{assert_same, difficult, random};
use e2e::within;

fn prepared(retain: &str) -> (Minio, Place, Program) {
    let (minio, place) = (Minio::start_with_object_lock(), Place::new());
    difficult(&place.path("source"));
    place.file("source/large", &random(20 << 20, 1));
    let program = minio.mover("r").env("MOVER_S3_RETAIN", retain);
    program.ok(&["init"]);
    (minio, place, program)
}

/// Keys and ids of all versions, whatever hides them.
async fn versions(client: &Client) -> Vec<(String, String)> {
    let page = client.list_object_versions().bucket("bucket").send().await.unwrap();
    assert!(!page.is_truncated().unwrap_or(false));
    let versions = page.versions().iter();
    versions.map(|version| (version.key().unwrap().to_owned(), version.version_id().unwrap().to_owned())).collect()
}

/// Whoever has all keys overwrites some, removes all, and tries to remove it for good; so many versions withstand.
fn destroy(minio: &Minio) -> usize {
    minio.s3(async |client| {
        let there = versions(&client).await;
        for (key, _) in &there {
            if key == "r/config" || key.starts_with("r/keys/") || key.starts_with("r/snapshots/") {
                client.put_object().bucket("bucket").key(key).body(ByteStream::from_static(b"pay")).send().await.unwrap();
            } else {
                client.delete_object().bucket("bucket").key(key).send().await.unwrap();
            }
        }
        for (key, id) in &there {
            let _ = client.delete_object().bucket("bucket").key(key).version_id(id).send().await;
        }
        let left = versions(&client).await;
        there.iter().filter(|version| left.contains(version)).count()
    })
}

#[test]
fn what_was_there_is_restored_after_all_of_it_was_destroyed() {
    let (minio, place, program) = prepared("compliance:1h");
    let source = place.text("source");
    let keep = place.text("before");
    program.ok(&["backup", &source]);
    let ran = program.ok(&["--json", "lock-report", "--at-least", "50m"]);
    let objects = ran.lines("protection").len();
    assert_eq!((ran.json("objects").as_u64(), ran.json("compliance").as_u64()), (Some(objects as u64), Some(objects as u64)));
    assert!(objects >= 6, "{ran:?}");
    program.ok(&["restore", "latest", &keep]);
    // Times of S3 are whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let then = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(1100));
    place.file("source/large", &random(20 << 20, 2));
    program.ok(&["backup", &source]);
    program.ok(&["forget", "--keep-last", "1"]);
    program.ok(&["prune", "--max-unused", "0"]);
    assert!(destroy(&minio) >= objects);
    assert_eq!(program.run(&["snapshots"]).code, 1);
    assert_eq!(minio.mover("r").run(&["check"]).code, 1);
    // As it was, by whoever has the password and may read.
    let past = minio.mover("r").arg("--s3-as-of").arg(&then);
    past.ok(&["check", "--read-data"]);
    past.ok(&["restore", "latest", &place.text("target"), "--verify"]);
    assert_same(&place.path("before"), &place.path("target"));
    assert_refused(&past.run(&["backup", &source]), 1, "--s3-as-of");
    assert_refused(&past.run(&["prune"]), 1, "--s3-as-of");
    let before = minio.mover("r").arg("--s3-as-of").arg("2026-01-01");
    assert_eq!(before.run(&["snapshots"]).code, 10);
    // And on with it, in another place.
    let another = mover(place.path("another"));
    let from = another.clone().env("MOVER_FROM_PASSWORD", PASSWORD).env("MOVER_FROM_REPOSITORY", minio.location("r"));
    let from = credentials(from).arg("--s3-as-of").arg(&then);
    from.ok(&["init", "--copy-chunker-params"]);
    from.ok(&["copy"]);
    another.ok(&["check", "--read-data"]);
    another.ok(&["restore", "latest", &place.text("again"), "--verify"]);
    assert_same(&place.path("before"), &place.path("again"));
}

#[test]
fn pruning_waits_for_what_is_retained() {
    const PERIOD: Duration = Duration::from_secs(40);
    let (_minio, place, program) = prepared("governance:40s");
    let source = place.text("source");
    let begin = Instant::now();
    program.ok(&["backup", &source]);
    place.file("source/large", &random(20 << 20, 2));
    program.ok(&["backup", &source]);
    program.ok(&["forget", "--keep-last", "1"]);
    let prune = || program.ok(&["--json", "prune", "--max-unused", "0"]);
    let ran = prune();
    assert!(begin.elapsed() < PERIOD, "this machine is too slow for this test: {:?}", begin.elapsed());
    assert!(ran.json("packs_retained").as_u64() > Some(0) && ran.json("bytes_retained").as_u64() > Some(15 << 20), "{ran:?}");
    assert_eq!((ran.json("packs_removed").as_u64(), ran.json("packs_repacked").as_u64()), (Some(0), Some(0)), "{ran:?}");
    let until: jiff::Timestamp = ran.json("retained_until").as_str().unwrap().parse().unwrap();
    assert!(until > jiff::Timestamp::now() && ran.json("keeps_versions").as_bool().unwrap(), "{ran:?}");
    // What waits is used again: nothing is sent for it.
    place.file("source/again", &random(20 << 20, 1));
    let ran = program.ok(&["--json", "backup", &source]);
    assert!(ran.json("bytes_stored").as_u64() < Some(1 << 20), "{ran:?}");
    program.ok(&["forget", "--keep-last", "1"]);
    std::fs::remove_file(place.path("source/again")).unwrap();
    program.ok(&["backup", &source]);
    program.ok(&["forget", "--keep-last", "1"]);
    within(3 * PERIOD, Duration::from_secs(2), "the end of its retention", || prune().json("packs_retained").as_u64() == Some(0));
    assert!(jiff::Timestamp::now() > until);
    let ran = program.ok(&["prune", "--max-unused", "0"]);
    assert!(ran.stdout.contains("0 removed"), "{ran:?}");
    program.ok(&["check", "--read-data"]);
    program.ok(&["restore", "latest", &place.text("target"), "--verify"]);
    assert_same(&place.path("source"), &place.path("target"));
}

#[test]
fn what_is_used_again_is_retained_for_longer() {
    let (minio, place, program) = prepared("governance:10m");
    let source = place.text("source");
    program.ok(&["backup", &source]);
    program.ok(&["lock-report", "--at-least", "5m"]);
    let ran = program.run(&["lock-report", "--at-least", "1h"]);
    assert!(ran.code == 1 && ran.stderr.contains("retained only until"), "{ran:?}");
    assert_refused(&minio.mover("r").run(&["lock-extend"]), 1, "--s3-retain");
    let longer = minio.mover("r").env("MOVER_S3_RETAIN", "compliance:2h");
    let extended = |program: &Program| program.ok(&["--json", "lock-extend"]).json("extended").as_u64().unwrap();
    let all = extended(&longer);
    assert!(all >= 6 && extended(&longer) == 0, "{all}");
    program.ok(&["lock-report", "--at-least", "110m"]);
    // Nothing is shortened.
    assert_eq!(extended(&program), 0);
    // What is new is not yet retained for as long; what snapshots do not need any more does not count.
    place.file("source/large", &random(20 << 20, 2));
    program.ok(&["backup", &source]);
    place.file("source/large", &random(20 << 20, 3));
    program.ok(&["backup", &source]);
    assert_eq!(program.run(&["lock-report", "--at-least", "1h"]).code, 1);
    let objects = || program.ok(&["--json", "lock-report"]).json("objects").as_u64().unwrap();
    let before = objects();
    program.ok(&["forget", "--keep-last", "1"]);
    // Two snapshots, and a pack of either at least.
    assert!(objects() <= before - 4, "{before}");
    assert!((1..before).contains(&extended(&longer)));
    let ran = program.ok(&["lock-report", "--at-least", "110m"]);
    assert!(ran.stdout.contains("BypassGovernanceRetention"), "{ran:?}");
    minio.restic("restic-new", "r").ok(&["check", "--read-data"]);
}

/// An ordinary bucket protects nothing, and says so.
#[test]
fn a_bucket_without_object_lock_says_so() {
    let (minio, place) = (Minio::start(), Place::new());
    place.file("source/file", b"x");
    let program = minio.mover("r");
    assert_refused(&program.clone().env("MOVER_S3_RETAIN", "governance:1h").run(&["init"]), 1, "ObjectLock");
    assert_eq!(minio.objects("r"), 0);
    program.ok(&["init"]);
    program.ok(&["backup", &place.text("source")]);
    let ran = program.ok(&["lock-report"]);
    assert!(ran.stdout.contains("are not protected"), "{ran:?}");
    assert_eq!(program.run(&["lock-report", "--at-least", "1s"]).code, 1);
    let ran = program.ok(&["--json", "prune"]);
    assert_eq!(ran.json("keeps_versions").as_bool(), Some(false));
    for place in [mover(place.path("repository")), minio.mover("r")] {
        assert_refused(&place.arg("--s3-as-of").arg("1h").run(&["snapshots"]), 1, "versions");
    }
}
