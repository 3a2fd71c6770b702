//! What changes little and could still lose all: snapshots that go or get other tags, passwords that come and go, records of backups.
//! Every state that a crash in the middle could leave is looked at.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use repository::Repository;
use repository::crypto::kdf::Cost;
use repository::format::lock::LockMode;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::ObjectKind;
use repository::resume::{Found, Source};
use repository::retention::INCOMPLETE_TAG;
use repository::snapshots::Filter;
use repository::store::faulty::{Fault, Faulty};
use repository::store::memory::MemoryStore;
use repository::store::record::Recording;

/// A repository with two runs, and then what `act` does: each state that a crash in that could leave.
fn crashes(act: impl FnOnce(&Arc<Repository>), look: impl Fn(MemoryStore) + Sync) {
    let store = Recording::new(MemoryStore::default());
    common::fill(&store);
    let before = store.log().len();
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Exclusive, Duration::ZERO).unwrap();
    act(&repository);
    lock.release().unwrap();
    let log = store.log();
    assert!(log.len() > before + 4, "nothing was changed but the lock");
    common::after_each_crash(&log, before, |_, store| look(store));
}

/// All that is visible can be read; what the locks of the dead leave is taken away.
fn sound(store: &MemoryStore) -> Arc<Repository> {
    let repository = common::open(Arc::new(store.clone()));
    assert_eq!(common::errors(&repository), []);
    unlock(&repository, UnlockMode::All).unwrap();
    repository
}

#[test]
fn of_a_snapshot_that_gets_other_tags_one_is_always_there() {
    let tagged = || vec!["kept".to_owned(), INCOMPLETE_TAG.to_owned()];
    let tag_all = |repository: &Arc<Repository>| {
        let all = repository.snapshots(&Filter::default()).unwrap();
        for stored in all.iter().filter(|stored| stored.snapshot.tags.is_empty()) {
            repository.tag_snapshot(stored, tagged(), &all).unwrap();
        }
    };
    let healthy = common::open(Arc::new(common::healthy())).snapshots(&Filter::default()).unwrap();
    let between = AtomicUsize::new(0);
    crashes(tag_all, |store| {
        let repository = sound(&store);
        let there = repository.snapshots(&Filter::default()).unwrap();
        let mut trees: Vec<_> = there.iter().map(|stored| stored.snapshot.tree).collect();
        let mut expected: Vec<_> = healthy.iter().map(|stored| stored.snapshot.tree).collect();
        trees.sort();
        trees.dedup();
        expected.sort();
        assert_eq!(trees, expected);
        between.fetch_add(usize::from(there.len() > 2), Ordering::Relaxed);
        // Done again, it comes to the same: two, with the tags, and what they were.
        let lock = Lock::acquire(&repository, LockMode::Exclusive, Duration::ZERO).unwrap();
        tag_all(&repository);
        lock.release().unwrap();
        let after = repository.snapshots(&Filter::default()).unwrap();
        assert_eq!(after.len(), 2, "{after:?}");
        assert!(after.iter().all(|stored| stored.snapshot.tags == tagged() && stored.snapshot.original.is_some()));
    });
    assert!(between.into_inner() > 0, "no state between the two was met");
}

#[test]
fn what_is_forgotten_is_gone_whole_and_nothing_else() {
    crashes(
        |repository| {
            let first = repository.snapshots(&Filter::default()).unwrap().remove(0);
            repository.remove_snapshot(first.id).unwrap();
        },
        |store| {
            let there = sound(&store).snapshots(&Filter::default()).unwrap().len();
            assert!((1..=2).contains(&there));
        },
    );
}

#[test]
fn at_each_moment_a_password_opens_it() {
    let opens = |store: &MemoryStore, password: &str| Repository::open(&common::access(Arc::new(store.clone())), password).is_ok();
    let both = AtomicUsize::new(0);
    crashes(
        |repository| {
            repository.replace_key("another", Cost::LOW).unwrap();
        },
        |store| {
            let [old, new] = [opens(&store, common::PASSWORD), opens(&store, "another")];
            assert!(old || new);
            both.fetch_add(usize::from(old && new), Ordering::Relaxed);
            if old {
                sound(&store);
            }
        },
    );
    assert!(both.into_inner() > 0, "the old one goes when the new one is there");
    crashes(
        |repository| {
            let other = repository.add_key("another", Cost::LOW).unwrap();
            repository.remove_key(other).unwrap();
        },
        |store| assert!(opens(&store, common::PASSWORD)),
    );
}

/// A store that says it stored the new key, and did not.
#[test]
fn the_old_password_stays_if_the_new_one_did_not_arrive() {
    let store = MemoryStore::default();
    common::fill(&store);
    let lying = Faulty::new(store.clone());
    lying.choose(Box::new(|verb, kind| if verb == "write" && kind == ObjectKind::Key { Fault::Lie } else { Fault::None }));
    let repository = common::open(Arc::new(lying));
    assert!(repository.replace_key("another", Cost::LOW).is_err());
    assert!(Repository::open(&common::access(Arc::new(store)), common::PASSWORD).is_ok());
}

#[test]
fn a_record_is_there_or_not_and_nothing_depends_on_it() {
    let source = || Source { id: "one".to_owned(), host: "host".to_owned(), paths: vec!["/data".to_owned()] };
    let found = AtomicUsize::new(0);
    crashes(
        |repository| {
            let tree = repository.snapshots(&Filter::default()).unwrap().remove(0).snapshot.tree;
            common::keep_record(repository, &source(), tree);
            repository.remove_resume(&source()).unwrap();
        },
        |store| {
            found.fetch_add(usize::from(matches!(sound(&store).find_resume(&source()).unwrap(), Found::Tree(_))), Ordering::Relaxed);
        },
    );
    assert!(found.into_inner() > 0);
}
