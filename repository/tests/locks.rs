//! Locks between runs: who excludes whom, who may remove what, and what a run without its lock may not do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use repository::access::Access;
use repository::clock::{ManualClock, SystemClock};
use repository::compress::Compression;
use repository::crypto::sha256;
use repository::error::Error;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::id::BlobId;
use repository::index::Index;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::ObjectKind;
use repository::store::faulty::{Fault, Faulty};
use repository::store::memory::MemoryStore;
use repository::store::{Store, StoreErrorKind};
use repository::write::{Verify, WriteMode, WriteOptions, Writer};
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
    assert!(store.names(ObjectKind::Lock).unwrap().is_empty());
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
        assert!(store.names(ObjectKind::Lock).unwrap().is_empty());
    }
}

#[test]
fn waiting_ends_when_the_other_does() {
    let store = store();
    let alone = take(&store, LockMode::Exclusive).unwrap();
    std::thread::scope(|scope| {
        let access = Access { clock: Arc::new(SystemClock), ..common::access(Arc::new(store.clone())) };
        let waits = Arc::new(Repository::open(&access, common::PASSWORD).unwrap());
        let waiting = scope.spawn(move || Lock::acquire(&waits, LockMode::Shared, Duration::from_secs(30)).map(drop));
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
            while thief.names(ObjectKind::Pack).unwrap().is_empty() {
                std::thread::yield_now();
            }
            thief.objects.lock().unwrap().retain(|name, _| name.kind != ObjectKind::Lock);
        });
        common::backup(&repository, 200, 1).unwrap_err()
    };
    assert!(error.to_string().contains("somebody removed this run's lock"), "{error}");
    assert!(store.names(ObjectKind::Snapshot).unwrap().is_empty() && store.names(ObjectKind::Index).unwrap().is_empty());
}

/// A lock, and the clock that its run goes by.
fn take_with_clock(store: &Arc<dyn Store>) -> (Arc<ManualClock>, Arc<Repository>, Lock) {
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let access = Access { clock: clock.clone(), ..common::access(store.clone()) };
    let repository = Arc::new(Repository::open(&access, common::PASSWORD).unwrap());
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    (clock, repository, lock)
}

fn write_something(repository: &Arc<Repository>) -> repository::Result<()> {
    let options =
        WriteOptions { shares: common::shares(), compression: Compression::Default, verify: Verify::Sealed, mode: WriteMode::Store };
    let index = Arc::new(Index::load(repository, 1 << 30).unwrap());
    let writer = Writer::start(repository, &index, options).unwrap();
    let plain = b"content";
    writer.store(&mut writer.sealer(), BlobKind::Data, BlobId(sha256(plain)), plain).unwrap();
    writer.finish().map(drop)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lock_is_renewed_and_never_missing_meanwhile() {
    let store = store();
    let (clock, repository, lock) = take_with_clock(&(Arc::new(store.clone()) as Arc<dyn Store>));
    let first = store.names(ObjectKind::Lock).unwrap();
    clock.advance(Duration::from_secs(5 * 60));
    wait_until("the lock was not renewed", || store.names(ObjectKind::Lock).unwrap().len() == 2);
    assert!(first.iter().all(|name| store.names(ObjectKind::Lock).unwrap().contains(name)), "the one before went too early");
    clock.advance(Duration::from_secs(5 * 60));
    wait_until("the lock was not renewed again", || !store.names(ObjectKind::Lock).unwrap().contains(&first[0]));
    assert_eq!(store.names(ObjectKind::Lock).unwrap().len(), 2);
    clock.advance(Duration::from_secs(4 * 60));
    write_something(&repository).unwrap();
    lock.release().unwrap();
    assert!(store.names(ObjectKind::Lock).unwrap().is_empty());
}

#[test]
fn a_lock_that_somebody_removed_is_not_made_again() {
    let store = store();
    let (clock, repository, lock) = take_with_clock(&(Arc::new(store.clone()) as Arc<dyn Store>));
    store.objects.lock().unwrap().retain(|name, _| name.kind != ObjectKind::Lock);
    clock.advance(Duration::from_secs(5 * 60));
    // Two looks of the one that renews.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(store.names(ObjectKind::Lock).unwrap().is_empty());
    assert!(write_something(&repository).unwrap_err().to_string().contains("somebody removed this run's lock"));
    lock.release().unwrap();
}

#[test]
fn a_lock_that_was_not_renewed_for_too_long_guards_nothing() {
    let faulty = Arc::new(Faulty::new(store()));
    let (clock, repository, lock) = take_with_clock(&(faulty.clone() as Arc<dyn Store>));
    faulty.choose(Box::new(|verb, kind| match (verb, kind) {
        ("write", ObjectKind::Lock) => Fault::Error(StoreErrorKind::Unavailable),
        _ => Fault::None,
    }));
    clock.advance(Duration::from_secs(11 * 60));
    let error = write_something(&repository).unwrap_err();
    assert!(error.to_string().contains("could not be renewed for 11 minutes"), "{error}");
    lock.release().unwrap();
}

/// Clocks are compared at each request that counts, not only at the start: by one that is off, it could land after its lock is gone.
#[test]
fn a_clock_that_is_set_in_between_ends_it() {
    let store = store();
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    let id = common::backup(&common::open(Arc::new(store.clone())), 2, 1).unwrap();
    store.ahead_secs.store(121, Ordering::Relaxed);
    let error = repository.remove_snapshot(id).unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.kind == StoreErrorKind::LockLost), "{error}");
    store.ahead_secs.store(-120, Ordering::Relaxed);
    repository.remove_snapshot(id).unwrap();
    lock.release().unwrap();
}
