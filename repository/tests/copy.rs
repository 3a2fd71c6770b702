//! Copying between repositories: what arrives is whole, at every moment and after every crash.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use repository::copy::{self, Copied, Watcher};
use repository::format::lock::LockMode;
use repository::index::Index;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::{ObjectKind, ObjectName};
use repository::snapshots::Filter;
use repository::store::Store;
use repository::store::memory::MemoryStore;
use repository::store::record::Recording;
use repository::write::WriteMode;
use repository::{Error, Repository};

#[derive(Default)]
struct Bytes {
    planned: AtomicU64,
    copied: AtomicU64,
}

impl Watcher for Bytes {
    fn planned(&self, bytes: u64) {
        self.planned.store(bytes, Ordering::Relaxed);
    }

    fn copied(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn copy(from: &MemoryStore, to: &(impl Store + Clone + 'static), mode: WriteMode) -> repository::Result<Copied> {
    let (from, to) = (common::open(Arc::new(from.clone())), common::open(Arc::new(to.clone())));
    let lock = Lock::acquire(&to, LockMode::Shared, Duration::ZERO)?;
    let all = from.snapshots(&Filter::default())?;
    let bytes = Bytes::default();
    let copied = copy::run(&from, &to, &all, common::shares(), mode, &bytes)?;
    let done = if mode == WriteMode::DryRun { 0 } else { copied.bytes };
    assert_eq!((bytes.planned.into_inner(), bytes.copied.into_inner()), (copied.bytes, done));
    lock.release()?;
    Ok(copied)
}

fn empty() -> Recording<MemoryStore> {
    let store = Recording::new(MemoryStore::default());
    drop(common::init(Arc::new(store.clone())));
    store
}

fn trees(repository: &Repository) -> Vec<repository::id::BlobId> {
    repository.snapshots(&Filter::default()).unwrap().into_iter().map(|stored| stored.snapshot.tree).collect()
}

#[test]
fn what_is_copied_is_whole_and_copied_once() {
    let (from, to) = (common::healthy(), empty());
    let dry = copy(&from, &to, WriteMode::DryRun).unwrap();
    // Twenty files a run of which ten are the same, and two trees a run.
    assert_eq!((dry.saved.len(), dry.blobs, to.inner().names(ObjectKind::Snapshot).unwrap().len()), (0, 34, 0));
    assert!(to.inner().names(ObjectKind::Pack).unwrap().is_empty());
    let copied = copy(&from, &to, WriteMode::Store).unwrap();
    assert_eq!((copied.saved.len(), copied.known, copied.blobs), (2, 0, 34));
    let (source, target) = (common::open(Arc::new(from.clone())), common::open(Arc::new(to.clone())));
    assert_eq!(common::findings(&target), []);
    assert_eq!(trees(&target), trees(&source));
    for stored in target.snapshots(&Filter::default()).unwrap() {
        assert!(copied.saved.contains(&(stored.snapshot.original.unwrap(), stored.id)));
    }
    // Again: nothing is written but a lock.
    let packs = to.inner().names(ObjectKind::Pack).unwrap();
    let again = copy(&from, &to, WriteMode::Store).unwrap();
    assert_eq!((again.saved.len(), again.known, again.blobs, to.inner().names(ObjectKind::Pack).unwrap()), (0, 2, 0, packs));
    // A third run brings only what is new in it, and a copy of a copy is known where the first came from.
    common::backup(&common::open(Arc::new(from.clone())), 20, 3).unwrap();
    let third = copy(&from, &to, WriteMode::Store).unwrap();
    assert_eq!((third.saved.len(), third.known, third.blobs), (1, 2, 12));
    assert_eq!(copy(to.inner(), &from, WriteMode::Store).unwrap().known, 3);
}

/// Every moment of a copy: of what was under way, nothing, everything, or any part may have arrived.
#[test]
fn whatever_a_crash_leaves_is_whole_and_the_next_one_goes_on() {
    let (from, to) = (common::healthy(), empty());
    common::backup(&common::open(Arc::new(to.clone())), 20, 1).unwrap();
    let began = to.log().len();
    assert_eq!(copy(&from, &to, WriteMode::Store).unwrap().saved.len(), 2);
    let log = to.log();
    let states = common::after_each_crash(&log, began, |events, store| {
        let found = common::errors(&common::open(Arc::new(store.clone())));
        assert!(found.is_empty(), "after {events} of {} events: {found:?}", log.len());
        unlock(&common::open(Arc::new(store.clone())), UnlockMode::All).unwrap();
        let next = copy(&from, &store, WriteMode::Store).unwrap();
        assert_eq!(next.saved.len() as u64 + next.known, 2, "after {events} events");
        assert_eq!(common::errors(&common::open(Arc::new(store.clone()))), []);
        assert_eq!(store.names(ObjectKind::Snapshot).unwrap().len(), 3);
    });
    assert!(states > 50, "only {states} states were looked at");
}

/// What cannot be read is not copied, and nothing of it becomes visible; another copy of it serves.
#[test]
fn damage_is_not_copied() {
    let healthy = common::healthy();
    let index = Index::load(&common::open(Arc::new(healthy.clone())), 1 << 30).unwrap();
    for pack in index.by_pack() {
        let (from, to) = (common::copy(&healthy), empty());
        common::change(&from, &ObjectName::pack(pack.id), |bytes| bytes[40] ^= 1);
        assert!(matches!(copy(&from, &to, WriteMode::Store), Err(Error::Damaged { .. })));
        assert!(to.inner().names(ObjectKind::Snapshot).unwrap().is_empty());
        // The same run once more, without its index: everything lies there twice.
        let names = from.names(ObjectKind::Index).unwrap().into_iter();
        let hidden: Vec<_> = names.map(|name| (name, from.objects.lock().unwrap().remove(&name).unwrap())).collect();
        for seed in 1..=2 {
            common::backup(&common::open(Arc::new(from.clone())), 20, seed).unwrap();
        }
        from.objects.lock().unwrap().extend(hidden);
        unlock(&common::open(Arc::new(to.clone())), UnlockMode::All).unwrap();
        assert_eq!(copy(&from, &to, WriteMode::Store).unwrap().saved.len(), 4);
        assert_eq!(common::errors(&common::open(Arc::new(to))), []);
    }
}
