//! Where objects lie. One small trait, a file for each implementation, and wrappers that do one thing each:
//!
//! ```text
//! retry      tries again, with back-off, within a bounded time             (the only layer that does)
//!   guard    index and snapshot writes, deletes of data: own lock still there and fresh?
//!     count  requests and bytes
//!       throttle   bytes a second
//!         local | s3 | memory
//! ```

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
pub mod count;
#[cfg(any(test, feature = "test-support"))]
pub mod faulty;
pub mod guard;
pub mod late;
pub mod local;
#[cfg(any(test, feature = "test-support"))]
pub mod memory;
#[cfg(any(test, feature = "test-support"))]
pub mod record;
pub mod retry;
#[cfg(feature = "s3")]
pub mod s3;
pub mod throttle;

use std::fmt::Debug;
use std::time::Duration;

use crate::object::{Object, ObjectKind, ObjectName};

/// Storage of immutable objects.
///
/// # Guarantees every implementation gives (`conformance` tests them)
/// 1. **Whole or absent.** No reader ever sees part of an object that is being written.
/// 2. **Durable on return.** When `put` returns, the object survives a crash of this machine.
/// 3. **Read your writes.** `read`, `stat` and `list` see every `put` and `delete` that returned before they began.
/// 4. **Bounded reads.** `read` never returns more than was asked for, whatever is stored.
///
/// Calls block; the caller brings the threads. They end soon after the run's `Stop`.
pub trait Store: Send + Sync + Debug {
    /// Where this is, for people: a path or a URL, without secrets.
    fn location(&self) -> String;

    /// Stores a whole object. The body must not be held on to after the return: its buffer is used again.
    ///
    /// # Errors
    /// [`StoreErrorKind::AlreadyExists`] in mode [`PutMode::CreateNew`] if something is there; any other kind.
    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError>;

    /// Stores a whole object now.
    ///
    /// # Errors
    /// Those of [`Store::put_as_of`].
    fn put(&self, object: &Object, mode: PutMode) -> Result<(), StoreError> {
        self.put_as_of(object, mode, AsOf::Now)
    }

    /// Replaces the content of `into` by part of an object.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`]; [`StoreErrorKind::Truncated`] if the object ends before the range does;
    /// [`StoreErrorKind::TooLarge`] if a whole object exceeds its limit; any other kind.
    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError>;

    /// Size and age of an object.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`]; any other kind.
    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError>;

    /// Calls `each` for every object of a kind, in no particular order. Names that are no ids are passed over.
    /// A kind that nothing was ever stored under is empty.
    ///
    /// # Errors
    /// Any kind; `each` may have been called before.
    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError>;

    /// The names of every object of a kind, sorted.
    ///
    /// # Errors
    /// Any kind.
    fn names(&self, kind: ObjectKind) -> Result<Vec<ObjectName>, StoreError> {
        let mut names = Vec::new();
        self.list(kind, &mut |listed| names.push(listed.name))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// Any kind.
    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError>;

    /// Removes an object now.
    ///
    /// # Errors
    /// Those of [`Store::delete_as_of`].
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.delete_as_of(name, AsOf::Now)
    }

    /// Removes what writes of packs, index files and snapshots have left that were cut off. Only for whoever is alone here.
    ///
    /// # Errors
    /// Any kind.
    fn sweep(&self) -> Result<(), StoreError>;

    /// What a create that must not replace anything rests on here.
    ///
    /// # Errors
    /// Any kind.
    fn creates_exclusively(&self) -> Result<bool, StoreError>;

    /// Forbids to remove or replace what is stored, for everybody and until then. S3's object lock.
    ///
    /// # Errors
    /// Any kind: most stores cannot.
    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError>;
}

/// Until when what is stored can be neither removed nor replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Who could all the same.
    pub mode: RetentionMode,
    /// By the store's clock.
    pub until: jiff::Timestamp,
}

/// How long what is written is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// How firmly.
    pub mode: RetentionMode,
    /// For how long, at most [`LONGEST_RETENTION`].
    pub period: Duration,
}

impl Retain {
    /// What is written at this moment is retained until then.
    #[must_use]
    pub fn since(self, then: jiff::Timestamp) -> Retention {
        // Whole seconds: servers know no others. No clock goes beyond the year 9999.
        let until = then.as_second().saturating_add(self.period.as_secs().try_into().unwrap_or(i64::MAX));
        Retention { mode: self.mode, until: jiff::Timestamp::from_second(until).unwrap_or(jiff::Timestamp::MAX) }
    }
}

/// Nobody ends what was retained by mistake: so long and no longer.
pub const LONGEST_RETENTION: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// How firmly something is retained, in S3's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionMode {
    /// Whoever has `s3:BypassGovernanceRetention` may end it.
    Governance,
    /// Nobody may, and nobody may shorten it.
    Compliance,
}

/// When a request counts as signed. Stores that know signatures refuse what was signed more than [`SIGNED_FOR`] ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// When it is sent.
    Now,
    /// At this moment, which has passed.
    Then(jiff::Timestamp),
}

/// S3 accepts a signature for so long, and from clocks that differ by no more.
pub const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);

/// What to do if something is stored under the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Replace it: for objects named by their content, it is the same.
    Replace,
    /// Fail.
    CreateNew,
}

/// Which part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRange {
    /// All of it, if it is not longer than `limit`.
    Whole {
        /// Bytes.
        limit: u64,
    },
    /// Exactly these bytes.
    Part {
        /// First byte.
        offset: u64,
        /// Number of bytes; above zero.
        length: u64,
    },
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Time since it was written, by the store's own clock.
    pub age: Duration,
    /// How far the store's clock is ahead of this machine's, in seconds.
    pub store_ahead_secs: i64,
    /// How long it is retained; none also where one may not know.
    pub retention: Option<Retention>,
    /// It is retained until somebody ends that.
    pub has_legal_hold: bool,
    /// What is removed or replaced here stays as an old version, and takes its room.
    pub is_versioned: bool,
}

/// One object of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Bytes.
    pub size: u64,
}

/// What went wrong, as far as the caller can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No such object.
    NotFound,
    /// Something is there already.
    AlreadyExists,
    /// The object ends before the range does.
    Truncated,
    /// The object is larger than the limit.
    TooLarge,
    /// The place itself (bucket, folder) is not there.
    NoSuchPlace,
    /// Credentials or permissions do not allow it.
    Denied,
    /// Credentials that have expired.
    Expired,
    /// This machine's clock and the store's differ too much for signatures.
    ClockSkew,
    /// No room.
    Full,
    /// The run was stopped.
    Stopped,
    /// The own lock is gone or too old: this write must not happen any more.
    LockLost,
    /// The store says to slow down.
    Throttled,
    /// It may work in a moment: network, 5xx, time-out.
    Unavailable,
    /// Anything else; trying again does not help.
    Other,
}

impl StoreErrorKind {
    /// The object, or the part of it that was asked for, is not there: another copy may be.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::NotFound | Self::Truncated)
    }
}

/// A request that failed: what was asked, of which object, where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {object} in {location}: {message}")]
pub struct StoreError {
    /// What can be done about it.
    pub kind: StoreErrorKind,
    /// `read`, `write`, `list`, ..
    pub verb: &'static str,
    /// Path of the object, or its kind for lists.
    pub object: String,
    /// Of the store.
    pub location: String,
    /// In words, from the system or the server.
    pub message: String,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl StoreError {
    /// An error of one object.
    pub fn new(store: &dyn Store, kind: StoreErrorKind, verb: &'static str, object: &impl ToString, message: impl Into<String>) -> Self {
        Self { kind, verb, object: object.to_string(), location: store.location(), message: message.into(), retry_after: None }
    }

    /// True if the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            StoreErrorKind::Throttled | StoreErrorKind::Unavailable => true,
            StoreErrorKind::NotFound
            | StoreErrorKind::AlreadyExists
            | StoreErrorKind::Truncated
            | StoreErrorKind::TooLarge
            | StoreErrorKind::NoSuchPlace
            | StoreErrorKind::Denied
            | StoreErrorKind::Expired
            | StoreErrorKind::ClockSkew
            | StoreErrorKind::Full
            | StoreErrorKind::Stopped
            | StoreErrorKind::LockLost
            | StoreErrorKind::Other => false,
        }
    }

    /// What to do next, where we know it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.kind {
            StoreErrorKind::NoSuchPlace => "create the bucket or folder first, or check its name and the endpoint",
            StoreErrorKind::Denied => {
                "check the credentials, and that they allow get, put, list and delete under this prefix; where they allow only get and list, read with --no-lock"
            }
            StoreErrorKind::Expired => "the credentials have expired: renew them",
            StoreErrorKind::ClockSkew => "set this machine's clock: the store refuses requests signed at another time",
            StoreErrorKind::Full => "make room there; what was stored before is untouched",
            StoreErrorKind::LockLost => "run the command again; somebody removed this run's lock, or storage was out of reach for long",
            StoreErrorKind::Throttled | StoreErrorKind::Unavailable => {
                "check network and server, then run the command again: what was stored is kept and found again"
            }
            StoreErrorKind::NotFound
            | StoreErrorKind::AlreadyExists
            | StoreErrorKind::Truncated
            | StoreErrorKind::TooLarge
            | StoreErrorKind::Stopped
            | StoreErrorKind::Other => return None,
        })
    }
}

/// A store is shared as it is.
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn location(&self) -> String {
        (**self).location()
    }
    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        (**self).put_as_of(object, mode, as_of)
    }
    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        (**self).read(name, range, into)
    }
    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        (**self).stat(name)
    }
    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        (**self).list(kind, each)
    }
    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        (**self).delete_as_of(name, as_of)
    }
    fn sweep(&self) -> Result<(), StoreError> {
        (**self).sweep()
    }
    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        (**self).creates_exclusively()
    }
    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        (**self).retain(name, retention)
    }
}
