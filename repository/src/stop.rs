//! A wish to stop, seen by every loop that may take long and by every request under way; and a wish to come to an end soon, in
//! a way that can be gone on from, for those who can.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Shared by all parts of one run. Cheap to clone; once stopped, stopped for good.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stopped: AtomicBool,
    paused: AtomicBool,
    /// How long a pause may take, where one is possible.
    grace: OnceLock<Duration>,
    wake: tokio::sync::Notify,
}

/// How often a sleeping thread looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Stop {
    /// Asks everything that shares this to end soon. Safe to call from any thread, any number of times.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.wake.notify_waiters();
    }

    /// True once somebody called [`Stop::stop`].
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    /// Whoever runs can pause, if it is given this long.
    pub fn can_pause(&self, grace: Duration) {
        // Only the first one counts: a run has one pace.
        let _ = self.0.grace.set(grace);
    }

    /// Asks for a pause; the answer is how long it may take. `None` if nobody here can, or is about to.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        let grace = *self.0.grace.get()?;
        (!self.0.paused.swap(true, Ordering::SeqCst)).then_some(grace)
    }

    /// True once somebody asked for a pause, and it is possible.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::Relaxed)
    }

    /// Sleeps for `duration`, or until stopped; true if the whole time passed.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        let end = Instant::now() + duration;
        while !self.is_stopped() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
        false
    }

    /// Completes when stopped.
    pub async fn stopped(&self) {
        let wake = self.0.wake.notified();
        tokio::pin!(wake);
        // Registered before the flag is read: a stop between the two is not missed.
        wake.as_mut().enable();
        if !self.is_stopped() {
            wake.await;
        }
    }
}
