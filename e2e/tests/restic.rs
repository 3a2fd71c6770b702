//! Stock restic, old and new, as the judge of what we write; and we as reader of what it writes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use e2e::eventually;
use e2e::place::objects;
use e2e::program::{Program, RESTICS, mover, restic};
use e2e::tree::{assert_same, difficult, many, random};
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

/// A source that is hard to save, and an empty repository of ours.
fn ours() -> (TempDir, Program, String) {
    let dir = tempdir().unwrap();
    difficult(&dir.path().join("source"));
    let repository = dir.path().join("repository").to_str().unwrap().to_owned();
    let program = mover(&repository);
    program.ok(&["init"]);
    (dir, program, repository)
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

fn snapshots(restic: &Program) -> Vec<serde_json::Value> {
    serde_json::from_str(&restic.ok(&["snapshots", "--json"]).stdout).unwrap()
}

#[test]
fn restic_restores_and_checks_what_we_write() {
    let (dir, mover, repository) = ours();
    let source = path(&dir, "source");
    mover.ok(&["backup", &source]);
    let ours = path(&dir, "ours");
    mover.ok(&["restore", "latest", &ours, "--verify"]);
    assert_same(Path::new(&source), Path::new(&ours));
    for version in RESTICS {
        let restic = restic(version, &repository);
        restic.ok(&["check", "--read-data"]);
        let theirs = path(&dir, version);
        restic.ok(&["restore", "latest", "--target", &theirs]);
        // restic restores no hard links of symbolic links, and 0.14 no attributes of links: ours is compared with the
        // source above, theirs on content.
        let content = |at: &Path| std::fs::read(at.join("random")).unwrap();
        let restored = Path::new(&theirs).join(source.trim_start_matches('/'));
        assert!(content(Path::new(&source)) == content(&restored));
        let count = |at: &Path| e2e::tree::manifest(at).len();
        assert_eq!(count(Path::new(&source)), count(&restored));
    }
}

/// The strict one: restic encodes every tree again and fails on any byte that differs.
#[test]
fn restic_rewrites_our_trees_without_a_change() {
    let (dir, mover, repository) = ours();
    mover.ok(&["backup", &path(&dir, "source")]);
    mover.ok(&["backup", &path(&dir, "source"), "--as", "/shop/data", "--tag", "pvc-uid=1,backup-uid=2"]);
    let restic = restic("restic-new", &repository);
    let before = snapshots(&restic);
    let ran = restic.ok(&["rewrite", "--exclude", "no-such-name-anywhere"]);
    assert!(ran.stdout.contains("no snapshots were modified"), "{ran:?}");
    assert_eq!(snapshots(&restic), before);
}

/// Same content, same trees, whoever wrote them.
#[test]
fn restic_stores_no_directory_again_that_we_stored() {
    let (dir, mover, repository) = ours();
    // Chunks differ above the minimum, so the trees of such files do too. Two differences are meant: attributes are
    // sorted (restic keeps the kernel's order), and pipes carry no device number, which would change from pod to pod.
    xattr::remove(dir.path().join("source/d"), "user.binary").unwrap();
    xattr::remove(dir.path().join("source/plain.txt"), "user.comment").unwrap();
    xattr::remove(dir.path().join("source/plain.txt"), "user.empty").unwrap();
    for big in ["random", "sparse", "text", "pipe"] {
        std::fs::remove_file(dir.path().join("source").join(big)).unwrap();
    }
    mover.ok(&["backup", &path(&dir, "source")]);
    let restic = restic("restic-new", &repository);
    restic.ok(&["backup", &path(&dir, "source"), "--force"]);
    let found = snapshots(&restic);
    let tree = |at: usize| {
        let id = found[at]["id"].as_str().unwrap();
        let shown = restic.ok(&["cat", "tree", &format!("{id}:{}", path(&dir, "source"))]);
        shown.stdout.lines().filter(|line| line.starts_with('{')).collect::<String>()
    };
    assert_eq!(tree(0), tree(1));
}

#[test]
fn restic_goes_on_from_ours_and_we_from_its() {
    let (dir, mover, repository) = ours();
    let source = dir.path().join("source");
    let backup = ["backup", source.to_str().unwrap()];
    mover.ok(&backup);
    for version in RESTICS {
        let restic = restic(version, &repository);
        std::fs::write(source.join(format!("new-for-{version}")), random(900_000, 7)).unwrap();
        restic.ok(&backup);
        restic.ok(&["check", "--read-data"]);
        // Times must lie safely before the parent's start for files to count as unchanged.
        std::thread::sleep(std::time::Duration::from_millis(3100));
        restic.ok(&backup);
        let summary = mover.ok(&["backup", source.to_str().unwrap(), "--json"]);
        assert_eq!(summary.json("files_new"), 0, "{summary:?}");
        assert_eq!(summary.json("files_changed"), 0, "{summary:?}");
        restic.ok(&["forget", "--keep-last", "1", "--prune"]);
        restic.ok(&["check", "--read-data"]);
        mover.ok(&["check", "--read-data"]);
    }
    let restored = dir.path().join("restored");
    mover.ok(&["restore", "latest", restored.to_str().unwrap()]);
    assert_same(&source, &restored);
}

#[test]
fn restic_copies_ours_elsewhere() {
    let (dir, mover, repository) = ours();
    mover.ok(&["backup", &path(&dir, "source")]);
    let other = path(&dir, "copy");
    let copy = restic("restic-new", &other).env("RESTIC_FROM_PASSWORD", e2e::program::PASSWORD).env("RESTIC_FROM_REPOSITORY", &repository);
    copy.ok(&["init", "--copy-chunker-params"]);
    copy.ok(&["copy"]);
    copy.ok(&["check", "--read-data"]);
    let trees = |program: &Program| snapshots(program)[0]["tree"].clone();
    assert_eq!(trees(&restic("restic-new", &repository)), trees(&copy));
    // The same chunker in the copy: nothing is stored again.
    let again = e2e::program::mover(&other).ok(&["backup", &path(&dir, "source"), "--json", "--parent", "none"]);
    assert_eq!(again.json("data_blobs"), 0, "{again:?}");
}

#[test]
fn we_read_all_that_restic_writes() {
    for (version, format, compression) in
        [("restic-old", "1", "off"), ("restic-old", "2", "auto"), ("restic-new", "2", "off"), ("restic-new", "2", "max")]
    {
        let dir = tempdir().unwrap();
        let source = dir.path().join("source");
        difficult(&source);
        many(&source.join("many"), 700);
        let repository = path(&dir, "repository");
        let restic = restic(version, &repository);
        restic.ok(&["init", "--repository-version", format]);
        let ran = if format == "1" {
            restic.run(&["backup", source.to_str().unwrap()])
        } else {
            restic.run(&["--compression", compression, "backup", source.to_str().unwrap()])
        };
        assert_eq!(ran.code, 0, "{ran:?}");
        let mover = mover(&repository);
        mover.ok(&["check", "--read-data"]);
        let restored = dir.path().join("restored");
        mover.ok(&["restore", "latest", restored.to_str().unwrap(), "--verify"]);
        let (mut expected, mut found) = (e2e::tree::manifest(&source), e2e::tree::manifest(&restored));
        if version == "restic-old" {
            // 0.14 saves no attributes of anything but files and directories, and no name that is not UTF-8 as a target.
            for name in [&b"rawlink"[..], b"link", b"d/hardlink-of-link", b"dangling"] {
                expected.remove(name);
                found.remove(name);
            }
        }
        e2e::tree::assert_manifests(&expected, &found);
        let written = mover.run(&["backup", source.to_str().unwrap()]);
        if format == "1" {
            assert_eq!(written.code, 1);
            assert!(written.stderr.contains("upgrade_repo_v2"), "{written:?}");
        } else {
            assert_eq!(written.code, 0, "{written:?}");
            restic.ok(&["check", "--read-data"]);
        }
    }
}

#[test]
fn restics_maintenance_waits_for_our_locks() {
    let (dir, mover, repository) = ours();
    mover.ok(&["backup", &path(&dir, "source")]);
    // Holds its lock until its standard input ends.
    let mut running = mover.start(&["backup", "--stdin", "--stdin-filename", "stream"]);
    let locks = dir.path().join("repository/locks");
    eventually("our lock", || objects(&locks) == 1);
    std::io::Write::write_all(running.child().stdin.as_mut().unwrap(), b"content").unwrap();
    for version in RESTICS {
        let restic = restic(version, &repository);
        for command in [&["prune"][..], &["check"], &["forget", "--keep-last", "1"]] {
            let ran = restic.run(command);
            assert!(ran.code != 0 && ran.stderr.contains("lock"), "{command:?}: {ran:?}");
            assert!(version == "restic-old" || ran.code == 11, "{command:?}: {ran:?}");
        }
        // Beside us: readers and writers.
        restic.ok(&["snapshots"]);
    }
    let ran = mover.run(&["key", "passwd", "--new-password-file", "/dev/null"]);
    assert_eq!(ran.code, 11, "{ran:?}");
    assert!(ran.stderr.contains("by run "), "{ran:?}");
    assert_eq!(running.wait().code, 0);
    assert_eq!(objects(&locks), 0);
    restic("restic-new", &repository).ok(&["prune"]);
}

#[test]
fn we_wait_for_restics_maintenance() {
    let (dir, mover, repository) = ours();
    let source = path(&dir, "source");
    mover.ok(&["backup", &source]);
    let mut checking = restic("restic-new", &repository).start(&["check", "--read-data"]);
    let locks = dir.path().join("repository/locks");
    eventually("restic's lock", || objects(&locks) == 1);
    checking.signal(Signal::STOP);
    assert_eq!(objects(&locks), 1, "restic was faster than its being stopped");
    for command in [&["backup", &source][..], &["snapshots"], &["check"], &["restore", "latest", "/nonexistent/x"]] {
        let ran = mover.run(command);
        assert_eq!(ran.code, 11, "{command:?}: {ran:?}");
        assert!(ran.stderr.contains("exclusively by") && ran.stderr.contains("hint: wait with --retry-lock"), "{ran:?}");
    }
    let waiting = mover.start(&["backup", &source, "--retry-lock", "60s"]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    checking.signal(Signal::CONT);
    assert_eq!(checking.wait().code, 0);
    assert_eq!(waiting.wait().code, 0);
}

/// No index at all: what packs say of themselves is enough, ours and restic's.
#[test]
fn an_index_that_is_gone_comes_back() {
    let (dir, mover, repository) = ours();
    let source = path(&dir, "source");
    mover.ok(&["backup", &source]);
    let stock = restic("restic-new", &repository);
    std::fs::write(dir.path().join("source/later"), random(3 << 20, 5)).unwrap();
    stock.ok(&["backup", &source]);
    let index = dir.path().join("repository/index");
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::create_dir(&index).unwrap();
    std::fs::write(index.join("ab".repeat(32)), b"nonsense").unwrap();
    assert_eq!(mover.run(&["check"]).code, 1);
    let said = mover.ok(&["repair", "index"]);
    assert!(said.stdout.contains("say --apply") && objects(&index) == 1, "{said:?}");
    let done = mover.ok(&["--json", "repair", "index", "--apply"]).lines("repair_summary").remove(0);
    assert_eq!((done["index_files_removed"].as_u64(), done["packs_forgotten"].as_u64()), (Some(1), Some(0)), "{done:#}");
    assert!(mover.ok(&["repair", "index"]).stdout.contains("nothing to repair"));
    for version in RESTICS {
        restic(version, &repository).ok(&["check", "--read-data"]);
    }
    mover.ok(&["restore", "latest", &path(&dir, "again")]);
    assert_same(&dir.path().join("source"), &dir.path().join("again"));
}
