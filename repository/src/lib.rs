//! Stored format and engine of Estiba: what `mover` writes and reads, in restic's format, version 2.
//!
//! ```text
//! plaintext chunks and trees -> blobs -> packs -> index -> snapshot        (write)
//! snapshot -> index -> ranges of packs -> blobs -> chunks and trees        (read)
//! ```
//! It knows no Kubernetes, no terminal, and no file system of a volume. Calls block; requests run on a few threads of the
//! S3 client; time and the wish to stop are handed in.

pub mod access;
pub mod budget;
pub mod check;
pub mod chunker;
pub mod clock;
pub mod compress;
mod condemned;
pub mod copy;
pub mod crypto;
pub mod diff;
pub mod error;
pub mod format;
pub mod id;
pub mod index;
pub mod lock;
pub mod object;
pub mod object_lock;
mod packs;
pub mod parallel;
pub mod prune;
pub mod read;
pub mod repair;
pub mod repository;
pub mod resume;
pub mod retention;
pub mod rewrite;
pub mod snapshots;
pub mod stats;
pub mod stop;
pub mod store;
mod survey;
pub mod write;

pub use error::{Error, ErrorKind, Result};
pub use repository::Repository;
