//! A real tree of more than 100,000 files: module caches, a tool chain, and what the system shares.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::minio::Minio;
use e2e::tree::assert_same;
use tempfile::tempdir;

const FILES: u64 = 100_000;

fn sources() -> Vec<PathBuf> {
    let go = |name: &str| {
        let out = Command::new("go").args(["env", name]).output().unwrap();
        PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
    };
    let cargo =
        std::env::var_os("CARGO_HOME").map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"), PathBuf::from);
    // As many as it takes, and of a module cache its parts, the small ones first: with Kubernetes in it, the whole would be
    // most of a run's time.
    let parts = std::fs::read_dir(go("GOMODCACHE")).into_iter().flatten().flatten().map(|part| part.path());
    let mut parts: Vec<PathBuf> = parts.filter(|part| part.is_dir()).collect();
    parts.sort_by_key(|part| files_below(part));
    let mut sources = Vec::new();
    let mut found = 0;
    for source in [go("GOROOT"), PathBuf::from("/usr/share"), cargo.join("registry/src")].into_iter().chain(parts) {
        if found < FILES {
            found += files_below(&source);
            sources.push(source);
        }
    }
    sources
}

fn files_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path()),
        Ok(kind) => u64::from(kind.is_file()),
        Err(_) => 0,
    };
    entries.map(count).sum()
}

#[test]
fn to_minio_and_back_by_restic_and_by_us() {
    let dir = tempdir().unwrap();
    let sources = sources();
    let text: Vec<&str> = sources.iter().map(|source| source.to_str().unwrap()).collect();
    let minio = Minio::start();
    let mover = minio.mover("real");
    mover.ok(&["init"]);
    let ran = mover.ok(&[&["backup", "--json"], &text[..]].concat());
    let files = ran.json("total_files").as_u64().unwrap();
    println!("{files} files, {} bytes in {} s", ran.json("total_bytes"), ran.json("seconds"));
    assert!(files >= FILES, "{files} files are too few in {text:?}");
    let restic = minio.restic("restic-new", "real");
    restic.ok(&["check", "--read-data"]);
    let restored = |name: &str, source: &Path| dir.path().join(name).join(source.strip_prefix("/").unwrap());
    for name in ["ours", "theirs"] {
        let target = dir.path().join(name);
        let target = target.to_str().unwrap();
        match name {
            "ours" => mover.ok(&["restore", "latest", target]),
            _ => restic.ok(&["restore", "latest", "--target", target]),
        };
        for source in &sources {
            assert_same(source, &restored(name, source));
        }
        std::fs::remove_dir_all(target).unwrap();
    }
}
