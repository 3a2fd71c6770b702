//! Time, handed in, so that tests can set it.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use crate::stop::Stop;

/// Where the engine learns the time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The calendar time of this machine.
    fn now(&self) -> Timestamp;
    /// Time since this machine booted, suspends included: never jumps.
    fn since_boot(&self) -> Duration;
    /// Sleeps, or until stopped; true if the whole time passed.
    fn sleep(&self, duration: Duration, stop: &Stop) -> bool {
        stop.sleep(duration)
    }
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// A clock that a test moves, and whoever sleeps by it: no time passes.
#[derive(Debug)]
pub struct ManualClock(Mutex<(Timestamp, Duration)>);

impl ManualClock {
    /// Starts at `now`, an hour after boot.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new((now, Duration::from_secs(3600))))
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().expect("no holder panics");
        time.0 += by;
        time.1 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().expect("no holder panics").0
    }

    fn since_boot(&self) -> Duration {
        self.0.lock().expect("no holder panics").1
    }

    fn sleep(&self, duration: Duration, stop: &Stop) -> bool {
        self.advance(duration);
        !stop.is_stopped()
    }
}
