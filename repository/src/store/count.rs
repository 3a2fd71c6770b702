//! Counts requests and bytes: for the summary of a run, and for tests that a change makes no more of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError};
use crate::object::{Object, ObjectKind, ObjectName};

/// What was asked of a store so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Objects written.
    pub puts: AtomicU64,
    /// Objects or parts read.
    pub reads: AtomicU64,
    /// Sizes and ages asked for.
    pub stats: AtomicU64,
    /// Lists, however many pages.
    pub lists: AtomicU64,
    /// Objects removed.
    pub deletes: AtomicU64,
    /// Tries after a failure.
    pub retries: AtomicU64,
    /// Bytes sent.
    pub bytes_written: AtomicU64,
    /// Bytes received.
    pub bytes_read: AtomicU64,
}

impl Counters {
    /// Requests of every kind.
    #[must_use]
    pub fn requests(&self) -> u64 {
        [&self.puts, &self.reads, &self.stats, &self.lists, &self.deletes].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// A store whose requests are counted.
#[derive(Debug)]
pub struct Counting<S> {
    inner: S,
    counters: Arc<Counters>,
}

impl<S: Store> Counting<S> {
    /// Counts what goes to `inner`.
    pub fn new(inner: S, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}

impl<S: Store> Store for Counting<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        add(&self.counters.puts, 1);
        self.inner.put_as_of(object, mode, as_of)?;
        add(&self.counters.bytes_written, object.body.len() as u64);
        Ok(())
    }

    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        add(&self.counters.reads, 1);
        self.inner.read(name, range, into)?;
        add(&self.counters.bytes_read, into.len() as u64);
        Ok(())
    }

    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        add(&self.counters.stats, 1);
        self.inner.stat(name)
    }

    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        add(&self.counters.lists, 1);
        self.inner.list(kind, each)
    }

    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        add(&self.counters.deletes, 1);
        self.inner.delete_as_of(name, as_of)
    }

    fn sweep(&self) -> Result<(), StoreError> {
        self.inner.sweep()
    }

    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        self.inner.creates_exclusively()
    }

    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        add(&self.counters.puts, 1);
        self.inner.retain(name, retention)
    }
}
