//! Law 1, watched from the store: packs, then index, then snapshot; and whatever a crash leaves, what is visible is whole.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use repository::object::ObjectKind;
use repository::store::Store;
use repository::store::memory::MemoryStore;
use repository::store::record::{Change, Event, Recording, after_crash};

fn two_runs() -> (Recording<MemoryStore>, Vec<Event>) {
    let store = Recording::new(MemoryStore::default());
    drop(common::init(Arc::new(store.clone())));
    for seed in 1..=2 {
        let repository = common::open(Arc::new(store.clone()));
        common::backup(&repository, 40, seed).unwrap();
    }
    let log = store.log();
    (store, log)
}

fn kind(change: &Change) -> ObjectKind {
    match change {
        Change::Put(name, _) | Change::Delete(name) => name.kind,
    }
}

#[test]
fn packs_then_index_then_snapshot() {
    let (_, log) = two_runs();
    let position = |wanted: &dyn Fn(&Event) -> bool| log.iter().position(wanted).expect("it happened");
    let began = |number: usize| position(&|event| matches!(event, Event::Began(n, _) if *n == number));
    let ended = |number: usize| position(&|event| matches!(event, Event::Ended(n) if *n == number));
    let of_kind = |wanted: ObjectKind| -> Vec<usize> {
        let numbers = log.iter().filter_map(|event| match event {
            Event::Began(number, change @ Change::Put(..)) if kind(change) == wanted => Some(*number),
            _ => None,
        });
        numbers.collect()
    };
    let (packs, indexes, snapshots) = (of_kind(ObjectKind::Pack), of_kind(ObjectKind::Index), of_kind(ObjectKind::Snapshot));
    assert_eq!(snapshots.len(), 2);
    assert!(packs.len() > 10 && indexes.len() >= 2, "{} packs, {} indexes", packs.len(), indexes.len());
    for (run, &snapshot) in snapshots.iter().enumerate() {
        let from = if run == 0 { 0 } else { ended(snapshots[run - 1]) };
        let of_run = |numbers: &[usize]| -> Vec<usize> {
            numbers.iter().copied().filter(|&n| began(n) > from && began(n) < began(snapshot)).collect()
        };
        let last_pack = of_run(&packs).into_iter().map(ended).max().unwrap();
        let last_index = *of_run(&indexes).last().unwrap();
        assert!(last_pack < began(last_index), "the last index file names only packs that have arrived");
        assert!(ended(last_index) < began(snapshot), "the snapshot comes after all that it needs");
    }
    let last = log.iter().rev().find_map(|event| if let Event::Began(_, change) = event { Some(change) } else { None });
    assert!(matches!(last, Some(change @ Change::Delete(_)) if kind(change) == ObjectKind::Lock), "the lock goes last");
}

/// Every moment of two runs: of what was under way, nothing, everything, or any part may have arrived.
#[test]
fn whatever_a_crash_leaves_every_visible_snapshot_is_whole() {
    let (_, log) = two_runs();
    let states = AtomicUsize::new(0);
    common::after_each_crash(&log, 0, |events, store| {
        if store.names(ObjectKind::Config).unwrap().is_empty() {
            return;
        }
        let repository = common::open(Arc::new(store.clone()));
        let found = common::errors(&repository);
        assert!(found.is_empty(), "after {events} of {} events: {found:?}", log.len());
        states.fetch_add(1, Ordering::Relaxed);
    });
    assert!(states.into_inner() > 150, "too few states were looked at");
}

/// A run after a crash goes on, whatever was left.
#[test]
fn the_next_run_works_after_any_crash() {
    let (_, log) = two_runs();
    for events in (0..=log.len()).step_by(7) {
        let store = after_crash(&log, events, |number| number % 2 == 0);
        if store.names(ObjectKind::Config).unwrap().is_empty() {
            continue;
        }
        let repository = common::open(Arc::new(store.clone()));
        common::backup(&repository, 40, 3).unwrap();
        let found = common::errors(&common::open(Arc::new(store)));
        assert!(found.is_empty(), "after {events} events: {found:?}");
    }
}

#[test]
fn a_run_that_changes_nothing_makes_few_requests() {
    let (store, before) = two_runs();
    let repository = common::open(Arc::new(store.clone()));
    common::backup(&repository, 40, 2).unwrap();
    let changes: Vec<ObjectKind> = store.log()[before.len()..]
        .iter()
        .filter_map(|event| if let Event::Began(_, change) = event { Some(kind(change)) } else { None })
        .collect();
    assert_eq!(changes, [ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Lock]);
}
