//! Single cases that no order of two whole runs comes to.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use repository::clock::ManualClock;
use repository::format::lock::LockMode;
use repository::lock::Lock;
use repository::object::{Object, ObjectKind, ObjectName};
use repository::parallel;
use repository::prune::{self, Way};
use repository::store::{PutMode, ReadRange, Store, StoreError};

use crate::actors::{PRUNE, STOCK, forget_all, options, pruned, read};
use crate::common;
use crate::meeting::{Actor, Event, FILES, Gate, SLEEP, Then, When, World, requests, run, run_with};

/// Of what was in the first run.
const AGAIN: Actor = ("backup", |repository| common::backup(repository, FILES, 1).map(drop));

/// A backup in a thread of its own, that stops before its snapshot until it may go.
fn until_its_snapshot(world: &World, actor: Actor, waits: &Gate, goes: &Gate) -> std::thread::JoinHandle<repository::Result<()>> {
    let (world, waits, goes) = (world.clone(), waits.clone(), goes.clone());
    std::thread::spawn(move || {
        let event: Event = Box::new(move || {
            waits.open();
            goes.wait();
            Then::GoOn
        });
        run_with(&world, actor, vec![(When::Of("write", ObjectKind::Snapshot, 1), event)], &Mutex::default()).1
    })
}

/// A prune that has chosen, and comes to its fence late: meanwhile a backup that began before made visible what needs a condemned pack,
/// another prune kept that and took the list away, and all was forgotten. Whoever begins under the late fence finds no list,
/// and relies on that pack.
#[test]
fn a_list_that_is_gone_condemns_nothing() {
    let world = World::new();
    let [first_waits, first_goes, second_waits, second_goes] = std::array::from_fn(|_| Gate::default());
    let first = until_its_snapshot(&world, AGAIN, &first_waits, &first_goes);
    first_waits.wait();
    let before_its_fence: Event = {
        let world = world.clone();
        Box::new(move || {
            first_goes.open();
            first.join().unwrap().unwrap();
            assert_eq!(pruned(&world.open()).unwrap().waiting, None);
            assert_eq!(world.store.names(ObjectKind::Condemned).unwrap(), []);
            forget_all(&world.open()).unwrap();
            Then::GoOn
        })
    };
    let second = Arc::new(Mutex::new(None));
    let under_its_fence: Event = {
        let (world, second, goes) = (world.clone(), second.clone(), second_goes.clone());
        Box::new(move || {
            *second.lock().unwrap() = Some(until_its_snapshot(&world, AGAIN, &second_waits, &goes));
            second_waits.wait();
            Then::GoOn
        })
    };
    // Locks are listed four times for the shared lock, and for what is young; then before the fence. Snapshots are listed for the
    // look, before the shared lock goes, and under the fence.
    let events =
        vec![(When::Of("list", ObjectKind::Lock, 6), before_its_fence), (When::Of("list", ObjectKind::Snapshot, 3), under_its_fence)];
    let (_, result) = run_with(&world, PRUNE, events, &Mutex::default());
    second_goes.open();
    let second = second.lock().unwrap().take().unwrap_or_else(|| panic!("nobody began under the fence: {result:?}"));
    second.join().unwrap().unwrap();
    world.judge(&format!("a late prune: {result:?}"));
}

/// Everything lies there twice, one copy rotten, and nothing needs either when a prune chooses. A backup that began before needs it
/// after all: what is to replace the good copy is read before that goes.
#[test]
fn a_copy_that_is_needed_late_is_read_before_the_other_goes() {
    for older_is_rotten in [true, false] {
        let world = World::new();
        let older: HashSet<ObjectName> = world.store.names(ObjectKind::Pack).unwrap().into_iter().collect();
        world.unseen(|| common::backup(&world.open(), FILES, 1).map(drop).unwrap());
        forget_all(&world.open()).unwrap();
        for pack in world.store.names(ObjectKind::Pack).unwrap() {
            if older.contains(&pack) == older_is_rotten {
                common::change(&world.store, &pack, |bytes| {
                    (100..bytes.len().saturating_sub(200)).step_by(1000).for_each(|at| bytes[at] ^= 1);
                });
            }
        }
        world.pass(SLEEP);
        let [waits, goes] = std::array::from_fn(|_| Gate::default());
        let late = until_its_snapshot(&world, AGAIN, &waits, &goes);
        waits.wait();
        let before_the_fence: Event = Box::new(move || {
            goes.open();
            late.join().unwrap().unwrap();
            Then::GoOn
        });
        let (_, pruned) = run_with(&world, PRUNE, vec![(When::Of("list", ObjectKind::Lock, 6), before_the_fence)], &Mutex::default());
        assert_eq!(world.store.names(ObjectKind::Snapshot).unwrap().len(), 1, "it came before the fence");
        read(&world.open()).unwrap_or_else(|error| panic!("the older is rotten: {older_is_rotten}; {pruned:?}: {error}"));
    }
}

/// The time of a fence is up before anything is removed, and between index files and packs: another one goes on, with a new look.
#[test]
fn what_a_fence_has_no_time_for_the_next_one_does() {
    for when in [When::Of("list", ObjectKind::Snapshot, 3), When::Of("delete", ObjectKind::Index, 1)] {
        let world = World::new();
        let clock = Arc::new(Mutex::new(None::<Arc<ManualClock>>));
        let late: Event = {
            let clock = clock.clone();
            Box::new(move || {
                clock.lock().unwrap().as_ref().unwrap().advance(Duration::from_secs(9 * 60));
                Then::GoOn
            })
        };
        let (requests, result) = run_with(&world, PRUNE, vec![(when, late)], &clock);
        result.unwrap();
        assert!(requests > crate::meeting::requests(&World::new(), PRUNE) + 10, "one fence was enough");
        assert_eq!(world.store.names(ObjectKind::Condemned).unwrap(), []);
        world.judge("a fence without time");
    }
}

/// Somebody who knows of no lists comes between the look at the locks and the fence.
#[test]
fn whoever_comes_just_before_a_fence_is_seen() {
    let world = World::new();
    let [waits, goes] = std::array::from_fn(|_| Gate::default());
    let stock = Arc::new(Mutex::new(None));
    let before_the_fence: Event = {
        let (world, stock, goes) = (world.clone(), stock.clone(), goes.clone());
        Box::new(move || {
            *stock.lock().unwrap() = Some(until_its_snapshot(&world, STOCK, &waits, &goes));
            waits.wait();
            Then::GoOn
        })
    };
    let (_, result) = run_with(&world, PRUNE, vec![(When::Of("write", ObjectKind::Lock, 2), before_the_fence)], &Mutex::default());
    result.unwrap();
    assert_ne!(world.store.names(ObjectKind::Condemned).unwrap(), [], "it has waited for nobody");
    goes.open();
    stock.lock().unwrap().take().unwrap().join().unwrap().unwrap();
    world.judge("a prune that was come before");
}

/// What lies there twice, and a prune by stock restic, which knows of no lists, while ours has chosen and has no lock: each may
/// have chosen the other copy.
#[test]
fn a_stock_prune_in_between_takes_the_other_copy() {
    const STOCK_PRUNE: Actor = ("stock prune", |repository| {
        let read = |name: ObjectName| {
            let mut body = Vec::new();
            repository.store().read(&name, ReadRange::Whole { limit: 1 << 20 }, &mut body)?;
            Ok::<_, StoreError>(Object::named(name, body.into()))
        };
        let names = repository.store().names(ObjectKind::Condemned)?;
        let lists = names.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        prune::run(repository, &options(), Way::Alone, Duration::ZERO, common::UNWATCHED)?;
        let lock = Lock::acquire(repository, LockMode::Shared, Duration::ZERO)?;
        lists.iter().try_for_each(|list| repository.store().put(list, PutMode::Replace))?;
        lock.release()
    });
    let world = World::new();
    // The last run once more, by somebody who did not see it.
    world.unseen(|| common::backup(&world.open(), FILES, 3).map(drop).unwrap());
    // Which copy is chosen is chance: several rounds.
    let cases: Vec<usize> = (0..8).flat_map(|_| 1..=requests(&world, PRUNE)).collect();
    let both = AtomicUsize::new(0);
    let case = |(): &mut (), &at: &usize| {
        let (world, stock) = (world.copy(), Arc::new(Mutex::new(None)));
        let happens = {
            let (world, stock) = (world.clone(), stock.clone());
            move |_: &ManualClock| {
                *stock.lock().unwrap() = Some(run(&world, STOCK_PRUNE, usize::MAX, |_| Then::GoOn).1);
                Then::GoOn
            }
        };
        let (_, result) = run(&world, PRUNE, at, happens);
        let stock = stock.lock().unwrap().take();
        let case = format!("prune at request {at}: {result:?}, stock prune: {stock:?}");
        both.fetch_add(usize::from(result.is_ok() && matches!(stock, Some(Ok(())))), Ordering::Relaxed);
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    println!("{} cases, in {} both did all they were to do", cases.len(), both.load(Ordering::Relaxed));
    let both = both.into_inner();
    assert!(both > 20, "{both}");
}
