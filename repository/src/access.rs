//! The way to a store: the plain store and the wrappers every run puts around it, in one visible place.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::lock::{HeldSlot, Identity};
use crate::stop::Stop;
use crate::store::Store;
use crate::store::count::{Counters, Counting};
use crate::store::guard::Guarded;
use crate::store::retry::{OnRetry, RetryPolicy, Retrying};
use crate::store::throttle::Throttled;

/// Told of a wait for others.
pub type OnLocked = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// Everything a repository needs from outside.
pub struct Access {
    /// The plain store.
    pub store: Arc<dyn Store>,
    /// The same, for what must be done after a stop: removing the own lock.
    pub cleanup: Arc<dyn Store>,
    /// The wish to stop.
    pub stop: Stop,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who runs.
    pub identity: Identity,
    /// How failed requests are tried again.
    pub retry: RetryPolicy,
    /// Told of each wait.
    pub on_retry: OnRetry,
    /// Told once of each wait for others who hold a lock, and for how long it may last.
    pub on_locked: OnLocked,
    /// Bytes a second to the store.
    pub limit_up: Option<u64>,
    /// Bytes a second from the store.
    pub limit_down: Option<u64>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("store", &self.store).finish_non_exhaustive()
    }
}

/// A run that was stopped has ten seconds to leave; the lock must go within them.
const CLEANUP_WINDOW: Duration = Duration::from_secs(5);

impl Access {
    /// Access to one store with the defaults of a command.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, identity: Identity) -> Self {
        Self {
            cleanup: store.clone(),
            store,
            stop: Stop::default(),
            clock: Arc::new(SystemClock),
            identity,
            retry: RetryPolicy::DEFAULT,
            on_retry: Arc::new(|_, _| {}),
            on_locked: Arc::new(|_, _| {}),
            limit_up: None,
            limit_down: None,
        }
    }

    /// Stacks the wrappers; returns the working store, the cleaning store, the counters, and where the guard finds its lock.
    pub(crate) fn stack(&self) -> Stack {
        let counters = Arc::new(Counters::default());
        let held = HeldSlot::default();
        let throttled = Throttled::new(self.store.clone(), self.limit_up, self.limit_down, self.stop.clone());
        let guarded = Guarded::new(Counting::new(throttled, counters.clone()), held.clone(), self.clock.clone());
        let work = Retrying::new(guarded, self.retry, self.stop.clone(), counters.clone(), self.on_retry.clone());
        let policy = RetryPolicy { window: CLEANUP_WINDOW.min(self.retry.window), ..self.retry };
        let counted = Counting::new(self.cleanup.clone(), counters.clone());
        let cleanup = Retrying::new(counted, policy, Stop::default(), counters.clone(), Arc::new(|_, _| {}));
        Stack { work: Arc::new(work), cleanup: Arc::new(cleanup), counters, held }
    }
}

pub(crate) struct Stack {
    pub(crate) work: Arc<dyn Store>,
    pub(crate) cleanup: Arc<dyn Store>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) held: HeldSlot,
}
