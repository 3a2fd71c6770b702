//! What can go wrong with a repository, each with the thing it happened to.

use crate::format::BlobKind;
use crate::id::BlobId;
use crate::store::{StoreError, StoreErrorKind};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is stored there.
    #[error("there is no repository at {location}")]
    NoRepository {
        /// Of the store.
        location: String,
    },
    /// `init` found something.
    #[error("cannot create a repository at {location}: {found} is there already")]
    AlreadyThere {
        /// Of the store.
        location: String,
        /// What was found.
        found: String,
    },
    /// No key opens with it.
    #[error("wrong password: none of the {keys} keys of {location} opens with it")]
    WrongPassword {
        /// Of the store.
        location: String,
        /// How many were tried.
        keys: usize,
    },
    /// Stored bytes are not what they should be.
    #[error("{object} in {location} is damaged: {what}")]
    Damaged {
        /// Path of the object, or what the blob is.
        object: String,
        /// Of the store.
        location: String,
        /// In words.
        what: String,
    },
    /// The index knows no such blob.
    #[error("{kind} blob {id} is in no index: it is lost, or its index file is")]
    MissingBlob {
        /// Which.
        id: BlobId,
        /// Of which kind.
        kind: BlobKind,
    },
    /// Somebody else is at work.
    #[error("{location} is locked {}", holders.join("; and "))]
    Locked {
        /// Of the store.
        location: String,
        /// Who, since when, in words.
        holders: Vec<String>,
        /// By nobody but a prune that removes packs now: it takes minutes at most.
        is_fenced: bool,
    },
    /// No snapshot fits.
    #[error("no snapshot matches {wanted}")]
    NoSuchSnapshot {
        /// What was asked for.
        wanted: String,
    },
    /// More than one fits.
    #[error("{wanted:?} is the beginning of {count} snapshot ids")]
    AmbiguousSnapshot {
        /// What was asked for.
        wanted: String,
        /// How many fit.
        count: usize,
    },
    /// A bound was hit.
    #[error("{what} needs {needed_mib} MiB, and {allowed_mib} MiB are allowed for it")]
    MemoryBound {
        /// What is too large.
        what: String,
        /// How much it would take.
        needed_mib: u64,
        /// Its share of `--memory`.
        allowed_mib: u64,
    },
    /// A sealed blob did not open to what went in.
    #[error("blob {id} did not survive its own encryption: this machine's memory or processor is faulty")]
    FaultyMachine {
        /// Which blob.
        id: BlobId,
    },
    /// It cannot be done this way.
    #[error("{0}")]
    Refused(String),
    /// The run was stopped.
    #[error("stopped")]
    Stopped,
    /// The run was stopped, and what was done is kept for the next one.
    #[error("interrupted: what was done is kept")]
    Paused,
    /// A request failed.
    #[error(transparent)]
    Store(StoreError),
}

/// What kind of error it is, for exit codes and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No repository.
    NoRepository,
    /// Wrong password.
    WrongPassword,
    /// Locked by somebody else.
    Locked,
    /// Stored data is not whole.
    Damaged,
    /// Stopped on request.
    Stopped,
    /// Stopped on request, and what was done is kept.
    Paused,
    /// Storage did not do its part.
    Storage,
    /// What was asked for cannot be.
    Refused,
}

impl Error {
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRepository { .. } => ErrorKind::NoRepository,
            Self::WrongPassword { .. } => ErrorKind::WrongPassword,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Damaged { .. } | Self::MissingBlob { .. } => ErrorKind::Damaged,
            Self::Stopped => ErrorKind::Stopped,
            Self::Paused => ErrorKind::Paused,
            Self::AlreadyThere { .. }
            | Self::NoSuchSnapshot { .. }
            | Self::AmbiguousSnapshot { .. }
            | Self::MemoryBound { .. }
            | Self::FaultyMachine { .. }
            | Self::Refused(_) => ErrorKind::Refused,
            Self::Store(error) if error.kind == StoreErrorKind::Stopped => ErrorKind::Stopped,
            Self::Store(error) if error.kind == StoreErrorKind::NotFound => ErrorKind::Damaged,
            Self::Store(_) => ErrorKind::Storage,
        }
    }

    /// Whether the same request would fail in the same way again, from wherever it is made.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::NoRepository { .. } | Self::WrongPassword { .. } | Self::NoSuchSnapshot { .. } | Self::AmbiguousSnapshot { .. }
        )
    }

    /// What to do next, where we know it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoRepository { .. } => "check the location; `mover init` creates a repository",
            Self::AlreadyThere { .. } => "open it as it is, or choose an empty place; nothing was changed",
            Self::WrongPassword { .. } => "check the password, or the file it is read from",
            Self::Damaged { .. } => "run `mover check --read-data` to see what else is; snapshots that do not need it still restore",
            Self::MissingBlob { .. } => "run `mover check` to see which snapshots need it; others still restore",
            Self::Locked { .. } => {
                "wait with --retry-lock 10m, or read at once with --no-lock; if nobody works there any more, `mover unlock` removes locks that were left behind"
            }
            Self::NoSuchSnapshot { .. } => "`mover snapshots` lists what there is",
            Self::AmbiguousSnapshot { .. } => "give more digits of the id",
            Self::MemoryBound { .. } => "raise --memory",
            Self::FaultyMachine { .. } => "nothing of it was stored; test this machine's memory before trusting it with backups",
            Self::Paused => "run it again with the same --source-id, --host and paths, on any machine: it goes on from there",
            Self::Refused(_) | Self::Stopped => return None,
            Self::Store(error) => return error.hint(),
        })
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        if error.kind == StoreErrorKind::Stopped { Self::Stopped } else { Self::Store(error) }
    }
}
