//! Locks as restic knows them, so that its `prune`, `forget` and `check` and our runs keep out of each other's way.
//!
//! ```text
//! look -> PUT mine -> wait 200 ms -> list, and list again -> conflict? DELETE mine : held
//!                                    every 5 minutes: HEAD old, PUT new, HEAD old; the one before is deleted
//! release: DELETE mine, whatever else went wrong
//! ```
//! The identity of a run is the random id in `username`. Nobody removes one of our locks before it is 30 minutes old by
//! the store's clock: a late write of its run could still land. See `store/guard.rs` for the other half.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender};

use crate::crypto::random;
use crate::error::{Error, Result};
use crate::format::lock::{LockFile, LockMode, RUN_PREFIX};
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::StoreErrorKind;

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
/// Between two tries to get a lock.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// With a larger clock difference, what was signed could land after the lock that it relied on is gone (`store/guard.rs`).
const MAX_CLOCK_SKEW_SECS: i64 = 2 * 60;
/// The largest lock file that is read.
const MAX_LOCK_BYTES: usize = 64 << 10;

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
    /// Still there for those whose listing might miss the newest.
    before: Option<ObjectName>,
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
}

/// A lock that this run holds. Dropping it removes it.
#[derive(Debug)]
pub struct Lock {
    repository: Arc<Repository>,
    held: Arc<Held>,
    refresher: Option<(Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Lock {
    /// Takes a lock, waiting up to `retry` for others to end.
    ///
    /// # Errors
    /// [`Error::Locked`] with who holds it; a clock far off the store's.
    pub fn acquire(repository: &Arc<Repository>, mode: LockMode, retry: Duration) -> Result<Self> {
        Ok(Self::acquire_and(repository, mode, retry, || Ok(()))?.0)
    }

    /// Takes a lock, and does some reading as soon as it is written, while it is still being made sure that it holds:
    /// what is read after the lock was written stays, whichever comes out.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`], and of `read`.
    pub fn acquire_and<T: Send>(
        repository: &Arc<Repository>,
        mode: LockMode,
        retry: Duration,
        mut read: impl FnMut() -> Result<T> + Send,
    ) -> Result<(Self, T)> {
        let deadline = Instant::now() + retry;
        let (held, value) = loop {
            match Self::try_acquire(repository, mode, &mut read) {
                Err(error @ Error::Locked { .. }) => {
                    if Instant::now() + RETRY_EVERY > deadline {
                        return Err(error);
                    }
                    if !repository.stop().sleep(RETRY_EVERY) {
                        return Err(Error::Stopped);
                    }
                }
                other => {
                    let (held, value) = other?;
                    break (Arc::new(held), value);
                }
            }
        };
        repository.guard_with(&held);
        let (end_tx, end_rx) = crossbeam_channel::bounded(0);
        let refresher = {
            let (repository, held) = (repository.clone(), held.clone());
            std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
                // One that fails is tried again at the next look, until the lock is too old.
                while end_rx.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) && age(&repository, &held) <= REFRESH_UNTIL {
                    if age(&repository, &held) >= REFRESH_EVERY {
                        let _ = refresh(&repository, &held, mode);
                    }
                }
            })
        };
        let refresher = refresher.map_err(|error| Error::Refused(format!("cannot start a thread: {error}")))?;
        Ok((Self { repository: repository.clone(), held, refresher: Some((end_tx, refresher)) }, value))
    }

    fn try_acquire<T: Send>(repository: &Repository, mode: LockMode, read: &mut (impl FnMut() -> Result<T> + Send)) -> Result<(Held, T)> {
        let mut known = Known::default();
        known.look(repository)?;
        known.check(repository, mode)?;
        let newest = put(repository, mode)?;
        let held = Held { state: Mutex::new(HeldState { newest, before: None }) };
        // Whoever was alone before our lock was seen is done by now, or is seen here: what is read from here on stays.
        if let Err(error) = known.look(repository).and_then(|()| known.check(repository, mode)) {
            remove(repository, &held);
            return Err(error);
        }
        let (settled, value) = std::thread::scope(|scope| {
            let reading = scope.spawn(read);
            let settled = Self::settle(repository, mode, &newest, &mut known);
            (settled, reading.join().expect("a panic was printed already, and ends this thread too"))
        });
        match settled.and(value) {
            Ok(value) => Ok((held, value)),
            Err(error) => {
                remove(repository, &held);
                Err(error)
            }
        }
    }

    /// The lock is written: are we alone with it?
    fn settle(repository: &Repository, mode: LockMode, newest: &Newest, known: &mut Known) -> Result<()> {
        let ahead = repository.store().stat(&newest.name)?.store_ahead_secs;
        if ahead.abs() > MAX_CLOCK_SKEW_SECS {
            let direction = if ahead > 0 { "behind" } else { "ahead of" };
            return Err(Error::Refused(format!(
                "this machine's clock is {} s {direction} the storage's: locks cannot be trusted; set the clock",
                ahead.abs()
            )));
        }
        if !repository.stop().sleep(SETTLE) {
            return Err(Error::Stopped);
        }
        loop {
            let start = Instant::now();
            known.look(repository)?;
            known.check(repository, mode)?;
            known.look(repository)?;
            known.check(repository, mode)?;
            if start.elapsed() < LISTING_WITHIN {
                return Ok(());
            }
        }
    }

    /// Removes the lock now, and says if that failed: it would block others for half an hour.
    ///
    /// # Errors
    /// Those of the store.
    pub fn release(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some((end_tx, refresher)) = self.refresher.take() else { return Ok(()) };
        drop(end_tx);
        // It only ever returns; a panic there would have been reported by the hook.
        let _ = refresher.join();
        let state = self.held.state.lock().expect("no holder panics");
        let names = [Some(state.newest.name), state.before];
        names.into_iter().flatten().try_for_each(|name| Ok(self.repository.cleanup_store().delete(&name)?))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // On the error path; the error that led here is the one to report.
        let _ = self.end();
    }
}

fn age(repository: &Repository, held: &Held) -> Duration {
    repository.clock().since_boot().saturating_sub(held.newest().sent_at)
}

fn put(repository: &Repository, mode: LockMode) -> Result<Newest> {
    let identity = repository.identity();
    let file = LockFile {
        time: repository.clock().now(),
        exclusive: mode == LockMode::Exclusive,
        hostname: identity.hostname.clone(),
        username: format!("{RUN_PREFIX}{}", identity.run_id),
        pid: identity.pid,
        uid: (identity.uid != 0).then_some(identity.uid),
        gid: (identity.gid != 0).then_some(identity.gid),
    };
    let sent_at = repository.clock().since_boot();
    let id = repository.save_unpacked(ObjectKind::Lock, file.encode())?;
    Ok(Newest { name: ObjectName::new(ObjectKind::Lock, id), sent_at })
}

fn remove(repository: &Repository, held: &Held) {
    // The error that led here is the one to report.
    let _ = repository.cleanup_store().delete(&held.newest().name);
}

/// Writes a new lock object; the old one counts until it was seen again, and stays until the next renewal.
fn refresh(repository: &Repository, held: &Held, mode: LockMode) -> Result<()> {
    let old = held.newest();
    repository.store().stat(&old.name)?;
    let new = put(repository, mode)?;
    if let Err(error) = repository.store().stat(&old.name) {
        let _ = repository.cleanup_store().delete(&new.name);
        return Err(error.into());
    }
    let before = {
        let mut state = held.state.lock().expect("no holder panics");
        state.newest = new;
        state.before.replace(old.name)
    };
    if let Some(before) = before {
        repository.cleanup_store().delete(&before)?;
    }
    Ok(())
}

/// What was seen of other locks so far.
#[derive(Debug, Default)]
struct Known {
    /// Read once each; `Err` holds why one could not be read.
    files: HashMap<ObjectName, Result<LockFile, String>>,
    there: Vec<ObjectName>,
}

impl Known {
    /// Lists the locks and reads those not read before.
    fn look(&mut self, repository: &Repository) -> Result<()> {
        let mut listed = Vec::new();
        repository.store().list(ObjectKind::Lock, &mut |lock| listed.push(lock))?;
        self.there.clear();
        for lock in listed {
            // restic ignores empty ones too: what a crash of its local backend may leave.
            if lock.size == 0 {
                continue;
            }
            if let Entry::Vacant(unread) = self.files.entry(lock.name) {
                match repository.load_unpacked(&lock.name, MAX_LOCK_BYTES) {
                    Ok(json) => drop(unread.insert_entry(LockFile::decode(&json))),
                    Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => continue,
                    Err(error @ (Error::Store(_) | Error::Stopped)) => return Err(error),
                    Err(error) => drop(unread.insert_entry(Err(error.to_string()))),
                }
            }
            self.there.push(lock.name);
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Locked`] if a lock that was seen excludes this mode.
    fn check(&self, repository: &Repository, mode: LockMode) -> Result<()> {
        let own = format!("{RUN_PREFIX}{}", repository.identity().run_id);
        let now = repository.clock().now();
        // By holder: one that renews its lock is seen twice.
        let mut holders = BTreeMap::new();
        for name in &self.there {
            match &self.files[name] {
                Ok(file) if file.username == own => {}
                Ok(file) if file.exclusive || mode == LockMode::Exclusive => {
                    holders.insert((file.hostname.clone(), file.username.clone(), file.pid), describe(file, now));
                }
                Ok(_) => {}
                Err(why) => {
                    holders.insert((name.path(), String::new(), 0), format!("by {name}, which cannot be read: {why}"));
                }
            }
        }
        if holders.is_empty() {
            return Ok(());
        }
        Err(Error::Locked { location: repository.store().location(), holders: holders.into_values().collect() })
    }
}

fn describe(file: &LockFile, now: jiff::Timestamp) -> String {
    let minutes = now.duration_since(file.time).as_secs() / 60;
    let mode = if file.exclusive { "exclusively " } else { "" };
    let who = file.run_id().map_or_else(|| file.username.clone(), |run| format!("run {}", &run[..run.len().min(8)]));
    format!("{mode}by {who} on {} (pid {}), renewed {minutes} min ago", file.hostname, file.pid)
}

/// Which locks `unlock` takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnlockMode {
    /// Those nobody renews any more.
    Stale,
    /// All: only when it is certain that nobody is at work.
    All,
}

/// Removes locks that were left behind; returns how many were removed and how many stay.
///
/// # Errors
/// Those of the store.
pub fn unlock(repository: &Repository, mode: UnlockMode) -> Result<(usize, usize)> {
    let (mut removed, mut kept) = (0, 0);
    for name in repository.store().names(ObjectKind::Lock)? {
        if mode == UnlockMode::All || is_stale(repository, &name)? {
            repository.store().delete(&name)?;
            removed += 1;
        } else {
            kept += 1;
        }
    }
    Ok((removed, kept))
}

/// Old by the store's clock; a foreign lock must be old by its own time as well, as restic wants it.
fn is_stale(repository: &Repository, name: &ObjectName) -> Result<bool> {
    let age = match repository.store().stat(name) {
        Ok(stat) => stat.age,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if age < STALE_AFTER {
        return Ok(false);
    }
    match repository.load_unpacked(name, MAX_LOCK_BYTES) {
        Ok(json) => Ok(LockFile::decode(&json).is_ok_and(|file| {
            file.run_id().is_some() || repository.clock().now().duration_since(file.time).as_secs() > STALE_AFTER.as_secs().cast_signed()
        })),
        Err(error @ (Error::Store(_) | Error::Stopped)) => Err(error),
        // What cannot be read says nothing about its owner.
        Err(_) => Ok(false),
    }
}
