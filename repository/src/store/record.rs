//! Writes down every change in the order it began and ended: for tests of order, and to rebuild what a crash could leave.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::memory::MemoryStore;
use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError};
use crate::object::{Object, ObjectKind, ObjectName};

/// A change that began or ended; both carry the number of the change.
#[derive(Debug, Clone)]
pub enum Event {
    /// It is on its way: a crash now may leave it done or not.
    Began(usize, Change),
    /// It returned: it is done.
    Ended(usize),
}

/// What changes a store.
#[derive(Debug, Clone)]
pub enum Change {
    /// An object is stored.
    Put(ObjectName, Bytes),
    /// An object is removed.
    Delete(ObjectName),
}

/// A store that keeps a log.
#[derive(Debug, Clone)]
pub struct Recording<S> {
    inner: S,
    log: Arc<Mutex<Vec<Event>>>,
}

impl<S: Store> Recording<S> {
    /// An empty log before `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, log: Arc::default() }
    }

    /// What is recorded.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// All so far.
    #[must_use]
    pub fn log(&self) -> Vec<Event> {
        self.log.lock().expect("no holder panics").clone()
    }

    fn begin(&self, change: Change) -> usize {
        let mut log = self.log.lock().expect("no holder panics");
        let number = log.iter().filter(|event| matches!(event, Event::Began(..))).count();
        log.push(Event::Began(number, change));
        number
    }

    fn end(&self, number: usize) {
        self.log.lock().expect("no holder panics").push(Event::Ended(number));
    }
}

/// What a crash after the first `events` of a log leaves: all that ended, and of what was under way that which `survives`.
#[must_use]
pub fn after_crash(log: &[Event], events: usize, mut survives: impl FnMut(usize) -> bool) -> MemoryStore {
    let seen = &log[..events];
    let ended: std::collections::HashSet<usize> =
        seen.iter().filter_map(|event| if let Event::Ended(number) = event { Some(*number) } else { None }).collect();
    let store = MemoryStore::default();
    {
        let mut objects = store.objects.lock().expect("no holder panics");
        for event in seen {
            let Event::Began(number, change) = event else { continue };
            if !ended.contains(number) && !survives(*number) {
                continue;
            }
            match change {
                Change::Put(name, body) => drop(objects.insert(*name, (body.clone(), std::time::Instant::now()))),
                Change::Delete(name) => drop(objects.remove(name)),
            }
        }
    }
    store
}

impl<S: Store> Store for Recording<S> {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        let number = self.begin(Change::Put(object.name, Bytes::copy_from_slice(&object.body)));
        self.inner.put_as_of(object, mode, as_of)?;
        self.end(number);
        Ok(())
    }
    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.inner.read(name, range, into)
    }
    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        self.inner.stat(name)
    }
    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.inner.list(kind, each)
    }
    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        let number = self.begin(Change::Delete(*name));
        self.inner.delete_as_of(name, as_of)?;
        self.end(number);
        Ok(())
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
