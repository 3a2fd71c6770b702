//! Snapshots in a repository: list, find, save.

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::format::snapshot::Snapshot;
use crate::id::ObjectId;
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::StoreErrorKind;
use crate::write::Committed;

/// In place of an id: the newest.
pub const LATEST: &str = "latest";
/// The largest snapshot file: its exclude patterns are all that can be long.
const MAX_SNAPSHOT_BYTES: usize = 16 << 20;

/// A snapshot and its id.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its name.
    pub id: ObjectId,
    /// What it says.
    pub snapshot: Snapshot,
}

/// Which snapshots count.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this machine or cluster.
    pub host: Option<String>,
    /// Each with all of these paths.
    pub paths: Vec<String>,
    /// Each with all of these tags.
    pub tags: Vec<String>,
    /// Not younger than this.
    pub before: Option<Timestamp>,
}

impl Filter {
    /// Whether a snapshot counts.
    #[must_use]
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        self.host.as_ref().is_none_or(|host| *host == snapshot.hostname)
            && self.paths.iter().all(|path| snapshot.paths.contains(path))
            && self.tags.iter().all(|tag| snapshot.tags.contains(tag))
            && self.before.is_none_or(|before| snapshot.time.0 <= before)
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.host.iter().map(|host| format!("host {host}")));
        parts.extend(self.paths.iter().map(|path| format!("path {path}")));
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        parts.extend(self.before.iter().map(|before| format!("before {before}")));
        f.write_str(&if parts.is_empty() { "anything".to_owned() } else { parts.join(", ") })
    }
}

impl Repository {
    /// All snapshots that count, oldest first.
    ///
    /// # Errors
    /// A snapshot that cannot be read: a list that is not whole must not look whole.
    pub fn snapshots(&self, filter: &Filter) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        for id in self.snapshot_ids()? {
            match self.snapshot(id) {
                Ok(snapshot) if filter.matches(&snapshot) => found.push(Stored { id, snapshot }),
                // Forgotten since it was listed.
                Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => {}
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|stored| (stored.snapshot.time, stored.id));
        Ok(found)
    }

    /// The ids of all snapshots, sorted.
    ///
    /// # Errors
    /// Those of the store.
    pub fn snapshot_ids(&self) -> Result<Vec<ObjectId>> {
        Ok(self.store().names(ObjectKind::Snapshot)?.into_iter().map(|name| name.id).collect())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// Not there, or damaged.
    pub fn snapshot(&self, id: ObjectId) -> Result<Snapshot> {
        let name = ObjectName::new(ObjectKind::Snapshot, id);
        let json = self.load_unpacked(&name, MAX_SNAPSHOT_BYTES)?;
        Snapshot::decode(&json).map_err(|what| self.damaged(&name, what))
    }

    /// `latest`, or the beginning of an id; it must be one that counts.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`], [`Error::AmbiguousSnapshot`].
    pub fn find_snapshot(&self, wanted: &str, filter: &Filter) -> Result<Stored> {
        if wanted == LATEST {
            let newest = self.snapshots(filter)?.pop();
            return newest.ok_or_else(|| Error::NoSuchSnapshot { wanted: format!("{LATEST} of {filter}") });
        }
        let id = only(self.snapshot_ids()?, wanted)?;
        let found = Stored { id, snapshot: self.snapshot(id)? };
        let is_meant = filter.matches(&found.snapshot);
        if is_meant { Ok(found) } else { Err(Error::NoSuchSnapshot { wanted: format!("{wanted:?} of {filter}") }) }
    }

    /// Makes a snapshot invisible. What only it needs is still there, until it is pruned.
    ///
    /// # Errors
    /// Those of the store. One that is gone already is no error. [`Error::Refused`].
    pub fn remove_snapshot(&self, id: ObjectId) -> Result<()> {
        self.may_remove()?;
        match self.store().delete(&ObjectName::new(ObjectKind::Snapshot, id)) {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// Gives a snapshot other tags: it is saved again with them, and then the old one is removed, so that one of them is there at
    /// each moment. `all` are all that there are: what an interrupted run saved is not saved again.
    ///
    /// # Errors
    /// Those of the store; [`Error::Refused`].
    pub fn tag_snapshot(&self, old: &Stored, tags: Vec<String>, all: &[Stored]) -> Result<ObjectId> {
        self.may_remove()?;
        let original = old.snapshot.original.unwrap_or(old.id);
        // As JSON, so that all else stays as its writer wrote it.
        let name = ObjectName::new(ObjectKind::Snapshot, old.id);
        let json = self.load_unpacked(&name, MAX_SNAPSHOT_BYTES)?;
        let mut tagged: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&json).map_err(|error| self.damaged(&name, error.to_string()))?;
        tagged.insert("original".to_owned(), original.hex().into());
        if tags.is_empty() {
            tagged.remove("tags")
        } else {
            tagged.insert("tags".to_owned(), tags.into())
        };
        let tagged = serde_json::to_vec(&tagged).expect("JSON always serialises");
        let wanted = Snapshot::decode(&tagged).map_err(|what| self.damaged(&name, what))?;
        let id = match all.iter().find(|other| other.id != old.id && other.snapshot == wanted) {
            Some(saved) => saved.id,
            // All it needs is what the old one needs, and that is visible.
            None => self.save_unpacked(ObjectKind::Snapshot, tagged)?,
        };
        self.remove_snapshot(old.id)?;
        Ok(id)
    }

    /// Makes a snapshot visible. Law 1: only what [`Committed`] stands for, packs and index stored, may become visible.
    ///
    /// # Errors
    /// Those of the store; a lost lock.
    pub fn save_snapshot(&self, snapshot: &Snapshot, _everything_it_needs: &Committed) -> Result<ObjectId> {
        self.save_unpacked(ObjectKind::Snapshot, snapshot.encode())
    }
}

/// `latest`, or the beginning of an id, of snapshots by ascending time.
///
/// # Errors
/// [`Error::NoSuchSnapshot`], [`Error::AmbiguousSnapshot`].
pub fn find(all: &[Stored], wanted: &str) -> Result<ObjectId> {
    match all.last() {
        Some(newest) if wanted == LATEST => Ok(newest.id),
        _ => only(all.iter().map(|stored| stored.id), wanted),
    }
}

/// The only id that begins so.
fn only(ids: impl IntoIterator<Item = ObjectId>, wanted: &str) -> Result<ObjectId> {
    let prefix = wanted.to_ascii_lowercase();
    let ids: Vec<ObjectId> = ids.into_iter().filter(|id| id.hex().starts_with(&prefix)).collect();
    match ids.as_slice() {
        [id] if !prefix.is_empty() => Ok(*id),
        [] | [_] => Err(Error::NoSuchSnapshot { wanted: format!("{wanted:?}") }),
        many => Err(Error::AmbiguousSnapshot { wanted: wanted.to_owned(), count: many.len() }),
    }
}
