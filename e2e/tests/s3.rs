//! S3 as it is (MinIO), and as it is when it does not work.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use e2e::minio::{Minio, credentials};
use e2e::program::{Program, RESTICS, mover};
use e2e::proxy::{Fault, Proxy};
use e2e::tree::{assert_same, difficult, random};
use repository::object::{Object, ObjectKind};
use repository::store::{AsOf, PutMode, Store, StoreErrorKind, late};
use tempfile::{TempDir, tempdir};

fn source() -> (TempDir, String) {
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    difficult(&source);
    std::fs::write(source.join("larger"), random(40 << 20, 3)).unwrap();
    let text = source.to_str().unwrap().to_owned();
    (dir, text)
}

fn round_trip(mover: &Program, dir: &TempDir, source: &str) {
    mover.ok(&["init"]);
    mover.ok(&["backup", source]);
    let restored = dir.path().join("restored");
    mover.ok(&["restore", "latest", restored.to_str().unwrap(), "--verify"]);
    assert_same(Path::new(source), &restored);
    mover.ok(&["check", "--read-data"]);
}

#[test]
fn over_http_and_restic_reads_it() {
    let (dir, source) = source();
    let minio = Minio::start();
    round_trip(&minio.mover("deep/prefix"), &dir, &source);
    for version in RESTICS {
        let restic = minio.restic(version, "deep/prefix");
        restic.ok(&["check", "--read-data"]);
        restic.ok(&["backup", &source]);
    }
    // The other way to say the same.
    let by_options = credentials(mover("s3://bucket/deep/prefix"));
    by_options.ok(&["check", "--s3-endpoint", &minio.endpoint()]);
    by_options.env("AWS_ENDPOINT_URL", minio.endpoint()).ok(&["check"]);
}

#[test]
fn over_https_with_a_ca_of_ones_own() {
    let (dir, source) = source();
    let minio = Minio::start_tls();
    let mover = minio.mover("r");
    let refused = mover.run(&["init"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("certificate"), "{refused:?}");
    let ca = minio.ca();
    round_trip(&mover.env("AWS_CA_BUNDLE", &ca), &dir, &source);
    minio.mover("r").ok(&["snapshots", "--s3-ca", ca.to_str().unwrap()]);
}

#[test]
fn the_store_conforms() {
    let minio = Minio::start();
    repository::store::conformance::run(&minio.store("conformance"));
}

#[test]
fn a_bucket_that_goes_under_way_is_said_at_once() {
    let (_dir, source) = source();
    let minio = Minio::start();
    let mover = minio.mover("r");
    mover.ok(&["init"]);
    let mut running = mover.start(&["backup", &source, "--limit-upload", "4MiB"]);
    e2e::eventually("a pack", || minio.objects("r/data") > 0);
    minio.lose_bucket();
    let start = std::time::Instant::now();
    assert!(running.child().try_wait().unwrap().is_none());
    let ran = running.wait();
    assert!(ran.code == 1 && ran.stderr.contains("create the bucket"), "{ran:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
    let gone = mover.run(&["snapshots"]);
    assert!(gone.code == 1 && gone.stderr.contains("create the bucket"), "{gone:?}");
}

/// A prune beside backups rests on it.
#[test]
fn what_was_signed_long_ago_is_refused() {
    let minio = Minio::start();
    let store = minio.store("late");
    let now = jiff::Timestamp::now();
    assert!(late::is_refused(&store, now).unwrap());
    assert_eq!(minio.objects("late"), 0);
    // A moment ago is soon enough.
    let object = Object::content_named(ObjectKind::Index, vec![7; 3 << 20].into());
    let minutes = |count: u64| AsOf::Then(now - Duration::from_secs(60 * count));
    store.put_as_of(&object, PutMode::Replace, minutes(5)).unwrap();
    assert_eq!(store.delete_as_of(&object.name, minutes(20)).unwrap_err().kind, StoreErrorKind::ClockSkew);
    store.delete_as_of(&object.name, minutes(5)).unwrap();
    assert_eq!(minio.objects("late"), 0);
}

#[test]
fn a_packs_hash_is_name_checksum_and_signature_at_once() {
    let (_dir, source) = source();
    let minio = Minio::start();
    let proxy = Proxy::before(minio.address());
    let mover = credentials(mover(format!("s3:{}/bucket/r", proxy.endpoint())));
    mover.ok(&["init"]);
    mover.ok(&["backup", &source]);
    let mut packs = 0;
    for head in proxy.heads() {
        let Some(path) = head.strip_prefix("PUT ").and_then(|rest| rest.split(' ').next()).filter(|path| path.contains("/data/")) else {
            continue;
        };
        let name = path.split('?').next().unwrap().rsplit('/').next().unwrap();
        let header = |name: &str| {
            let found = head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
            found.unwrap_or_else(|| panic!("no {name} in {head}")).1.trim().to_owned()
        };
        let bytes: Vec<u8> = (0..64).step_by(2).map(|at| u8::from_str_radix(&name[at..at + 2], 16).unwrap()).collect();
        assert_eq!(header("x-amz-content-sha256"), name);
        assert_eq!(header("x-amz-checksum-sha256"), base64(&bytes));
        assert!(!head.to_ascii_lowercase().contains("x-amz-checksum-crc"), "the SDK added a checksum of its own");
        packs += 1;
    }
    assert!(packs > 0, "no pack was seen");
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().chain([0, 0].iter()).take(3).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        (0..4).for_each(|i| text.push(if i <= three.len() { LETTERS[(number >> (18 - 6 * i) & 63) as usize] as char } else { '=' }));
    }
    text
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let minio = Minio::start();
    minio.mover("r").ok(&["init"]);
    let location = minio.location("r");
    let cases: [(Program, &str, i32); 4] = [
        (mover(&location).env("AWS_ACCESS_KEY_ID", "nobody").env("AWS_SECRET_ACCESS_KEY", "nothing1"), "check the credentials", 1),
        (credentials(mover(location.replace("/bucket/", "/no-such-bucket/"))), "create the bucket", 1),
        (credentials(mover(minio.location("elsewhere"))), "there is no repository", 10),
        (credentials(mover(&location)).env("MOVER_PASSWORD", "wrong"), "wrong password", 12),
    ];
    for (program, words, code) in cases {
        let start = std::time::Instant::now();
        let ran = program.run(&["snapshots"]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{words} took {:?}", start.elapsed());
    }
    let again = minio.mover("r").run(&["init"]);
    assert!(again.code == 1 && again.stderr.contains("config is there already"), "{again:?}");
}

#[test]
fn what_passes_is_waited_for() {
    let (dir, source) = source();
    let minio = Minio::start();
    let proxy = Proxy::before(minio.address());
    let mover = credentials(mover(format!("s3:{}/bucket/r", proxy.endpoint())));
    mover.ok(&["init"]);
    let slow_down = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let internal = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>";
    let faults = [
        Fault::Answer("503 Slow Down", slow_down),
        Fault::Answer("500 Internal Server Error", internal),
        Fault::Answer("200 OK", slow_down),
        Fault::CutAfter(0),
        Fault::Answer("502 Bad Gateway", ""),
        Fault::CutAfter(40),
        Fault::Answer("429 Too Many Requests", ""),
    ];
    proxy.meet(&faults);
    let ran = mover.ok(&["backup", &source, "--json"]);
    assert!(ran.json("requests")["retries"].as_u64().unwrap() >= 6, "{ran:?}");
    assert!(!ran.lines("retry").is_empty());
    proxy.meet(&[&[Fault::CutAfter(100_000)], &faults[..3]].concat());
    let restored = dir.path().join("restored");
    mover.ok(&["restore", "latest", restored.to_str().unwrap()]);
    assert!(proxy.met() == 11, "{} faults were met", proxy.met());
    assert_same(Path::new(&source), &restored);
    minio.restic("restic-new", "r").ok(&["check", "--read-data"]);
}

#[test]
fn a_body_that_stalls_is_given_up_and_asked_for_again() {
    let (dir, source) = source();
    let minio = Minio::start();
    let proxy = Proxy::before(minio.address());
    let mover = credentials(mover(format!("s3:{}/bucket/r", proxy.endpoint())));
    mover.ok(&["init"]);
    mover.ok(&["backup", &source]);
    // Small answers (config, key, lock, index) fit; the first packs do not.
    proxy.meet(&[Fault::StallAfter(300_000)]);
    let restored = dir.path().join("restored");
    let ran = mover.ok(&["restore", "latest", restored.to_str().unwrap(), "--json"]);
    assert_eq!(proxy.met(), 1);
    assert!(ran.json("requests")["retries"].as_u64().unwrap() >= 1, "{ran:?}");
    assert_same(Path::new(&source), &restored);
}

#[test]
fn what_does_not_pass_ends_with_the_reason() {
    let (_dir, source) = source();
    let minio = Minio::start();
    let proxy = Proxy::before(minio.address());
    let mover = credentials(mover(format!("s3:{}/bucket/r", proxy.endpoint())));
    mover.ok(&["init"]);
    let error = |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    for (status, code, words) in [
        ("403 Forbidden", "AccessDenied", "check the credentials"),
        ("403 Forbidden", "RequestTimeTooSkewed", "set this machine's clock"),
        ("400 Bad Request", "ExpiredToken", "the credentials have expired"),
        ("507 Insufficient Storage", "XMinioStorageFull", "make room"),
    ] {
        let body: &'static str = Box::leak(error(code).into_boxed_str());
        proxy.meet(&[Fault::Answer(status, body)]);
        let ran = mover.run(&["backup", &source]);
        assert!(ran.code == 1 && ran.stderr.contains(words), "{code}: {ran:?}");
        proxy.meet(&[]);
    }
    mover.ok(&["backup", &source]);
    mover.ok(&["check", "--read-data"]);
}

#[test]
fn minio_killed_and_started_again_in_the_middle() {
    let (dir, source) = source();
    let mut minio = Minio::start();
    let mover = minio.mover("r");
    mover.ok(&["init"]);
    let running = mover.start(&["backup", &source, "--limit-upload", "16MiB", "--json"]);
    std::thread::sleep(Duration::from_millis(1500));
    minio.restart(Duration::from_secs(2));
    let ran = running.wait();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.json("requests")["retries"].as_u64().unwrap() >= 1, "the server was away and nobody noticed: {ran:?}");
    mover.ok(&["check", "--read-data"]);
    let restored = dir.path().join("restored");
    mover.ok(&["restore", "latest", restored.to_str().unwrap()]);
    assert_same(Path::new(&source), &restored);
}
