//! Runs that meet: one is interrupted before each of its requests in turn, and another one does all of its work there; or it ends
//! there for ever; or it sleeps until its lock is gone, and wakes up. Whatever comes of it, every visible snapshot is whole, nobody
//! who reads misses anything, and the next prune removes all that is left.
//!
//! The model (`repository/model`) goes through every order of a few steps; this goes through what is built, request by request.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use repository::access::Access;
use repository::clock::{Clock, ManualClock};
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::index::Index;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::{Object, ObjectKind, ObjectName};
use repository::prune::{self, MaxUnused, Options, Outcome, Way};
use repository::read::{BlobOpener, Trees};
use repository::repair::{Mode, index};
use repository::snapshots::Filter;
use repository::store::memory::MemoryStore;
use repository::store::{AsOf, Listed, PutMode, ReadRange, Stat, Store, StoreError, StoreErrorKind};
use repository::{Error, Repository, parallel};

/// Files of a run: a few packs.
const FILES: u64 = 8;
/// Longer than a lock is left alone.
const SLEEP: Duration = Duration::from_secs(31 * 60);
/// Of the many cases of three runs, so many; all with `ESTIBA_ALL_RACES` in the environment.
const OF_THREE: usize = 600;
/// And of those of two that take turns.
const OF_TURNS: usize = 1000;

/// A repository with a clock of its own.
#[derive(Clone)]
struct World {
    store: MemoryStore,
    clock: Arc<ManualClock>,
}

impl World {
    /// Three runs, of which the first two are forgotten.
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::now()));
        let world = Self { store: MemoryStore::default().refusing_late(clock.clone()), clock };
        drop(common::init(Arc::new(world.store.clone())));
        let ids: Vec<_> = (1..=3).map(|seed| common::backup(&world.open(), FILES, seed).unwrap()).collect();
        let repository = world.open();
        let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
        ids[..2].iter().for_each(|id| repository.remove_snapshot(*id).unwrap());
        lock.release().unwrap();
        // Older than whoever comes now: nothing of it is left alone for their sake.
        world.pass(SLEEP);
        world
    }

    /// What is done by somebody who sees no index.
    fn unseen(&self, act: impl FnOnce()) {
        let index = self.store.names(ObjectKind::Index).unwrap();
        let hidden: Vec<_> = index.into_iter().map(|name| (name, self.store.objects.lock().unwrap().remove(&name).unwrap())).collect();
        act();
        self.store.objects.lock().unwrap().extend(hidden);
    }

    fn copy(&self) -> Self {
        let clock = Arc::new(ManualClock::new(self.clock.now()));
        Self { store: common::copy(&self.store).refusing_late(clock.clone()), clock }
    }

    /// Somebody new, through `store`; the answer is the clock, too, by which they live.
    fn come(&self, store: Arc<dyn Store>) -> (Arc<Repository>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(self.clock.now()));
        let access = Access { clock: clock.clone(), ..common::access(store) };
        (Arc::new(Repository::open(&access, common::PASSWORD).unwrap()), clock)
    }

    fn open(&self) -> Arc<Repository> {
        self.come(Arc::new(self.store.clone())).0
    }

    /// Time passes, for all but those who sleep by other clocks.
    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.store.age_all(time);
    }

    /// What must hold after all.
    fn judge(&self, case: &str) {
        let found = common::errors(&self.open());
        assert!(found.is_empty(), "{case}: {found:?}");
        self.pass(SLEEP);
        unlock(&self.open(), UnlockMode::Stale).unwrap();
        let Outcome { waiting, .. } = pruned(&self.open()).unwrap_or_else(|error| panic!("{case}: the next prune: {error}"));
        assert_eq!(waiting, None, "{case}");
        let found = common::findings(&self.open());
        assert!(found.is_empty(), "{case}, and another prune: {found:?}");
        for kind in [ObjectKind::Condemned, ObjectKind::Lock] {
            assert_eq!(self.store.names(kind).unwrap(), [], "{case}");
        }
    }
}

/// Whoever it is, and what they do.
type Act = fn(&Arc<Repository>) -> repository::Result<()>;
type Actor = (&'static str, Act);

const BACKUP: Actor = ("backup", |repository| common::backup(repository, FILES, 7).map(drop));
/// What a backup relies on may be needed by nothing else from now on.
const FORGET_AND_PRUNE: Actor = ("forget all and prune", |repository| {
    forget_all(repository)?;
    pruned(repository).map(drop)
});
const FORGET: Actor = ("forget all", forget_all);
const PRUNE: Actor = ("prune", |repository| pruned(repository).map(drop));
const READ: Actor = ("read", read);
/// As stock restic does it, of what was in the first run: it knows of no lists.
const STOCK: Actor = ("stock backup", |repository| common::backup_under(LockMode::Shared, repository, FILES, 1).map(drop));
/// After which packs are named again that a prune has begun to remove.
const REPAIR: Actor = ("repair index", |repository| {
    let lock = Lock::acquire(repository, LockMode::Exclusive, Duration::ZERO)?;
    index::run(repository, Mode::Apply)?;
    lock.release()
});
const REPAIR_AND_STOCK: Actor = ("repair index, and stock backup", |repository| {
    REPAIR.1(repository)?;
    STOCK.1(repository)
});
const TAG: Actor = ("tag", |repository| {
    let lock = Lock::acquire(repository, LockMode::Exclusive, Duration::ZERO)?;
    let all = repository.snapshots(&Filter::default())?;
    all.iter().try_for_each(|stored| repository.tag_snapshot(stored, vec!["tag".to_owned()], &all).map(drop))?;
    lock.release()
});

fn forget_all(repository: &Arc<Repository>) -> repository::Result<()> {
    let lock = Lock::acquire(repository, LockMode::Shared, Duration::ZERO)?;
    repository.snapshot_ids()?.into_iter().try_for_each(|id| repository.remove_snapshot(id))?;
    lock.release()
}

fn options() -> Options {
    let shares = common::shares();
    Options { max_unused: MaxUnused::Bytes(0), max_repack_bytes: u64::MAX, shares, batch_blobs: 15, may_empty: true }
}

fn pruned(repository: &Arc<Repository>) -> repository::Result<Outcome> {
    prune::run(repository, &options(), Way::Beside, Duration::ZERO, common::UNWATCHED)
}

/// Restores the newest snapshot to nowhere. Whoever has begun misses nothing.
fn read(repository: &Arc<Repository>) -> repository::Result<()> {
    let look = |_: &_| Ok((repository.snapshots(&Filter::default())?.pop(), Index::load(repository, 1 << 30)?));
    let (lock, (newest, index)) = Lock::acquire_and(repository, LockMode::Shared, Duration::ZERO, look)?;
    let index = Arc::new(index);
    let (trees, mut opener) = (Trees::new(repository, &index, 1 << 20), BlobOpener::new(repository));
    let mut waiting: Vec<_> = newest.into_iter().map(|stored| stored.snapshot.tree).collect();
    while let Some(tree) = waiting.pop() {
        let mut nodes = trees.open(&tree)?;
        while let Some(node) = nodes.next_node()? {
            for id in node.content.into_iter().flatten() {
                repository.read_blob(&index, &mut opener, &id, BlobKind::Data)?;
            }
            waiting.extend(node.subtree);
        }
    }
    lock.release()
}

/// One request at a time; before one of them something else happens.
struct Interrupted {
    inner: MemoryStore,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    requests: usize,
    /// By verb and kind.
    of_kind: HashMap<(&'static str, ObjectKind), usize>,
    events: Vec<(When, Event)>,
    is_dead: bool,
}

/// Before which request something happens.
#[derive(Clone, Copy)]
enum When {
    /// The first is 1.
    Request(usize),
    /// The so-manyth of its kind.
    Of(&'static str, ObjectKind, usize),
}

type Event = Box<dyn FnOnce() -> Then + Send>;

#[derive(Clone, Copy, PartialEq)]
enum Then {
    GoOn,
    Die,
}

impl Interrupted {
    fn step<T>(
        &self,
        verb: &'static str,
        kind: ObjectKind,
        object: &impl ToString,
        request: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut turn = self.turn.lock().unwrap();
        turn.requests += 1;
        let of_kind = turn.of_kind.entry((verb, kind)).or_default();
        *of_kind += 1;
        let (of_kind, requests) = (*of_kind, turn.requests);
        let is_now = |when: &When| match *when {
            When::Request(at) => at == requests,
            When::Of(of, what, at) => (of, what, at) == (verb, kind, of_kind),
        };
        if let Some(position) = turn.events.iter().position(|(when, _)| is_now(when)) {
            let (_, happens) = turn.events.remove(position);
            turn.is_dead = happens() == Then::Die;
        }
        if turn.is_dead {
            return Err(StoreError::new(&self.inner, StoreErrorKind::Stopped, verb, object, "this run ended here"));
        }
        request()
    }
}

impl std::fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupted")
    }
}

impl Store for Interrupted {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        self.step("write", object.name.kind, &object.name, || self.inner.put_as_of(object, mode, as_of))
    }
    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.step("read", name.kind, name, || self.inner.read(name, range, into))
    }
    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        self.step("stat", name.kind, name, || self.inner.stat(name))
    }
    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.step("list", kind, &kind, || self.inner.list(kind, each))
    }
    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        self.step("delete", name.kind, name, || self.inner.delete_as_of(name, as_of))
    }
    fn sweep(&self) -> Result<(), StoreError> {
        self.inner.sweep()
    }
    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        self.inner.creates_exclusively()
    }
}

/// Runs one, to whom something happens at some request; so many requests were made, and this came of it.
fn run(
    world: &World,
    actor: Actor,
    at: usize,
    happens: impl FnOnce(&ManualClock) -> Then + Send + 'static,
) -> (usize, repository::Result<()>) {
    let clock = Arc::new(Mutex::new(None::<Arc<ManualClock>>));
    let own = clock.clone();
    let event: Event = Box::new(move || happens(own.lock().unwrap().as_ref().unwrap()));
    run_with(world, actor, vec![(When::Request(at), event)], &clock)
}

/// The same with several events. They learn the clock by which it lives.
fn run_with(
    world: &World,
    (_, act): Actor,
    events: Vec<(When, Event)>,
    clock: &Mutex<Option<Arc<ManualClock>>>,
) -> (usize, repository::Result<()>) {
    let interrupted = Arc::new(Interrupted { inner: world.store.clone(), turn: Mutex::default() });
    let (repository, own) = world.come(interrupted.clone());
    *clock.lock().unwrap() = Some(own);
    // What opening took does not count.
    *interrupted.turn.lock().unwrap() = Turn { events, ..Turn::default() };
    let result = act(&repository);
    let requests = interrupted.turn.lock().unwrap().requests;
    (requests, result)
}

fn requests(world: &World, actor: Actor) -> usize {
    let (requests, result) = run(&world.copy(), actor, usize::MAX, |_| Then::GoOn);
    result.unwrap();
    requests
}

/// What may come of a run that others meet.
fn is_fair(actor: Actor, result: &repository::Result<()>) -> bool {
    match result {
        Ok(()) | Err(Error::Locked { .. }) => true,
        // Two prunes may take the index from each other.
        Err(Error::Refused(_)) => actor.0.contains("prune"),
        Err(_) => false,
    }
}

/// One of them is interrupted at each request; the other one does all it does there.
#[test]
fn two_that_meet() {
    let world = World::new();
    let pairs = [
        (BACKUP, FORGET_AND_PRUNE),
        (BACKUP, PRUNE),
        (BACKUP, TAG),
        (PRUNE, BACKUP),
        (PRUNE, PRUNE),
        (PRUNE, READ),
        (PRUNE, TAG),
        (PRUNE, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, BACKUP),
        (READ, FORGET_AND_PRUNE),
        (TAG, FORGET_AND_PRUNE),
        (TAG, BACKUP),
        (FORGET, BACKUP),
        (STOCK, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, STOCK),
        (REPAIR, FORGET_AND_PRUNE),
        (PRUNE, REPAIR),
    ];
    let cases: Vec<_> =
        pairs.iter().flat_map(|&(first, second)| (1..=requests(&world, first)).map(move |at| (first, second, at))).collect();
    let [both, one] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let case = |(): &mut (), &(first, second, at): &(Actor, Actor, usize)| {
        let (world, second_result) = (world.copy(), Arc::new(Mutex::new(None)));
        let happens = {
            let (world, second_result) = (world.clone(), second_result.clone());
            move |_: &ManualClock| {
                *second_result.lock().unwrap() = Some(run(&world, second, usize::MAX, |_| Then::GoOn).1);
                Then::GoOn
            }
        };
        let (_, result) = run(&world, first, at, happens);
        let second_result = second_result.lock().unwrap().take();
        let case = format!("{} at request {at}, where {} gives {second_result:?}; it gives {result:?}", first.0, second.0);
        assert!(is_fair(first, &result) && second_result.as_ref().is_none_or(|result| is_fair(second, result)), "{case}");
        let fine = |result: &repository::Result<()>| result.is_ok();
        if fine(&result) && second_result.as_ref().is_some_and(fine) { &both } else { &one }.fetch_add(1, Ordering::Relaxed);
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    let (both, one) = (both.into_inner(), one.into_inner());
    println!("{} cases; in {both} both did all they were to do, in {one} one kept out of the other's way", cases.len());
    assert!(both > cases.len() / 4, "{both}");
}

/// It ends at a request; others come, now, and when its lock is gone.
#[test]
fn one_that_ends_for_ever() {
    let world = World::new();
    let pairs = [(BACKUP, FORGET_AND_PRUNE), (PRUNE, BACKUP), (PRUNE, PRUNE), (FORGET_AND_PRUNE, BACKUP), (TAG, PRUNE)];
    let cases: Vec<_> =
        pairs.iter().flat_map(|&(first, second)| (1..=requests(&world, first)).map(move |at| (first, second, at))).collect();
    let case = |(): &mut (), &(first, second, at): &(Actor, Actor, usize)| {
        let world = world.copy();
        let (_, result) = run(&world, first, at, |_| Then::Die);
        let case = format!("{} ends at request {at}: {result:?}; then {}", first.0, second.0);
        for _ in 0..2 {
            let (_, result) = run(&world, second, usize::MAX, |_| Then::GoOn);
            assert!(matches!(result, Ok(()) | Err(Error::Locked { .. })), "{case} gives {result:?}");
            world.pass(SLEEP);
            unlock(&world.open(), UnlockMode::Stale).unwrap();
        }
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    println!("{} cases", cases.len());
}

/// It sleeps at a request until its lock may be removed; it is, and others come. Then it wakes up.
#[test]
fn one_that_sleeps_too_long() {
    let world = World::new();
    let pairs = [
        (BACKUP, FORGET_AND_PRUNE),
        (PRUNE, BACKUP),
        (PRUNE, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, BACKUP),
        (TAG, FORGET_AND_PRUNE),
        (FORGET, BACKUP),
        (PRUNE, REPAIR_AND_STOCK),
    ];
    let cases: Vec<_> =
        pairs.iter().flat_map(|&(first, second)| (1..=requests(&world, first)).map(move |at| (first, second, at))).collect();
    let refused = AtomicUsize::new(0);
    let case = |(): &mut (), &(first, second, at): &(Actor, Actor, usize)| {
        let (world, second_result) = (world.copy(), Arc::new(Mutex::new(None)));
        let happens = {
            let (world, second_result) = (world.clone(), second_result.clone());
            move |clock: &ManualClock| {
                clock.advance(SLEEP);
                world.pass(SLEEP);
                unlock(&world.open(), UnlockMode::Stale).unwrap();
                *second_result.lock().unwrap() = Some(run(&world, second, usize::MAX, |_| Then::GoOn).1);
                Then::GoOn
            }
        };
        let (_, result) = run(&world, first, at, happens);
        refused.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
        let second_result = second_result.lock().unwrap().take();
        let case = format!("{} sleeps at request {at}, meanwhile {} gives {second_result:?}; it gives {result:?}", first.0, second.0);
        assert!(second_result.is_none_or(|result| result.is_ok()), "{case}");
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    let refused = refused.into_inner();
    println!("{} cases; in {refused} it ended with an error", cases.len());
    assert!(refused > cases.len() / 3, "{refused}");
}

/// Closed until somebody opens it, for good.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |is_open| !*is_open).unwrap());
    }
}

/// One comes to a request, then the other one to one of its own; the first goes on to its end, then the second.
#[test]
fn two_that_take_turns() {
    let world = World::new();
    let pairs = [
        (PRUNE, PRUNE),
        (PRUNE, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, PRUNE),
        (FORGET_AND_PRUNE, BACKUP),
        (BACKUP, FORGET_AND_PRUNE),
        (PRUNE, BACKUP),
        (PRUNE, READ),
        (READ, PRUNE),
        (BACKUP, TAG),
    ];
    let mut cases = Vec::new();
    for (first, second) in pairs {
        let (of_first, of_second) = (requests(&world, first), requests(&world, second));
        cases.extend((1..=of_first).flat_map(|at| (1..=of_second).map(move |then| (first, second, at, then))));
    }
    let chosen = some_of(&cases, OF_TURNS);
    let case = |(): &mut (), &(first, second, at, then): &(Actor, Actor, usize, usize)| {
        let world = world.copy();
        let [second_waits, first_is_over] = [Gate::default(), Gate::default()];
        let (result, second_result) = std::thread::scope(|scope| {
            let (begin_tx, begin_rx) = std::sync::mpsc::channel::<()>();
            let other = {
                let (world, waits, over) = (world.clone(), second_waits.clone(), first_is_over.clone());
                scope.spawn(move || {
                    begin_rx.recv().ok()?;
                    let happens = {
                        let waits = waits.clone();
                        move |_: &ManualClock| {
                            waits.open();
                            over.wait();
                            Then::GoOn
                        }
                    };
                    let (_, result) = run(&world, second, then, happens);
                    waits.open();
                    Some(result)
                })
            };
            let happens = move |_: &ManualClock| {
                begin_tx.send(()).unwrap();
                second_waits.wait();
                Then::GoOn
            };
            let (_, result) = run(&world, first, at, happens);
            first_is_over.open();
            (result, other.join().unwrap())
        });
        let case = format!("{} to request {at}, {} to {then}: {result:?}, {second_result:?}", first.0, second.0);
        assert!(is_fair(first, &result) && second_result.as_ref().is_none_or(|result| is_fair(second, result)), "{case}");
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &chosen, || (), case).unwrap();
    println!("{} of {} cases", chosen.len(), cases.len());
}

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
        assert!(requests > self::requests(&World::new(), PRUNE) + 10, "one fence was enough");
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

/// Some of all cases, chosen by a seed.
fn some_of<T: Copy>(cases: &[T], count: usize) -> Vec<T> {
    let mut dice = 1_u64;
    let next = |_| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cases[(dice >> 33) as usize % cases.len()]
    };
    let count = if std::env::var_os("ESTIBA_ALL_RACES").is_some() { return cases.to_vec() } else { count };
    (0..count).map(next).collect()
}

/// One is interrupted by one that is interrupted by a third.
#[test]
fn three_that_meet() {
    let world = World::new();
    let triples = [
        (BACKUP, FORGET_AND_PRUNE, BACKUP),
        (BACKUP, FORGET_AND_PRUNE, PRUNE),
        (PRUNE, BACKUP, FORGET_AND_PRUNE),
        (PRUNE, FORGET_AND_PRUNE, BACKUP),
        (FORGET_AND_PRUNE, BACKUP, FORGET_AND_PRUNE),
        (READ, FORGET_AND_PRUNE, BACKUP),
    ];
    let mut cases = Vec::new();
    for (first, second, third) in triples {
        let (outer, inner) = (requests(&world, first), requests(&world, second));
        cases.extend((1..=outer).flat_map(|at| (1..=inner).map(move |within| (first, second, third, at, within))));
    }
    let chosen = some_of(&cases, OF_THREE);
    let case = |(): &mut (), &(first, second, third, at, within): &(Actor, Actor, Actor, usize, usize)| {
        let (world, results) = (world.copy(), Arc::new(Mutex::new(Vec::new())));
        let happens = {
            let (world, results) = (world.clone(), results.clone());
            move |_: &ManualClock| {
                let innermost = {
                    let (world, results) = (world.clone(), results.clone());
                    move |_: &ManualClock| {
                        let (_, result) = run(&world, third, usize::MAX, |_| Then::GoOn);
                        results.lock().unwrap().push((third, result));
                        Then::GoOn
                    }
                };
                let (_, result) = run(&world, second, within, innermost);
                results.lock().unwrap().push((second, result));
                Then::GoOn
            }
        };
        let (_, result) = run(&world, first, at, happens);
        let mut results = std::mem::take(&mut *results.lock().unwrap());
        results.push((first, result));
        let said: Vec<_> = results.iter().map(|((name, _), result)| (*name, result)).collect();
        let case = format!("{} at request {at}, {} there at {within}, {} there: {said:?}", first.0, second.0, third.0);
        assert!(results.iter().all(|(actor, result)| is_fair(*actor, result)), "{case}");
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &chosen, || (), case).unwrap();
    println!("{} of {} cases", chosen.len(), cases.len());
}
