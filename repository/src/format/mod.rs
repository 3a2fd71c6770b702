//! Bytes to types and back, exactly as restic's format version 2 has them. Pure: no I/O, no clock, no key.
//!
//! ```text
//! config                  -> config     what the repository is
//! keys/                   -> key        the master key, sealed by a password
//! data/   packs           -> pack       blobs and the header that lists them
//!           tree blobs    -> tree       nodes of one directory, as Go's encoder writes them (gojson, node)
//! index/                  -> index      which blob lies where
//! snapshots/              -> snapshot   what was saved, when
//! locks/                  -> lock       who is at work
//! ```

pub mod config;
mod gojson;
pub mod index;
pub mod key;
pub mod lock;
mod name;
pub mod node;
pub mod pack;
pub mod polynomial;
pub mod snapshot;
pub mod time;
pub mod tree;
pub mod unpacked;

/// Whether a blob holds file content or a directory's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlobKind {
    /// A chunk of a file.
    Data,
    /// The nodes of a directory.
    Tree,
}

impl std::fmt::Display for BlobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Tree => "tree",
        })
    }
}
