//! What an interrupted backup has done, for the next one of the same source: the root of trees that lack what was not done yet.
//!
//! No snapshot names it, so nothing else counts on it: a prune takes it away, and whoever goes on looks every blob up again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::crypto::sha256;
use crate::error::{Error, Result};
use crate::format::unpacked;
use crate::id::{BlobId, ObjectId};
use crate::object::{Object, ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::{PutMode, ReadRange, StoreErrorKind};
use crate::write::Committed;

/// The version of records that is written here.
const VERSION: u32 = 1;
/// No record is larger.
const MAX_BYTES: usize = 1 << 20;

/// What is backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Says that it is the same, to the last byte: the handle of a volume's snapshot, for instance.
    pub id: String,
    /// Host of the snapshot.
    pub host: String,
    /// Paths of the snapshot.
    pub paths: Vec<String>,
}

impl Source {
    fn name(&self) -> ObjectName {
        let json = serde_json::to_vec(self).expect("strings always serialise");
        ObjectName::new(ObjectKind::Resume, ObjectId(sha256(&json)))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    source: Source,
    tree: BlobId,
}

/// What there is to go on from.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// These trees: what is in them was done, as far as each file goes.
    Tree(BlobId),
    /// Something that cannot be used, and why.
    Useless(String),
}

impl Repository {
    /// What an interrupted backup of this source has left.
    ///
    /// # Errors
    /// Those of the store.
    pub fn find_resume(&self, source: &Source) -> Result<Found> {
        let name = source.name();
        let mut stored = Vec::new();
        match self.store().read(&name, ReadRange::Whole { limit: MAX_BYTES as u64 }, &mut stored) {
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) if error.kind == StoreErrorKind::TooLarge => return Ok(Found::Useless(error.to_string())),
            other => other?,
        }
        let useless = |why: &dyn ToString| Ok(Found::Useless(format!("{name}: {}", why.to_string())));
        let json = match self.key().open(&mut stored) {
            Err(error) => return useless(&error),
            Ok(plain) => match unpacked::decode(plain, MAX_BYTES) {
                Err(why) => return useless(&why),
                Ok(json) => json,
            },
        };
        match serde_json::from_slice(&json) {
            Err(error) => useless(&error),
            Ok(Record { version, .. }) if version != VERSION => useless(&format!("version {version} is not known here")),
            Ok(Record { source: other, .. }) if other != *source => useless(&"it is of another source"),
            Ok(Record { tree, .. }) => Ok(Found::Tree(tree)),
        }
    }

    /// Keeps what was done of a source, in place of what was kept before.
    ///
    /// # Errors
    /// Those of the store; a lost lock; a source whose description is too long.
    pub fn save_resume(&self, source: &Source, tree: BlobId, _everything_it_needs: &Committed) -> Result<()> {
        let record = Record { version: VERSION, source: source.clone(), tree };
        let json = serde_json::to_vec(&record).expect("strings always serialise");
        if json.len() > MAX_BYTES / 2 {
            return Err(Error::Refused("the source's id and paths are too long to be kept".to_owned()));
        }
        let mut sealed = Vec::new();
        self.key().seal(&unpacked::encode(json, self.config().version), &mut sealed);
        Ok(self.store().put(&Object::named(source.name(), Bytes::from(sealed)), PutMode::Replace)?)
    }

    /// Forgets what was kept of a source.
    ///
    /// # Errors
    /// Those of the store; a lost lock.
    pub fn remove_resume(&self, source: &Source) -> Result<()> {
        Ok(self.store().delete(&source.name())?)
    }

    /// Forgets what was kept for longer than this.
    pub(crate) fn remove_resumes_older_than(&self, age: Duration) -> Result<()> {
        for name in self.store().names(ObjectKind::Resume)? {
            match self.store().stat(&name) {
                Ok(stat) if stat.age > age => self.store().delete(&name)?,
                Err(error) if error.kind != StoreErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets what was kept of all sources.
    pub(crate) fn remove_all_resumes(&self) -> Result<()> {
        Ok(self.store().names(ObjectKind::Resume)?.iter().try_for_each(|name| self.store().delete(name))?)
    }
}
