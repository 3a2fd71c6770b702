//! A repository in which runs meet, and what stops one of them before a request until something else has happened.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use repository::Repository;
use repository::access::Access;
use repository::clock::{Clock, ManualClock};
use repository::format::lock::LockMode;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::{Object, ObjectKind, ObjectName};
use repository::prune::Outcome;
use repository::store::memory::MemoryStore;
use repository::store::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError, StoreErrorKind};

use crate::actors::pruned;
use crate::common;

/// Files of a run: a few packs.
pub const FILES: u64 = 8;
/// Longer than a lock is left alone.
pub const SLEEP: Duration = Duration::from_secs(31 * 60);

/// A repository with a clock of its own.
#[derive(Clone)]
pub struct World {
    pub store: MemoryStore,
    clock: Arc<ManualClock>,
}

impl World {
    /// Three runs, of which the first two are forgotten.
    pub fn new() -> Self {
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
    pub fn unseen(&self, act: impl FnOnce()) {
        let index = self.store.names(ObjectKind::Index).unwrap();
        let hidden: Vec<_> = index.into_iter().map(|name| (name, self.store.objects.lock().unwrap().remove(&name).unwrap())).collect();
        act();
        self.store.objects.lock().unwrap().extend(hidden);
    }

    pub fn copy(&self) -> Self {
        let clock = Arc::new(ManualClock::new(self.clock.now()));
        Self { store: common::copy(&self.store).refusing_late(clock.clone()), clock }
    }

    /// Somebody new, through `store`; the answer is the clock, too, by which they live.
    fn come(&self, store: Arc<dyn Store>) -> (Arc<Repository>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(self.clock.now()));
        let access = Access { clock: clock.clone(), ..common::access(store) };
        (Arc::new(Repository::open(&access, common::PASSWORD).unwrap()), clock)
    }

    pub fn open(&self) -> Arc<Repository> {
        self.come(Arc::new(self.store.clone())).0
    }

    /// Time passes, for all but those who sleep by other clocks.
    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.store.age_all(time);
    }

    /// What must hold after all.
    pub fn judge(&self, case: &str) {
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
pub type Act = fn(&Arc<Repository>) -> repository::Result<()>;
pub type Actor = (&'static str, Act);

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
pub enum When {
    /// The first is 1.
    Request(usize),
    /// The so-manyth of its kind.
    Of(&'static str, ObjectKind, usize),
}

pub type Event = Box<dyn FnOnce() -> Then + Send>;

#[derive(Clone, Copy, PartialEq)]
pub enum Then {
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
    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        self.inner.retain(name, retention)
    }
}

/// Runs one, to whom something happens at some request; so many requests were made, and this came of it.
pub fn run(
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
pub fn run_with(
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

pub fn requests(world: &World, actor: Actor) -> usize {
    let (requests, result) = run(&world.copy(), actor, usize::MAX, |_| Then::GoOn);
    result.unwrap();
    requests
}

/// Closed until somebody opens it, for good.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |is_open| !*is_open).unwrap());
    }
}
