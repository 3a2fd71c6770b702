//! Guards what makes data visible, and what makes it go: an index or a snapshot is written, and one of those or a pack
//! removed, only while the run's own lock is there and fresh.
//!
//! Each guarded write is checked for itself, also when it is tried again: between two tries the lock may have gone.

use std::sync::Arc;
use std::time::Duration;

use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError, StoreErrorKind};
use crate::clock::Clock;
use crate::lock::{HeldSlot, MAX_CLOCK_SKEW_SECS};
use crate::object::{Object, ObjectKind, ObjectName};

/// A guarded request is made only if the own lock was written at most this long ago, and is signed as of that moment. It is
/// accepted for [`SIGNED_FOR`](super::SIGNED_FOR), by clocks that differ by two minutes at most: so nothing lands more than 27 minutes after the
/// lock was written, and locks are left alone for 30.
pub(crate) const LOCK_FRESH: Duration = Duration::from_secs(10 * 60);

/// A store behind whose writes stands a lock, once one is held.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    held: HeldSlot,
    clock: Arc<dyn Clock>,
}

impl<S: Store> Guarded<S> {
    /// Guards `inner` by the lock that will be put into `held`.
    pub fn new(inner: S, held: HeldSlot, clock: Arc<dyn Clock>) -> Self {
        Self { inner, held, clock }
    }

    /// The answer is from before the look: whoever is put to sleep after it cannot sign anything later.
    fn check(&self, verb: &'static str, object: &impl ToString) -> Result<AsOf, StoreError> {
        let as_of = AsOf::Then(self.clock.now());
        let lost = |why: String| Err(StoreError::new(self, StoreErrorKind::LockLost, verb, object, why));
        let Some(held) = self.held.get() else { return lost("no lock is held".to_owned()) };
        let newest = held.newest();
        let since = self.clock.since_boot().saturating_sub(newest.sent_at);
        if since > LOCK_FRESH {
            return lost(format!("this run's lock could not be renewed for {} minutes", since.as_secs() / 60));
        }
        match self.inner.stat(&newest.name) {
            // Looked at each time: this machine's clock may have been set meanwhile.
            Ok(stat) if stat.store_ahead_secs.abs() > MAX_CLOCK_SKEW_SECS => {
                lost(format!("the storage's clock is {} s ahead of this machine's: set the clock", stat.store_ahead_secs))
            }
            Ok(_) => Ok(as_of),
            Err(error) if error.kind == StoreErrorKind::NotFound => lost("somebody removed this run's lock".to_owned()),
            Err(error) => Err(error),
        }
    }
}

fn is_guarded(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Index | ObjectKind::Snapshot | ObjectKind::Resume | ObjectKind::Condemned)
}

impl<S: Store> Store for Guarded<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        let as_of = if is_guarded(object.name.kind) { self.check("write", &object.name)? } else { as_of };
        self.inner.put_as_of(object, mode, as_of)
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
        let is_guarded = is_guarded(name.kind) || name.kind == ObjectKind::Pack;
        let as_of = if is_guarded { self.check("delete", name)? } else { as_of };
        self.inner.delete_as_of(name, as_of)
    }

    fn sweep(&self) -> Result<(), StoreError> {
        self.check("sweep", &"folders")?;
        self.inner.sweep()
    }

    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        self.inner.creates_exclusively()
    }

    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        self.inner.retain(name, retention)
    }
}
