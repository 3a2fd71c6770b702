//! A long backup keeps what is done on the way: it is made in laps, each of which ends as an interrupted run does, and the next one goes
//! on from there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use repository::id::BlobId;
use repository::write::Added;

use super::{Counts, Outcome, add};

/// A lap passes what is done before it comes to what is not. It takes so many times as long in all, at least.
const LAP_PER_WAY: u32 = 10;

/// Says when a lap is over.
pub(super) struct LapClock {
    began: Instant,
    /// How long it takes; none: it goes to the end.
    every: Option<Duration>,
    /// Known since something was read that had not been done before. `None` in it: never.
    ends: OnceLock<Option<Instant>>,
    is_over: AtomicBool,
}

impl LapClock {
    pub(super) fn start(every: Option<Duration>) -> Self {
        Self { began: Instant::now(), every, ends: OnceLock::new(), is_over: AtomicBool::new(false) }
    }

    /// Something was read that had not been done before.
    pub(super) fn has_news(&self) {
        self.ends.get_or_init(|| {
            let way = self.began.elapsed();
            Instant::now().checked_add(self.every?.max(way.saturating_mul(LAP_PER_WAY)))
        });
    }

    pub(super) fn is_over(&self) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return true;
        }
        let is_over = self.ends.get().copied().flatten().is_some_and(|end| Instant::now() >= end);
        if is_over {
            self.is_over.store(true, Ordering::Relaxed);
        }
        is_over
    }
}

/// What one lap of a run came to.
pub(super) enum Lap {
    /// The end.
    Last(Box<Outcome>),
    /// What is done was kept, and is gone on from.
    Kept { tree: BlobId, counts: Counts, added: Added },
}

/// What earlier laps of this run have done.
#[derive(Default)]
pub(super) struct Laps {
    /// The next one goes to the end.
    is_last: bool,
    files_done: u64,
    bytes_read: u64,
    added: Added,
}

impl Laps {
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// One that kept nothing new would be followed by others like it: the next one is the last.
    pub(super) fn add(&mut self, counts: &Counts, added: &Added, has_news: bool) {
        self.is_last |= !has_news;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.bytes_read += get(&counts.bytes_read);
        self.files_done += (get(&counts.files_new) + get(&counts.files_changed)).saturating_sub(get(&counts.files_resumed));
        self.added.add(added);
    }

    /// Says of the last lap what is so of the run: what an earlier lap did, no earlier run had done.
    pub(super) fn finish(&self, counts: &Counts, added: &Added) {
        for (count, here) in [(&counts.files_resumed, self.files_done), (&counts.bytes_resumed, self.bytes_read)] {
            count.store(count.load(Ordering::Relaxed).saturating_sub(here), Ordering::Relaxed);
        }
        add(&counts.bytes_read, self.bytes_read);
        added.add(&self.added);
    }
}
