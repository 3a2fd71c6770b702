//! Storage that fails, by a seed: a command does what was asked and all is sound, or it fails and all that was there before is sound.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use repository::copy::{self, Watcher};
use repository::crypto::kdf::Cost;
use repository::format::lock::LockMode;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::ObjectKind;
use repository::prune::{self, MaxUnused, Options, Way};
use repository::repair::{Mode, index};
use repository::snapshots::Filter;
use repository::store::StoreErrorKind::{Denied, Full, Other, Throttled, Unavailable};
use repository::store::faulty::{Fault, Faulty};
use repository::store::memory::MemoryStore;
use repository::write::WriteMode;
use repository::{Repository, parallel};

/// So many schedules, each with each command.
const SEEDS: u64 = 32;

struct Unwatched;

impl Watcher for Unwatched {
    fn planned(&self, _: u64) {}
    fn copied(&self, _: u64) {}
}

/// What is done, to how many snapshots it leads from two, and whether what is there may change.
type Command = (&'static str, usize, fn(&Arc<Repository>, &MemoryStore) -> repository::Result<()>);

const COMMANDS: [Command; 7] = [
    ("backup", 3, |repository, _| common::backup(repository, 20, 3).map(drop)),
    ("prune", 2, |repository, _| {
        let shares = common::shares();
        let options = Options { max_unused: MaxUnused::Bytes(0), max_repack_bytes: u64::MAX, shares, batch_blobs: 15, may_empty: false };
        prune::run(repository, &options, Way::of(repository)?, Duration::ZERO, common::UNWATCHED).map(drop)
    }),
    ("repair index", 2, |repository, _| {
        let lock = Lock::acquire(repository, LockMode::Exclusive, Duration::ZERO)?;
        index::run(repository, Mode::Apply)?;
        lock.release()
    }),
    ("copy", 4, |repository, other| {
        let from = common::open(Arc::new(other.clone()));
        let lock = Lock::acquire(repository, LockMode::Shared, Duration::ZERO)?;
        let all = from.snapshots(&Filter::default())?;
        copy::run(&from, repository, &all, common::shares(), WriteMode::Store, &Unwatched)?;
        lock.release()
    }),
    ("forget", 1, |repository, _| {
        let lock = Lock::acquire(repository, LockMode::Shared, Duration::ZERO)?;
        let first = repository.snapshots(&Filter::default())?.remove(0);
        repository.remove_snapshot(first.id)?;
        lock.release()
    }),
    ("tag", 2, |repository, _| {
        let lock = Lock::acquire(repository, LockMode::Exclusive, Duration::ZERO)?;
        let all = repository.snapshots(&Filter::default())?;
        all.iter().try_for_each(|stored| repository.tag_snapshot(stored, vec!["tag".to_owned()], &all).map(drop))?;
        lock.release()
    }),
    ("passwd", 2, |repository, _| repository.replace_key("another", Cost::LOW).map(drop)),
];

/// One request in so many fails: some schedules are hardly met by the retries, most are.
fn one_in(seed: u64) -> u64 {
    [100, 30, 10, 4][seed as usize % 4]
}

fn faults(seed: u64) -> impl FnMut(&'static str, ObjectKind) -> Fault + Send + 'static {
    let mut state = seed;
    move |verb, _| {
        state = state.wrapping_add(1).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = state >> 33;
        if !dice.is_multiple_of(one_in(seed)) {
            return Fault::None;
        }
        let kinds = [Unavailable, Throttled, Unavailable, Other, Denied, Full];
        // A disk that is full is full for those who write.
        let kind = kinds[(dice / 128) as usize % if verb == "write" { 6 } else { 5 }];
        if (dice / 1024).is_multiple_of(3) { Fault::LostReply(kind) } else { Fault::Error(kind) }
    }
}

#[test]
fn a_command_succeeds_whole_or_fails_and_costs_nothing() {
    let (healthy, other) = (common::healthy(), common::healthy());
    // What a prune has to do: the first two runs are whole, a third one is forgotten.
    let third = common::backup(&common::open(Arc::new(healthy.clone())), 20, 9).unwrap();
    let repository = common::open(Arc::new(healthy.clone()));
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    repository.remove_snapshot(third).unwrap();
    lock.release().unwrap();
    drop(repository);
    let cases: Vec<(u64, &Command)> = (0..SEEDS).flat_map(|seed| COMMANDS.iter().map(move |command| (seed, command))).collect();
    let [done, failed] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    parallel::each(
        4,
        &cases,
        || (),
        |(), (seed, (name, after, act))| {
            let store = common::copy(&healthy);
            let faulty = Faulty::new(store.clone());
            faulty.choose(Box::new(faults(*seed)));
            let opened = Repository::open(&common::access(Arc::new(faulty)), common::PASSWORD);
            let result = opened.and_then(|repository| act(&Arc::new(repository), &other));
            let open = |password| Repository::open(&common::access(Arc::new(store.clone())), password);
            let judge = Arc::new(open(common::PASSWORD).or_else(|_| open("another")).unwrap());
            unlock(&judge, UnlockMode::All).unwrap();
            assert_eq!(common::errors(&judge), [], "{name}, seed {seed}: {result:?}");
            let there = judge.snapshots(&Filter::default()).unwrap().len();
            match &result {
                Ok(()) => assert_eq!(there, *after, "{name}, seed {seed}"),
                // Of several snapshots some may be done.
                Err(_) => {
                    assert!((2.min(*after)..=(*after).max(2) + 1).contains(&there), "{name}, seed {seed}: {there} snapshots, {result:?}");
                }
            }
            if result.is_ok() { &done } else { &failed }.fetch_add(1, Ordering::Relaxed);
            // Whatever was left, the next ones work.
            common::backup(&judge, 20, 5).unwrap();
            assert_eq!(common::errors(&judge), [], "{name}, seed {seed}, and a backup after it");
            Ok(())
        },
    )
    .unwrap();
    let (done, failed) = (done.into_inner(), failed.into_inner());
    println!("{done} did what was asked, {failed} failed");
    assert!(done > 60 && failed > 60, "{done} did what was asked, {failed} failed");
}

/// A store that says it has stored a pack or an index file, and has not: a backup cannot know, a check does, and older snapshots are whole.
#[test]
fn a_store_that_lies_is_found_out() {
    for kind in [ObjectKind::Pack, ObjectKind::Index] {
        let store = common::healthy();
        let lying = Faulty::new(store.clone());
        let mut left = 1;
        lying.choose(Box::new(move |verb, of| {
            let lies = verb == "write" && of == kind && left > 0;
            left -= i32::from(lies);
            if lies { Fault::Lie } else { Fault::None }
        }));
        common::backup(&common::open(Arc::new(lying)), 20, 3).unwrap();
        let judge = common::open(Arc::new(store.clone()));
        assert!(!common::errors(&judge).is_empty(), "{kind}");
        // Without the new one, nothing is missing that anything needs.
        let newest = judge.snapshots(&Filter::default()).unwrap().pop().unwrap();
        let lock = Lock::acquire(&judge, LockMode::Exclusive, Duration::ZERO).unwrap();
        judge.remove_snapshot(newest.id).unwrap();
        index::run(&judge, Mode::Apply).unwrap();
        lock.release().unwrap();
        assert_eq!(common::errors(&common::open(Arc::new(store))), [], "{kind}");
    }
}
