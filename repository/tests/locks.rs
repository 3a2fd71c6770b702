//! Locks between runs: who excludes whom, who may remove what, and what a run without its lock may not do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use repository::clock::ManualClock;
use repository::error::Error;
use repository::format::lock::LockMode;
use repository::lock::{Identity, Lock, UnlockMode, unlock};
use repository::object::ObjectKind;
use repository::store::memory::MemoryStore;
use repository::{ErrorKind, Repository};

fn store() -> MemoryStore {
    let store = MemoryStore::default();
    drop(common::init(Arc::new(store.clone())));
    store
}

fn take(store: &MemoryStore, mode: LockMode) -> repository::Result<Lock> {
    Lock::acquire(&common::open(Arc::new(store.clone())), mode, Duration::ZERO)
}

#[test]
fn sharers_share_and_an_exclusive_lock_excludes() {
    let store = store();
    let first = take(&store, LockMode::Shared).unwrap();
    let second = take(&store, LockMode::Shared).unwrap();
    let error = take(&store, LockMode::Exclusive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("by run ") && error.to_string().contains("test-host"), "{error}");
    drop((first, second));
    let alone = take(&store, LockMode::Exclusive).unwrap();
    assert_eq!(take(&store, LockMode::Shared).unwrap_err().kind(), ErrorKind::Locked);
    alone.release().unwrap();
    assert!(store.names(ObjectKind::Lock).is_empty());
}

#[test]
fn two_that_want_to_be_alone_are_never_both() {
    for _ in 0..5 {
        let store = store();
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| take(&store, LockMode::Exclusive))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results.iter().filter(|result| result.is_ok()).count() <= 1);
        drop(results);
        assert!(store.names(ObjectKind::Lock).is_empty());
    }
}

#[test]
fn waiting_ends_when_the_other_does() {
    let store = store();
    let alone = take(&store, LockMode::Exclusive).unwrap();
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| Lock::acquire(&common::open(Arc::new(store.clone())), LockMode::Shared, Duration::from_secs(30)).map(drop));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished());
        drop(alone);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn unlock_takes_what_is_old_by_the_stores_clock_alone() {
    let store = store();
    let repository = common::open(Arc::new(store.clone()));
    std::mem::forget(take(&store, LockMode::Shared).unwrap());
    assert_eq!(unlock(&repository, UnlockMode::Stale).unwrap(), (0, 1));
    store.age_all(Duration::from_secs(29 * 60));
    assert_eq!(unlock(&repository, UnlockMode::Stale).unwrap(), (0, 1));
    store.age_all(Duration::from_secs(2 * 60));
    assert_eq!(unlock(&repository, UnlockMode::Stale).unwrap(), (1, 0));
    std::mem::forget(take(&store, LockMode::Exclusive).unwrap());
    assert_eq!(unlock(&repository, UnlockMode::All).unwrap(), (1, 0));
}

#[test]
fn a_lock_that_cannot_be_read_blocks() {
    let store = store();
    let rubbish = repository::object::Object::content_named(ObjectKind::Lock, bytes::Bytes::from_static(b"rubbish"));
    repository::store::Store::put(&store, &rubbish, repository::store::PutMode::Replace).unwrap();
    let error = take(&store, LockMode::Shared).unwrap_err();
    assert!(matches!(&error, Error::Locked { holders, .. } if holders[0].contains("cannot be read")), "{error}");
}

#[test]
fn without_its_lock_a_run_makes_nothing_visible() {
    let store = store();
    let error = {
        let repository = common::open(Arc::new(store.clone()));
        let thief = store.clone();
        // Somebody removes the lock as soon as the first pack arrives.
        std::thread::spawn(move || {
            while thief.names(ObjectKind::Pack).is_empty() {
                std::thread::yield_now();
            }
            thief.objects.lock().unwrap().retain(|name, _| name.kind != ObjectKind::Lock);
        });
        common::backup(&repository, 200, 1).unwrap_err()
    };
    assert!(error.to_string().contains("somebody removed this run's lock"), "{error}");
    assert!(store.names(ObjectKind::Snapshot).is_empty() && store.names(ObjectKind::Index).is_empty());
}

#[test]
fn a_lock_that_was_not_renewed_for_too_long_guards_nothing() {
    let store = store();
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let mut access = common::access(Arc::new(store.clone()));
    access.clock = clock.clone();
    access.identity = Identity::new("slow".to_owned(), "tester".to_owned());
    let repository = Arc::new(Repository::open(&access, common::PASSWORD).unwrap());
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    clock.advance(Duration::from_secs(11 * 60));
    let writer_options = repository::write::WriteOptions {
        shares: common::shares(),
        compression: repository::compress::Compression::Default,
        verify: repository::write::Verify::Sealed,
        mode: repository::write::WriteMode::Store,
    };
    let index = Arc::new(repository::index::Index::load(&repository, 1 << 30).unwrap());
    let writer = repository::write::Writer::start(&repository, &index, writer_options).unwrap();
    let plain = b"content";
    let id = repository::id::BlobId(repository::crypto::sha256(plain));
    writer.store(&mut writer.sealer(), repository::format::BlobKind::Data, id, plain).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(error.to_string().contains("could not be renewed for 11 minutes"), "{error}");
    lock.release().unwrap();
}
