//! Fails on purpose: for tests.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError, StoreErrorKind};
use crate::object::{Object, ObjectKind, ObjectName};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not happen.
    Error(StoreErrorKind),
    /// It happens, and is reported as failed.
    LostReply(StoreErrorKind),
    /// A change does not happen, and is reported as done.
    Lie,
    /// It passes.
    None,
}

/// Chooses a fault for a request: its verb and what it is about.
pub type Chooser = Box<dyn FnMut(&'static str, ObjectKind) -> Fault + Send>;

/// A store that does not always work.
pub struct Faulty<S> {
    inner: S,
    queue: Mutex<VecDeque<Fault>>,
    chooser: Mutex<Chooser>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Faulty").field(&self.inner).finish()
    }
}

impl<S: Store> Faulty<S> {
    /// Works, until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner, queue: Mutex::default(), chooser: Mutex::new(Box::new(|_, _| Fault::None)) }
    }

    /// The next `count` requests meet this fault.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        self.queue.lock().expect("no holder panics").extend(std::iter::repeat_n(fault, count));
    }

    /// Every request asks `chooser`.
    pub fn choose(&self, chooser: Chooser) {
        *self.chooser.lock().expect("no holder panics") = chooser;
    }

    /// `pretended` is what a lie answers; only changes are lied about.
    fn run<T>(
        &self,
        verb: &'static str,
        kind: ObjectKind,
        pretended: Option<T>,
        request: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let queued = self.queue.lock().expect("no holder panics").pop_front();
        let fault = queued.unwrap_or_else(|| (self.chooser.lock().expect("no holder panics"))(verb, kind));
        match fault {
            Fault::None => request(),
            Fault::Lie => pretended.map_or_else(request, Ok),
            Fault::Error(error) => Err(StoreError::new(self, error, verb, &kind, "failed on purpose")),
            Fault::LostReply(error) => {
                request()?;
                Err(StoreError::new(self, error, verb, &kind, "reply lost on purpose"))
            }
        }
    }
}

impl<S: Store> Store for Faulty<S> {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        self.run("write", object.name.kind, Some(()), || self.inner.put_as_of(object, mode, as_of))
    }
    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.run("read", name.kind, None, || self.inner.read(name, range, into))
    }
    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        self.run("stat", name.kind, None, || self.inner.stat(name))
    }
    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.run("list", kind, None, || self.inner.list(kind, each))
    }
    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        self.run("delete", name.kind, Some(()), || self.inner.delete_as_of(name, as_of))
    }
    fn sweep(&self) -> Result<(), StoreError> {
        self.inner.sweep()
    }
    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        self.inner.creates_exclusively()
    }
    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        self.run("retain", name.kind, Some(()), || self.inner.retain(name, retention))
    }
}
