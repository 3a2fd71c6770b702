//! Locks as restic knows them, so that its `prune`, `forget` and `check` and our runs keep out of each other's way.
//!
//! ```text
//! look -> PUT mine -> [append: read the lists of condemned packs, PUT mine with their ids]
//!      -> wait 200 ms -> list, and list again -> conflict? DELETE mine : held
//!                                    every 5 minutes: HEAD old, PUT new, HEAD old; the one before is deleted
//! release: DELETE mine, whatever else went wrong
//! ```
//! A fence is never renewed: by the guard, all work under it ends within ten minutes.
//!
//! The identity of a run is the random id in `username`. Nobody removes one of our locks before it is 30 minutes old by
//! the store's clock: a late write of its run could still land. See `store/guard.rs` for the other half.

mod others;
mod unlock;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};
use jiff::Timestamp;

use self::others::Others;
pub use self::unlock::{UnlockMode, unlock};
use crate::condemned::Condemned;
use crate::crypto::random;
use crate::error::{Error, Result};
use crate::format::lock::{LockFile, LockMode, Ours, RUN_PREFIX};
use crate::id::{ObjectId, PackId};
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::PutMode;
use crate::store::guard::LOCK_FRESH;

/// How often a lock is renewed; restic's own interval.
const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often a run looks whether it is time: a machine that slept is late at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A lock that could not be renewed for this long is given up.
const REFRESH_UNTIL: Duration = Duration::from_secs(15 * 60);
/// After this age by the store's clock anybody may remove a lock.
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// Between writing a lock and looking for others; restic's own wait.
const SETTLE: Duration = Duration::from_millis(200);
/// Two listings count as one only if together they took less: restic renews every five minutes.
const LISTING_WITHIN: Duration = Duration::from_secs(4 * 60);
/// A fence is waited for without being asked to: this much longer than any work under it takes, and it was left behind.
pub(crate) const WAIT_FOR_FENCE: Duration = LOCK_FRESH.saturating_add(Duration::from_secs(60));
/// Between two tries to get a lock.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// With a larger clock difference, what was signed could land after the lock that it relied on is gone (`store/guard.rs`).
pub(crate) const MAX_CLOCK_SKEW_SECS: i64 = 2 * 60;
/// The largest lock file that is read.
const MAX_LOCK_BYTES: usize = 1 << 20;

/// Who runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Machine or pod UID.
    pub hostname: String,
    /// Name of the user who runs it.
    pub username: String,
    /// 128 random bits, hexadecimal.
    pub run_id: String,
    /// Of this process.
    pub pid: u32,
    /// Of this process.
    pub uid: u32,
    /// Of this process.
    pub gid: u32,
}

impl Identity {
    /// A new run on this machine.
    #[must_use]
    pub fn new(hostname: String, username: String) -> Self {
        Self {
            hostname,
            username,
            run_id: data_encoding::HEXLOWER.encode(&random::<16>()),
            pid: std::process::id(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }
}

/// The lock objects of this run, as the guard and the refresher see them.
#[derive(Debug)]
pub struct Held {
    state: Mutex<HeldState>,
}

#[derive(Debug)]
struct HeldState {
    newest: Newest,
    /// The last is still there for those whose listing might miss the newest; others could not be removed yet.
    before: Vec<ObjectName>,
    /// What is said in each of them.
    ours: Ours,
}

/// The lock that a run holds now, if it does.
#[derive(Debug, Clone, Default)]
pub struct HeldSlot(Arc<Mutex<Option<Arc<Held>>>>);

impl HeldSlot {
    pub(crate) fn get(&self) -> Option<Arc<Held>> {
        self.0.lock().expect("no holder panics").clone()
    }

    /// # Panics
    /// If one lock is to take the place of another: a run holds one at a time.
    pub(crate) fn set(&self, held: Option<Arc<Held>>) {
        let mut slot = self.0.lock().expect("no holder panics");
        assert!(slot.is_none() || held.is_none(), "a run holds one lock at a time");
        *slot = held;
    }
}

/// The newest confirmed lock object.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    /// Its name.
    pub name: ObjectName,
    /// When its PUT was sent, since boot.
    pub sent_at: Duration,
}

impl Held {
    /// The newest confirmed lock object.
    pub fn newest(&self) -> Newest {
        self.state.lock().expect("no holder panics").newest
    }

    fn ours(&self) -> Ours {
        self.state.lock().expect("no holder panics").ours.clone()
    }

    /// Removes all of it; the answer is the first error.
    fn remove(&self, repository: &Repository) -> Result<()> {
        let state = self.state.lock().expect("no holder panics");
        let names = state.before.iter().chain([&state.newest.name]);
        names.map(|name| Ok(repository.cleanup_store().delete(name)?)).fold(Ok(()), Result::and)
    }
}

/// A lock that this run holds. Dropping it removes it.
#[derive(Debug)]
pub struct Lock {
    repository: Arc<Repository>,
    /// Until it is removed.
    held: Option<Arc<Held>>,
    refresher: Option<Refresher>,
}

type Refresher = (Sender<()>, std::thread::JoinHandle<()>);

impl Lock {
    /// Takes a lock, waiting up to `retry` for others to end.
    ///
    /// # Errors
    /// [`Error::Locked`] with who holds it; a clock far off the store's.
    pub fn acquire(repository: &Arc<Repository>, mode: LockMode, retry: Duration) -> Result<Self> {
        Ok(Self::acquire_and(repository, mode, retry, |_| Ok(()))?.0)
    }

    /// Takes a lock, and does some reading as soon as it is written, while it is still being made sure that it holds:
    /// what is read after the lock was written stays, whichever comes out. `read` is told of the packs that are condemned, of which
    /// whoever [appends](LockMode::Append) must use nothing; others are told of none.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`], and of `read`.
    pub fn acquire_and<T: Send>(
        repository: &Arc<Repository>,
        mode: LockMode,
        retry: Duration,
        mut read: impl FnMut(&HashSet<PackId>) -> Result<T> + Send,
    ) -> Result<(Self, T)> {
        let clock = repository.clock();
        let (start, began) = (clock.since_boot(), clock.now());
        let mut is_told = false;
        loop {
            match Self::try_acquire(repository, mode, began, &mut read) {
                Err(error @ Error::Locked { is_fenced, .. }) => {
                    let patience = if is_fenced { retry.max(WAIT_FOR_FENCE) } else { retry };
                    if clock.since_boot() + RETRY_EVERY > start + patience {
                        return Err(error);
                    }
                    if !std::mem::replace(&mut is_told, true) {
                        repository.waits(&error, patience);
                    }
                    if !clock.sleep(RETRY_EVERY, repository.stop()) {
                        return Err(Error::Stopped);
                    }
                }
                other => return other,
            }
        }
    }

    /// No lock at all, for whoever only reads and may not write, or will not wait.
    #[must_use]
    pub fn none(repository: &Arc<Repository>) -> Self {
        Self { repository: repository.clone(), held: None, refresher: None }
    }

    /// What was written is this run's lock from here on.
    fn hold(repository: &Arc<Repository>, newest: Newest, ours: Ours) -> Self {
        let held = Arc::new(Held { state: Mutex::new(HeldState { newest, before: Vec::new(), ours }) });
        repository.guard_with(Some(held.clone()));
        Self { repository: repository.clone(), held: Some(held), refresher: None }
    }

    /// From here on it is renewed.
    fn keep(&mut self, mode: LockMode) -> Result<()> {
        let Some(held) = self.held.clone() else { return Ok(()) };
        let (end_tx, end_rx) = crossbeam_channel::bounded(0);
        let repository = self.repository.clone();
        let renew = move || {
            // One that fails is tried again at the next look, until the lock is too old.
            while end_rx.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) && age(&repository, &held) <= REFRESH_UNTIL {
                if age(&repository, &held) >= REFRESH_EVERY {
                    let _ = refresh(&repository, &held, mode);
                }
            }
        };
        let thread = std::thread::Builder::new().name("lock".to_owned()).spawn(renew);
        self.refresher = Some((end_tx, thread.map_err(|error| Error::Refused(format!("cannot start a thread: {error}")))?));
        Ok(())
    }

    fn try_acquire<T: Send>(
        repository: &Arc<Repository>,
        mode: LockMode,
        began: Timestamp,
        read: &mut (impl FnMut(&HashSet<PackId>) -> Result<T> + Send),
    ) -> Result<(Self, T)> {
        let mut others = Others::default();
        others.look(repository)?;
        others.check(repository, mode)?;
        let ours = Ours { began, ack: Vec::new(), fence: false };
        let newest = put(repository, mode, &ours)?;
        // Dropped, it goes.
        let mut lock = Self::hold(repository, newest, ours);
        // Whoever was alone before our lock was seen is done by now, or is seen here: what is read from here on stays.
        others.look(repository)?;
        others.check(repository, mode)?;
        let avoid = if mode == LockMode::Append { lock.honour(mode)? } else { HashSet::new() };
        lock.keep(mode)?;
        let (settled, value) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| read(&avoid));
            let settled = lock.settle(|| {
                others.look(repository)?;
                others.check(repository, mode)
            });
            (settled, reading.join().expect("a panic was printed already, and ends this thread too"))
        });
        settled.and(value).map(|value| (lock, value))
    }

    /// Says in the lock which lists it honours; the answer is their packs.
    fn honour(&self, mode: LockMode) -> Result<HashSet<PackId>> {
        let condemned = Condemned::read(&self.repository)?;
        let readable = condemned.readable();
        if let (Some(held), false) = (&self.held, readable.is_empty()) {
            held.state.lock().expect("no holder panics").ours.ack = readable;
            refresh(&self.repository, held, mode)?;
        }
        Ok(condemned.packs())
    }

    /// The lock is written: are we alone with it? `look` lists the others once.
    fn settle(&self, mut look: impl FnMut() -> Result<()>) -> Result<()> {
        let (repository, Some(held)) = (&self.repository, &self.held) else { return Ok(()) };
        let ahead = repository.store().stat(&held.newest().name)?.store_ahead_secs;
        if ahead.abs() > MAX_CLOCK_SKEW_SECS {
            let direction = if ahead > 0 { "behind" } else { "ahead of" };
            return Err(Error::Refused(format!(
                "this machine's clock is {} s {direction} the storage's: locks cannot be trusted; set the clock",
                ahead.abs()
            )));
        }
        let clock = repository.clock();
        if !clock.sleep(SETTLE, repository.stop()) {
            return Err(Error::Stopped);
        }
        loop {
            let start = clock.since_boot();
            look()?;
            look()?;
            if clock.since_boot() - start < LISTING_WITHIN {
                return Ok(());
            }
        }
    }

    /// Raises a fence, for those of `lists` that everybody at work honours; the answer says which. It stands for ten minutes.
    ///
    /// # Errors
    /// [`Error::Locked`] with who honours none of them, or must be alone, or is no run of ours.
    pub fn raise_fence(repository: &Arc<Repository>, lists: &HashSet<ObjectId>) -> Result<(Self, HashSet<ObjectId>)> {
        may_raise_fence(repository, lists)?;
        let mut others = Others::default();
        let ours = Ours { began: repository.clock().now(), ack: Vec::new(), fence: true };
        let newest = put(repository, LockMode::Exclusive, &ours)?;
        // Dropped, it goes.
        let fence = Self::hold(repository, newest, ours);
        let mut honoured = lists.clone();
        fence.settle(|| {
            others.look(repository)?;
            honoured = others.honoured(repository, &honoured)?;
            Ok(())
        })?;
        Ok((fence, honoured))
    }

    /// How old it is: under a fence, all must be done before it is ten minutes old.
    pub(crate) fn age(&self) -> Duration {
        self.held.as_ref().map_or(Duration::MAX, |held| age(&self.repository, held))
    }

    /// Removes the lock now, and says if that failed: it would block others for half an hour.
    ///
    /// # Errors
    /// Those of the store.
    pub fn release(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if let Some((end_tx, refresher)) = self.refresher.take() {
            drop(end_tx);
            // It only ever returns; a panic there would have been reported by the hook.
            let _ = refresher.join();
        }
        let Some(held) = self.held.take() else { return Ok(()) };
        self.repository.guard_with(None);
        held.remove(&self.repository)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // On the error path; the error that led here is the one to report.
        let _ = self.end();
    }
}

/// Others of ours that are at work.
#[derive(Debug)]
pub(crate) struct AtWork {
    /// For how long the oldest of them is, by its clock; `None` if nobody is.
    pub(crate) oldest: Option<Duration>,
    /// Who they are, in words.
    pub(crate) holders: Vec<String>,
}

/// Looks for others of ours that are at work, and renew their locks.
pub(crate) fn at_work(repository: &Repository) -> Result<AtWork> {
    let mut others = Others::default();
    others.look(repository)?;
    Ok(others.at_work(repository))
}

/// Who would keep a fence from being raised for any of these lists.
///
/// # Errors
/// [`Error::Locked`] with who they are.
pub(crate) fn may_raise_fence(repository: &Repository, lists: &HashSet<ObjectId>) -> Result<()> {
    let mut others = Others::default();
    others.look(repository)?;
    others.honoured(repository, lists).map(drop)
}

fn age(repository: &Repository, held: &Held) -> Duration {
    repository.clock().since_boot().saturating_sub(held.newest().sent_at)
}

fn put(repository: &Repository, mode: LockMode, ours: &Ours) -> Result<Newest> {
    let identity = repository.identity();
    let file = LockFile {
        time: repository.clock().now(),
        exclusive: mode == LockMode::Exclusive,
        hostname: identity.hostname.clone(),
        username: format!("{RUN_PREFIX}{}", identity.run_id),
        pid: identity.pid,
        uid: (identity.uid != 0).then_some(identity.uid),
        gid: (identity.gid != 0).then_some(identity.gid),
        estiba: Some(ours.clone()),
    };
    let sent_at = repository.clock().since_boot();
    let object = repository.seal_unpacked(ObjectKind::Lock, file.encode());
    if let Err(error) = repository.store().put(&object, PutMode::Replace) {
        // It may have arrived all the same. The error is the one to report.
        let _ = repository.cleanup_store().delete(&object.name);
        return Err(error.into());
    }
    Ok(Newest { name: object.name, sent_at })
}

/// Writes a new lock object; the old one counts until it was seen again, and stays until the next renewal.
fn refresh(repository: &Repository, held: &Held, mode: LockMode) -> Result<()> {
    let old = held.newest();
    repository.store().stat(&old.name)?;
    let new = put(repository, mode, &held.ours())?;
    if let Err(error) = repository.store().stat(&old.name) {
        let _ = repository.cleanup_store().delete(&new.name);
        return Err(error.into());
    }
    // Those before the old one go; what cannot be removed now is next time. Nobody who asks for the newest waits for that.
    let before = {
        let mut state = held.state.lock().expect("no holder panics");
        state.newest = new;
        std::mem::replace(&mut state.before, vec![old.name])
    };
    let removed = before.iter().map(|name| Ok(repository.cleanup_store().delete(name)?)).fold(Ok(()), Result::and);
    if removed.is_err() {
        held.state.lock().expect("no holder panics").before.splice(..0, before);
    }
    removed
}
