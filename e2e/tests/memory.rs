//! One number caps the memory: peak resident size stays below `--memory` (256 MiB by default) plus 64 MiB.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::process::Stdio;

use e2e::minio::Minio;
use e2e::program::{PASSWORD, Program, mover};
use e2e::tree::{many, random};
use tempfile::tempdir;

const LIMIT_MIB: u64 = 256 + 64;

fn assert_bounded(what: &str, mover: &Program, args: &[&str]) {
    let peak = mover.peak_memory_mib(args);
    println!("{what}: peak {peak} MiB of {LIMIT_MIB}");
    assert!(peak <= LIMIT_MIB, "{what}: {peak} MiB");
}

#[test]
fn four_gibibytes_of_random_data() {
    let dir = tempdir().unwrap();
    let mover = mover(dir.path().join("repository"));
    mover.ok(&["init"]);
    let timed = Program::new("/usr/bin/time").env("MOVER_REPOSITORY", dir.path().join("repository")).env("MOVER_PASSWORD", PASSWORD);
    let path = e2e::program::built("mover");
    let args = ["-f", "peak %M", path.to_str().unwrap(), "backup", "--stdin", "--stdin-filename", "stream", "-q"];
    let mut child = timed.command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for seed in 0..256 {
        stdin.write_all(&random(16 << 20, seed)).unwrap();
    }
    drop(stdin);
    let ran = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    let peak: u64 = stderr.trim().strip_prefix("peak ").unwrap_or_else(|| panic!("{stderr}")).parse::<u64>().unwrap() / 1024;
    println!("backup of 4 GiB: peak {peak} MiB of {LIMIT_MIB}");
    assert!(ran.status.success() && peak <= LIMIT_MIB, "{peak} MiB");
    assert_bounded("restore of 4 GiB", &mover, &["restore", "latest", dir.path().join("target").to_str().unwrap()]);
    fs::remove_dir_all(dir.path().join("target")).unwrap();
    assert_bounded("check of 4 GiB", &mover, &["check", "--read-data"]);
}

#[test]
fn two_hundred_thousand_small_files() {
    let dir = tempdir().unwrap();
    let mover = mover(dir.path().join("repository"));
    mover.ok(&["init"]);
    let source = dir.path().join("source");
    many(&source, 200_000);
    let backup = ["backup", source.to_str().unwrap()];
    assert_bounded("backup of 200,000 files", &mover, &backup);
    assert_bounded("the same again", &mover, &backup);
    assert_bounded("restore of 200,000 files", &mover, &["restore", "latest", dir.path().join("target").to_str().unwrap()]);
}

/// On S3, beside others, which takes more of it than under an exclusive lock.
#[test]
#[ignore = "minutes: make nightly"]
fn a_prune_of_a_million_blobs() {
    const EACH: u32 = 550_000;
    // Half a million files are made in memory: a disk takes minutes.
    let (dir, minio) = (tempfile::tempdir_in("/dev/shm").unwrap(), Minio::start());
    let (mover, source) = (minio.mover("r"), dir.path().join("source"));
    mover.ok(&["init"]);
    for part in 0..2 {
        for i in 0..EACH {
            let folder = source.join(format!("{:03}", i / 1000));
            if i % 1000 == 0 {
                fs::create_dir_all(&folder).unwrap();
            }
            // Every tenth is the same in both, so that packs are needed in part.
            let number = if i % 10 == 0 { i } else { part * EACH + i };
            fs::write(folder.join(format!("file-{i:06}")), format!("content of file {number}\n")).unwrap();
        }
        mover.ok(&["--memory", "1GiB", "backup", source.to_str().unwrap()]);
        fs::remove_dir_all(&source).unwrap();
    }
    mover.ok(&["forget", "--keep-last", "1"]);
    let blobs = mover.ok(&["--json", "prune", "--dry-run"]);
    let (needed, unused) = (blobs.json("blobs_needed").as_u64().unwrap(), blobs.json("blobs_unused").as_u64().unwrap());
    println!("{needed} blobs are needed, {unused} are not");
    assert!(needed + unused > 1_000_000);
    assert_bounded("prune of a million blobs", &mover, &["prune", "--max-unused", "0%"]);
    assert_bounded("check of half a million", &mover, &["check", "--read-data"]);
    assert_bounded("verify of half a million", &mover, &["verify", "latest"]);
    let left = mover.ok(&["--json", "prune", "--dry-run", "--max-unused", "0%"]);
    assert_eq!((left.json("blobs_unused").as_u64(), left.json("bytes_freed").as_u64()), (Some(0), Some(0)));
}

#[test]
fn one_directory_of_five_hundred_thousand_entries() {
    let dir = tempdir().unwrap();
    let mover = mover(dir.path().join("repository"));
    mover.ok(&["init"]);
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for i in 0..500_000 {
        // Every hundredth has content of its own.
        let content = if i % 100 == 0 { format!("{i}") } else { String::new() };
        fs::write(source.join(format!("an-entry-with-a-name-of-usual-length-{i:06}")), content).unwrap();
    }
    let backup = ["backup", source.to_str().unwrap()];
    assert_bounded("backup of 500,000 entries", &mover, &backup);
    assert_bounded("the same again", &mover, &backup);
    assert_bounded("restore of 500,000 entries", &mover, &["restore", "latest", dir.path().join("target").to_str().unwrap()]);
    assert_bounded("check of 500,000 entries", &mover, &["check", "--read-data"]);
    assert_bounded("rewrite of 500,000 entries", &mover, &["rewrite", "latest", "--exclude", "*-000100"]);
    assert_bounded("prune of 500,000 entries", &mover, &["prune", "--max-unused", "0%"]);
    let from = dir.path().join("repository");
    let other = e2e::program::mover(dir.path().join("other")).env("MOVER_FROM_REPOSITORY", from).env("MOVER_FROM_PASSWORD", PASSWORD);
    other.ok(&["init"]);
    assert_bounded("copy of 500,000 entries", &other, &["copy"]);
    other.ok(&["check", "--read-data"]);
}
