//! Limits bytes a second in either direction, over all threads together.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError, StoreErrorKind};
use crate::object::{Object, ObjectKind, ObjectName};
use crate::stop::Stop;

/// When the line is free again.
#[derive(Debug)]
struct Line {
    bytes_per_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Line {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Books the time that `bytes` take, after all that was booked before; returns how long to wait until its turn.
    fn book(&self, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let now = Instant::now();
        let mut free_at = self.free_at.lock().expect("no holder panics");
        let start = (*free_at).max(now);
        *free_at = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        start - now
    }
}

/// A store that is slow on purpose.
#[derive(Debug)]
pub struct Throttled<S> {
    inner: S,
    up: Line,
    down: Line,
    stop: Stop,
}

impl<S: Store> Throttled<S> {
    /// Limits in bytes a second; `None` is no limit.
    pub fn new(inner: S, up: Option<u64>, down: Option<u64>, stop: Stop) -> Self {
        Self { inner, up: Line::new(up), down: Line::new(down), stop }
    }

    fn wait(&self, line: &Line, bytes: u64, verb: &'static str, name: &ObjectName) -> Result<(), StoreError> {
        let wait = line.book(bytes);
        if wait.is_zero() || self.stop.sleep(wait) {
            return Ok(());
        }
        Err(StoreError::new(self, StoreErrorKind::Stopped, verb, name, "stopped"))
    }
}

impl<S: Store> Store for Throttled<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        // What is small is dated, or renews a lock: it does not stand in line behind packs.
        if object.name.kind == ObjectKind::Pack {
            self.wait(&self.up, object.body.len() as u64, "write", &object.name)?;
        }
        self.inner.put_as_of(object, mode, as_of)
    }

    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        if let ReadRange::Part { length, .. } = range {
            self.wait(&self.down, length, "read", name)?;
            return self.inner.read(name, range, into);
        }
        self.inner.read(name, range, into)?;
        self.wait(&self.down, into.len() as u64, "read", name)
    }

    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        self.inner.stat(name)
    }

    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.inner.list(kind, each)
    }

    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        self.inner.delete_as_of(name, as_of)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookings_follow_one_another() {
        let line = Line::new(Some(1000));
        assert!(line.book(500) < Duration::from_millis(1));
        let second = line.book(2000);
        assert!(second > Duration::from_millis(400) && second <= Duration::from_millis(500), "{second:?}");
        assert!(line.book(1) > Duration::from_millis(2300));
        assert!(Line::new(None).book(u64::MAX).is_zero());
    }
}
