//! Credentials that may add and not remove, and what a network does to them.
#![allow(clippy::unwrap_used, clippy::panic)]

use e2e::eventually;
use e2e::grants::restricted;
use e2e::minio::{Minio, credentials};
use e2e::place::{Place, assert_refused};
use e2e::program::{Program, mover};
use e2e::proxy::{Fault, Proxy};
use e2e::tree::{assert_same, difficult, random};
use rustix::process::Signal;

/// The policy of `docs/immutable.md`, for the repository of these tests; the second one is for whoever only reads.
fn policies() -> [String; 2] {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/immutable.md")).unwrap();
    let adds = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let adds = adds.replace("BUCKET", "bucket").replace("PREFIX", "r");
    let mut policy: serde_json::Value = serde_json::from_str(&adds).unwrap();
    let statements = policy["Statement"].as_array_mut().unwrap();
    assert_eq!(statements.pop().unwrap()["Action"][0], "s3:DeleteObject");
    assert_eq!(statements[1]["Action"].as_array_mut().unwrap().pop().unwrap(), "s3:PutObject");
    [adds, policy.to_string()]
}

fn prepared() -> (Minio, Place, Program) {
    let (minio, place) = (Minio::start(), Place::new());
    difficult(&place.path("source"));
    place.file("source/large", &random(20 << 20, 1));
    let all = minio.mover("r");
    all.ok(&["init"]);
    (minio, place, all)
}

#[test]
fn with_keys_that_only_add_backups_work_and_nothing_is_removed() {
    let (minio, place, all) = prepared();
    let [adds, reads] = policies();
    let adds = restricted(minio.mover("r").env("MOVER_S3_CREATE_ONLY", "true"), &minio, &adds);
    let source = place.text("source");
    adds.ok(&["backup", &source]);
    place.file("source/large", &random(20 << 20, 2));
    adds.ok(&["backup", &source]);
    adds.ok(&["restore", "latest", &place.text("target"), "--verify"]);
    assert_same(&place.path("source"), &place.path("target"));
    adds.ok(&["check", "--read-data"]);
    // Interrupted twice, by the same name: the second record cannot take the place of the first.
    place.file("source/large", &random(300 << 20, 3));
    for round in 0..2 {
        let slow = adds.clone().arg("--limit-upload").arg("32MiB");
        let before = minio.objects("r/data");
        let mut running = slow.start(&["--json", "backup", &source, "--source-id", "one"]);
        eventually("a pack", || minio.objects("r/data") > before);
        running.signal(Signal::TERM);
        let ran = running.wait();
        assert_eq!(ran.code, 75, "{round}: {ran:?}");
    }
    let ran = adds.ok(&["--json", "backup", &source, "--source-id", "one"]);
    assert!(ran.json("bytes_resumed").as_u64() > Some(0), "{ran:?}");
    // What would remove anything says that it may not, and has removed nothing.
    let there = || ["data", "index", "snapshots", "keys"].map(|folder| minio.objects(&format!("r/{folder}")));
    let before = there();
    place.file("password", b"another");
    let passwd = ["key", "passwd", "--new-password-file", &place.text("password")];
    for command in [&["forget", "--keep-last", "1"][..], &["tag", "--add", "x", "latest"], &passwd, &["prune", "--max-unused", "0"]] {
        assert_refused(&adds.run(command), 1, "check the credentials");
    }
    let after = there();
    assert!(before.iter().zip(&after).all(|(before, after)| after >= before), "{before:?} {after:?}");
    assert_eq!(minio.objects("r/locks"), 0);
    // Keys that may, can go on from all of it.
    all.ok(&["forget", "--keep-last", "1"]);
    all.ok(&["prune", "--max-unused", "0"]);
    all.ok(&["check", "--read-data"]);
    // And those that only read, read.
    let reads = restricted(minio.mover("r"), &minio, &reads);
    assert_refused(&reads.run(&["snapshots"]), 1, "--no-lock");
    reads.ok(&["verify", "latest", "--no-lock"]);
}

/// Each write asks to be the first; where its answer is lost, it is told that it is not, and looks.
#[test]
fn a_write_whose_answer_is_lost_is_not_taken_for_anothers() {
    let (minio, place, all) = prepared();
    let proxy = Proxy::before(minio.address());
    let adds = credentials(mover(format!("s3:{}/bucket/r", proxy.endpoint()))).arg("--s3-create-only");
    proxy.chance(3, 0);
    let puts = || proxy.heads().into_iter().filter(|head| head.starts_with("PUT ")).collect::<Vec<_>>();
    // Answers that are cut before their first byte: of a few requests, by a seed.
    for seed in 1..=3 {
        place.file("source/large", &random(30 << 20, 10 + seed));
        proxy.meet(&vec![Fault::CutAfter(0); 4]);
        proxy.chance(seed, 60);
        adds.ok(&["backup", &place.text("source")]);
    }
    assert!(proxy.met() > 6, "{}", proxy.met());
    assert!(puts().iter().all(|head| head.to_ascii_lowercase().contains("if-none-match: *")));
    all.ok(&["check", "--read-data"]);
    all.ok(&["restore", "latest", &place.text("target"), "--verify"]);
    assert_same(&place.path("source"), &place.path("target"));
}
