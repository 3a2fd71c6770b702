//! What is stored, and under which name: the only place that builds a path.

use std::fmt;

use bytes::Bytes;

use crate::crypto::sha256;
use crate::id::{ObjectId, PackId};

/// The kinds of stored objects, in restic's layout, and our own prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `config`: one per repository.
    Config,
    /// `keys/`: the master key, sealed by a password.
    Key,
    /// `locks/`: who is at work.
    Lock,
    /// `data/xx/`: packs of blobs.
    Pack,
    /// `index/`: which blob is where.
    Index,
    /// `snapshots/`: what was saved and when.
    Snapshot,
    /// `x-estiba/resume/`: what interrupted backups have done; named by the source.
    Resume,
    /// `x-estiba/condemned/`: packs that are to go.
    Condemned,
    /// `x-estiba/probe/`: short-lived objects that try what the store can do.
    Probe,
}

impl ObjectKind {
    /// All kinds that are listed by folder.
    pub const LISTED: [Self; 8] =
        [Self::Key, Self::Lock, Self::Pack, Self::Index, Self::Snapshot, Self::Resume, Self::Condemned, Self::Probe];

    /// The folder below the repository's root; empty for `config`.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Pack => "data",
            Self::Index => "index",
            Self::Snapshot => "snapshots",
            Self::Resume => "x-estiba/resume",
            Self::Condemned => "x-estiba/condemned",
            Self::Probe => "x-estiba/probe",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Lock => "lock",
            Self::Pack => "pack",
            Self::Index => "index",
            Self::Snapshot => "snapshot",
            Self::Resume => "resume record",
            Self::Condemned => "list of condemned packs",
            Self::Probe => "probe",
        })
    }
}

/// The name of one stored object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// What it is.
    pub kind: ObjectKind,
    /// Its SHA-256; all zero for `config`, which has no id.
    pub id: ObjectId,
}

impl ObjectName {
    /// The repository's `config`.
    pub const CONFIG: Self = Self { kind: ObjectKind::Config, id: ObjectId([0; 32]) };

    /// An object named by its content.
    #[must_use]
    pub fn new(kind: ObjectKind, id: ObjectId) -> Self {
        Self { kind, id }
    }

    /// A pack.
    #[must_use]
    pub fn pack(id: PackId) -> Self {
        Self { kind: ObjectKind::Pack, id: ObjectId(id.0) }
    }

    /// The path below the repository's root, parts joined by `/`.
    #[must_use]
    pub fn path(&self) -> String {
        match self.kind {
            ObjectKind::Config => "config".to_owned(),
            ObjectKind::Pack => {
                let hex = self.id.hex();
                format!("data/{}/{hex}", &hex[..2])
            }
            ObjectKind::Key
            | ObjectKind::Lock
            | ObjectKind::Index
            | ObjectKind::Snapshot
            | ObjectKind::Resume
            | ObjectKind::Condemned
            | ObjectKind::Probe => {
                format!("{}/{}", self.kind.folder(), self.id)
            }
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ObjectKind::Config => f.write_str("config"),
            _ => write!(f, "{}/{}", self.kind, self.id.short()),
        }
    }
}

/// An object on its way into a store: name, bytes, and their SHA-256, computed once.
#[derive(Debug, Clone)]
pub struct Object {
    /// Where it goes.
    pub name: ObjectName,
    /// What is stored; cheap to clone for another try.
    pub body: Bytes,
    /// SHA-256 of the body: serves as name, as S3's checksum and as the signed payload hash.
    pub sha256: [u8; 32],
}

impl Object {
    /// An object named by its content.
    #[must_use]
    pub fn content_named(kind: ObjectKind, body: Bytes) -> Self {
        let sha256 = sha256(&body);
        Self { name: ObjectName::new(kind, ObjectId(sha256)), body, sha256 }
    }

    /// An object under a given name.
    #[must_use]
    pub fn named(name: ObjectName, body: Bytes) -> Self {
        let sha256 = sha256(&body);
        Self { name, body, sha256 }
    }
}
