//! A repository in memory and small snapshots in it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use repository::Repository;
use repository::access::Access;
use repository::budget::Shares;
use repository::check::{self, Counts, Finding, ReadData, Severity};
use repository::clock::ManualClock;
use repository::compress::Compression;
use repository::crypto::kdf::Cost;
use repository::crypto::sha256;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::format::node::{Node, NodeKind, go_mode};
use repository::format::snapshot::{Snapshot, SnapshotTime};
use repository::id::{BlobId, ObjectId, PackId};
use repository::index::Index;
use repository::lock::{Identity, Lock};
use repository::object::ObjectName;
use repository::resume::Source;
use repository::store::Store;
use repository::store::memory::MemoryStore;
use repository::store::record::{Event, after_crash};
use repository::store::retry::RetryPolicy;
use repository::write::{TreeWriter, Verify, WriteMode, WriteOptions, Writer};
use repository::{parallel, prune};

pub const PASSWORD: &str = "test";

pub fn access(store: Arc<dyn Store>) -> Access {
    let retry =
        RetryPolicy { window: Duration::from_millis(200), first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(10) };
    // By a clock of their own, nobody waits for locks to settle.
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    Access { retry, clock, ..Access::new(store, Identity::new("test-host".to_owned(), "tester".to_owned())) }
}

pub fn init(store: Arc<dyn Store>) -> Repository {
    Repository::init(&access(store), PASSWORD, Cost::LOW, None).expect("init")
}

pub fn open(store: Arc<dyn Store>) -> Arc<Repository> {
    Arc::new(Repository::open(&access(store), PASSWORD).expect("open"))
}

/// Small packs, so that there are many.
pub fn shares() -> Shares {
    Shares { pack_bytes: 100_000, ..Shares::of(Shares::SMALLEST, 2).expect("enough memory") }
}

/// Bytes that do not compress.
pub fn content(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64 / 32 + 1).flat_map(|i| sha256(&[seed.to_le_bytes(), i.to_le_bytes()].concat())).take(length).collect()
}

/// One run: files of a directory tree as a snapshot, under a lock of its own.
pub fn backup(repository: &Arc<Repository>, files: u64, seed: u64) -> repository::Result<ObjectId> {
    backup_under(LockMode::Append, repository, files, seed)
}

/// Under a shared lock it is as stock restic's: it knows of no lists.
pub fn backup_under(mode: LockMode, repository: &Arc<Repository>, files: u64, seed: u64) -> repository::Result<ObjectId> {
    let load = |avoid: &HashSet<PackId>| Index::load_without(repository, 1 << 30, avoid);
    let (lock, index) = Lock::acquire_and(repository, mode, Duration::ZERO, load)?;
    let index = Arc::new(index);
    let options = WriteOptions { shares: shares(), compression: Compression::Default, verify: Verify::Sealed, mode: WriteMode::Store };
    let writer = Writer::start(repository, &index, options)?;
    let mut sealer = writer.sealer();
    let (mut root, mut below) = (TreeWriter::default(), TreeWriter::default());
    for i in 0..files {
        // Half of the files are the same in every run.
        let plain = content(30_000, if i % 2 == 0 { i } else { seed * 1000 + i });
        let id = BlobId(sha256(&plain));
        writer.store(&mut sealer, BlobKind::Data, id, &plain)?;
        let node =
            Node { size: plain.len() as u64, content: Some(vec![id]), ..Node::new(format!("file-{i:03}").into_bytes(), NodeKind::File) };
        below.push(&node)?;
    }
    let (subtree, _) = below.finish(&writer, &mut sealer)?;
    root.push(&Node { mode: go_mode(NodeKind::Dir, 0o755), subtree: Some(subtree), ..Node::new(b"dir".to_vec(), NodeKind::Dir) })?;
    let (tree, _) = root.finish(&writer, &mut sealer)?;
    let (committed, _) = writer.finish()?;
    let snapshot = snapshot(tree);
    let id = repository.save_snapshot(&snapshot, &committed)?;
    lock.release()?;
    Ok(id)
}

/// Keeps a record of trees that are there.
pub fn keep_record(repository: &Arc<Repository>, source: &Source, tree: BlobId) {
    let index = Arc::new(Index::load(repository, 1 << 30).expect("an index"));
    let options = WriteOptions { shares: shares(), compression: Compression::Default, verify: Verify::Sealed, mode: WriteMode::Store };
    let (committed, _) = Writer::start(repository, &index, options).and_then(Writer::finish).expect("nothing to write");
    repository.save_resume(source, tree, &committed).expect("a record");
}

/// A snapshot of that tree, made now.
pub fn snapshot(tree: BlobId) -> Snapshot {
    Snapshot {
        time: SnapshotTime(Timestamp::now()),
        parent: None,
        tree,
        paths: vec!["/source".to_owned()],
        hostname: "test-host".to_owned(),
        username: String::new(),
        uid: 0,
        gid: 0,
        excludes: Vec::new(),
        tags: Vec::new(),
        original: None,
        program_version: String::new(),
        summary: None,
        rest: BTreeMap::new(),
    }
}

/// Every moment from an event on: of what was under way, nothing, everything, or any part may have arrived. How many states
/// that were. Several are looked at in one moment: most of the time is waited for locks to settle.
pub fn after_each_crash(log: &[Event], from: usize, look: impl Fn(usize, MemoryStore) + Sync) -> usize {
    const THREADS: usize = 8;
    let states: Vec<(usize, u64)> = (from..=log.len()).flat_map(|events| (0..3).map(move |part| (events, part))).collect();
    let state = |(): &mut (), &(events, part): &(usize, u64)| {
        let mut seed = events as u64;
        let mut coin = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 63 == 1
        };
        look(events, after_crash(log, events, |_| part == 0 || part == 1 && coin()));
        Ok(())
    };
    parallel::each(THREADS, &states, || (), state).expect("looking does not fail, it panics");
    states.len()
}

/// Makes a repository with two runs in it.
pub fn fill(store: &(impl Store + Clone + 'static)) {
    drop(init(Arc::new(store.clone())));
    for seed in 1..=2 {
        backup(&open(Arc::new(store.clone())), 20, seed).expect("a backup");
    }
}

/// A repository with two runs in it.
pub fn healthy() -> MemoryStore {
    let store = MemoryStore::default();
    fill(&store);
    store
}

/// The same objects again.
pub fn copy(store: &MemoryStore) -> MemoryStore {
    let objects = store.objects.lock().expect("no holder panics").clone();
    MemoryStore { objects: Arc::new(Mutex::new(objects)), ..store.clone() }
}

/// Changes what is stored.
pub fn change(store: &MemoryStore, name: &ObjectName, change: impl Fn(&mut Vec<u8>)) {
    let mut objects = store.objects.lock().expect("no holder panics");
    let (body, _) = objects.get_mut(name).expect("an object of that name");
    let mut bytes = body.to_vec();
    change(&mut bytes);
    *body = Bytes::from(bytes);
}

/// Everything that a full check finds.
pub fn findings(repository: &Arc<Repository>) -> Vec<Finding> {
    let found = Mutex::new(Vec::new());
    let on_finding = |finding: Finding| found.lock().expect("no holder panics").push(finding);
    check::run(repository, ReadData::All, &shares(), &Counts::default(), &on_finding).expect("a check that goes to its end");
    found.into_inner().expect("no holder panics")
}

/// Told of nothing.
pub const UNWATCHED: prune::Watch<'_> = prune::Watch { on_planned: &|_| {}, on_repacked: &|_| {} };

/// What is damaged.
pub fn errors(repository: &Arc<Repository>) -> Vec<Finding> {
    findings(repository).into_iter().filter(|finding| finding.severity == Severity::Error).collect()
}
