//! Tries again what may work in a moment: exponential back-off with jitter, bounded in time. The only layer that does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::count::Counters;
use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError, StoreErrorKind};
use crate::crypto::random;
use crate::object::{Object, ObjectKind, ObjectName};
use crate::stop::Stop;

/// How long, and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// No try begins later than this after the first.
    pub window: Duration,
    /// The first wait; each further one is twice as long.
    pub first_wait: Duration,
    /// No wait is longer, unless the server asks for it.
    pub longest_wait: Duration,
}

impl RetryPolicy {
    /// Long enough for a server to be restarted or a connection to come back, short enough for somebody who watches.
    pub const DEFAULT: Self =
        Self { window: Duration::from_secs(300), first_wait: Duration::from_millis(250), longest_wait: Duration::from_secs(20) };
}

/// What is there already is compared in parts of this size.
const COMPARED_AT_ONCE: usize = 1 << 20;

/// Told of each wait: the error, and how long until the next try.
pub type OnRetry = Arc<dyn Fn(&StoreError, Duration) + Send + Sync>;

/// A store that is asked again.
pub struct Retrying<S> {
    inner: S,
    policy: RetryPolicy,
    stop: Stop,
    counters: Arc<Counters>,
    on_retry: OnRetry,
    /// Whether the store ever answered.
    answered: AtomicBool,
}

/// A store that never answered is not waited for as long: most likely its address is wrong.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl<S: std::fmt::Debug> std::fmt::Debug for Retrying<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Retrying").field(&self.inner).finish()
    }
}

impl<S: Store> Retrying<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, policy: RetryPolicy, stop: Stop, counters: Arc<Counters>, on_retry: OnRetry) -> Self {
        Self { inner, policy, stop, counters, on_retry, answered: AtomicBool::new(false) }
    }

    fn run<T>(&self, mut request: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let start = Instant::now();
        let mut wait = self.policy.first_wait;
        loop {
            let error = match request() {
                Err(error) if error.is_retryable() => error,
                other => {
                    self.answered.store(true, Ordering::Relaxed);
                    return other;
                }
            };
            // Between half and all of the wait: clients that failed together do not come back together.
            let jittered = wait.mul_f64(0.5 + f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX) / 2.0);
            let pause = error.retry_after.unwrap_or(jittered).max(jittered);
            let answered = self.answered.load(Ordering::Relaxed);
            let window = if answered { self.policy.window } else { self.policy.window.min(FIRST_ANSWER_WITHIN) };
            if start.elapsed() + pause > window {
                let tried = start.elapsed().as_secs();
                return Err(StoreError { message: format!("{} (gave up after {tried} s of trying)", error.message), ..error });
            }
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
            (self.on_retry)(&error, pause);
            if !self.stop.sleep(pause) {
                return Err(StoreError { kind: StoreErrorKind::Stopped, ..error });
            }
            wait = (wait * 2).min(self.policy.longest_wait);
        }
    }
}

impl<S: Store> Store for Retrying<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        let mut tried = false;
        self.run(|| {
            let result = self.inner.put_as_of(object, mode, as_of);
            match &result {
                // An earlier try may have arrived though its answer did not; and the same in its own place is no matter.
                Err(error) if error.kind == StoreErrorKind::AlreadyExists && (tried || mode == PutMode::Replace) => {
                    match self.holds(object) {
                        Ok(true) => Ok(()),
                        Ok(false) => result,
                        // It is there and cannot be looked at now: all of it once more.
                        Err(error) => Err(error),
                    }
                }
                _ => {
                    tried = true;
                    result
                }
            }
        })
    }

    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.run(|| self.inner.read(name, range, into))
    }

    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        self.run(|| self.inner.stat(name))
    }

    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        // Collected first: a second try must not report what the first one did.
        let mut all = Vec::new();
        self.run(|| {
            all.clear();
            self.inner.list(kind, &mut |listed| all.push(listed))
        })?;
        all.into_iter().for_each(each);
        Ok(())
    }

    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        self.run(|| self.inner.delete_as_of(name, as_of))
    }

    fn sweep(&self) -> Result<(), StoreError> {
        self.run(|| self.inner.sweep())
    }

    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        self.run(|| self.inner.creates_exclusively())
    }

    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        self.run(|| self.inner.retain(name, retention))
    }
}

impl<S: Store> Retrying<S> {
    /// Whether just this is stored, compared part by part.
    fn holds(&self, object: &Object) -> Result<bool, StoreError> {
        if self.inner.stat(&object.name)?.size != object.body.len() as u64 {
            return Ok(false);
        }
        let (mut offset, mut there) = (0, Vec::new());
        for part in object.body.chunks(COMPARED_AT_ONCE) {
            let length = part.len() as u64;
            self.inner.read(&object.name, ReadRange::Part { offset, length }, &mut there)?;
            if there != part {
                return Ok(false);
            }
            offset += length;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::{Fault, Faulty};
    use super::super::memory::MemoryStore;
    use super::*;

    fn retrying(inner: Faulty<MemoryStore>, window: Duration) -> (Retrying<Faulty<MemoryStore>>, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let policy = RetryPolicy { window, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(5) };
        (Retrying::new(inner, policy, Stop::default(), counters.clone(), Arc::new(|_, _| {})), counters)
    }

    fn object() -> Object {
        Object::named(ObjectName::CONFIG, bytes::Bytes::from_static(b"x"))
    }

    #[test]
    fn what_passes_is_tried_again_and_counted() {
        let faulty = Faulty::new(MemoryStore::default());
        faulty.fail_next(3, Fault::Error(StoreErrorKind::Throttled));
        let (store, counters) = retrying(faulty, Duration::from_secs(10));
        store.put(&object(), PutMode::CreateNew).unwrap();
        assert_eq!(counters.retries.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        let faulty = Faulty::new(MemoryStore::default());
        faulty.fail_next(1, Fault::Error(StoreErrorKind::Denied));
        let (store, counters) = retrying(faulty, Duration::from_secs(10));
        assert_eq!(store.put(&object(), PutMode::Replace).unwrap_err().kind, StoreErrorKind::Denied);
        assert_eq!(counters.retries.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn trying_ends_in_time_and_says_so() {
        let faulty = Faulty::new(MemoryStore::default());
        faulty.fail_next(1_000_000, Fault::Error(StoreErrorKind::Unavailable));
        let (store, _) = retrying(faulty, Duration::from_millis(50));
        let error = store.put(&object(), PutMode::Replace).unwrap_err();
        assert!(error.message.contains("gave up"), "{error}");
    }

    #[test]
    fn a_lost_reply_to_a_create_is_a_success() {
        let faulty = Faulty::new(MemoryStore::default());
        faulty.fail_next(1, Fault::LostReply(StoreErrorKind::Unavailable));
        let (store, _) = retrying(faulty, Duration::from_secs(10));
        store.put(&object(), PutMode::CreateNew).unwrap();
    }

    #[test]
    fn stopping_ends_the_wait() {
        let faulty = Faulty::new(MemoryStore::default());
        faulty.fail_next(1_000_000, Fault::Error(StoreErrorKind::Unavailable));
        let stop = Stop::default();
        stop.stop();
        let store = Retrying::new(faulty, RetryPolicy::DEFAULT, stop, Arc::default(), Arc::new(|_, _| {}));
        assert_eq!(store.put(&object(), PutMode::Replace).unwrap_err().kind, StoreErrorKind::Stopped);
    }
}
