//! Makes the index say again what is there. Under the exclusive lock.
//!
//! ```text
//! packs whose list no index file has ─► read from their own ends ─► indexed ─► index files without what is not there
//!      ─► index files that cannot be read go
//! ```
//! Nothing but index files is changed. Blobs that nobody names any more are stored again by the next backup that has them.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::format::index::IndexedPack;
use crate::format::pack::{MAX_HEADER, PackedBlob, TRAILER, decode_header};
use crate::id::PackId;
use crate::index::rewrite::{Files, rewrite};
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::ReadRange;

/// A pack's list is read with the first request, if it is not longer.
const FIRST_READ: u64 = 64 << 10;

/// What is wrong with the index.
#[derive(Debug, Default)]
pub struct Planned {
    /// Index files that can be read.
    readable: Vec<ObjectName>,
    /// All packs that are there, with their sizes.
    stored: HashMap<PackId, u64>,
    /// Index files that cannot be read, and why.
    pub unreadable: Vec<(ObjectName, String)>,
    /// Packs that the index names, and that are not there as it says.
    pub missing: Vec<PackId>,
    /// Packs that no index file names as they are.
    pub found: Vec<IndexedPack>,
    /// Packs whose own list cannot be read, and why.
    pub lost: Vec<(PackId, String)>,
}

impl Planned {
    /// Whether the index is as it should be.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.unreadable.is_empty() && self.missing.is_empty() && self.found.is_empty()
    }
}

/// Finds out what is wrong, and changes nothing.
///
/// # Errors
/// Those of the store; damage is what it looks for.
pub fn look(repository: &Repository) -> Result<Planned> {
    let mut planned = Planned::default();
    repository.store().list(ObjectKind::Pack, &mut |listed| {
        planned.stored.insert(PackId(listed.name.id.0), listed.size);
    })?;
    let mut names = Vec::new();
    repository.store().list(ObjectKind::Index, &mut |listed| names.push(listed.name))?;
    let (mut right, mut wrong) = (HashSet::new(), HashSet::new());
    for name in names {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        match repository.index_file(&name) {
            Ok(file) => {
                for pack in &file.packs {
                    let is_right = planned.stored.get(&pack.id) == Some(&pack.size());
                    if is_right {
                        right.insert(pack.id)
                    } else {
                        wrong.insert(pack.id)
                    };
                }
                planned.readable.push(name);
            }
            Err(Error::Damaged { what, .. }) => planned.unreadable.push((name, what)),
            Err(error) => return Err(error),
        }
    }
    planned.missing = wrong.difference(&right).copied().collect();
    planned.missing.sort_unstable();
    let mut unnamed: Vec<(PackId, u64)> =
        planned.stored.iter().filter(|(id, _)| !right.contains(id)).map(|(id, size)| (*id, *size)).collect();
    unnamed.sort_unstable();
    for (id, size) in unnamed {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        match own_list(repository, id, size) {
            Ok(blobs) => planned.found.push(IndexedPack { id, blobs }),
            Err(Error::Damaged { what, .. }) => planned.lost.push((id, what)),
            Err(error) => return Err(error),
        }
    }
    Ok(planned)
}

/// Does it. The caller holds the exclusive lock since before [`look`].
///
/// # Errors
/// Those of the store: what was done by then is whole, and the next one goes on.
pub fn run(repository: &Repository, planned: Planned) -> Result<()> {
    let Planned { readable, stored, unreadable, missing, found, .. } = planned;
    let mut files = Files::new(repository);
    found.into_iter().try_for_each(|pack| files.add(pack))?;
    files.finish()?;
    if !missing.is_empty() {
        rewrite(repository, readable, |pack| stored.get(&pack.id) == Some(&pack.size()))?;
    }
    unreadable.iter().try_for_each(|(name, _)| repository.store().delete(name).map_err(Error::from))
}

/// What a pack says of itself, at its end.
fn own_list(repository: &Repository, id: PackId, size: u64) -> Result<Vec<PackedBlob>> {
    let name = ObjectName::pack(id);
    let damaged = |what: &str| repository.damaged(&name, what);
    let mut end = Vec::new();
    let read = |length: u64, end: &mut Vec<u8>| repository.store().read(&name, ReadRange::Part { offset: size - length, length }, end);
    let first = FIRST_READ.min(size);
    if first < TRAILER as u64 {
        return Err(damaged("it is too short to be a pack"));
    }
    read(first, &mut end)?;
    let length = end.last_chunk::<TRAILER>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let whole = length + TRAILER;
    if length > MAX_HEADER || whole as u64 > size {
        return Err(damaged("the length of its list is wrong"));
    }
    if whole > end.len() {
        read(whole as u64, &mut end)?;
    }
    let from = end.len() - whole;
    let to = end.len() - TRAILER;
    let list = repository.key().open(&mut end[from..to]).map_err(|_| damaged("its list cannot be opened"))?;
    let blobs = decode_header(list).map_err(|why| damaged(&format!("its list is malformed: {why}")))?;
    let pack = IndexedPack { id, blobs };
    if pack.size() == size { Ok(pack.blobs) } else { Err(damaged("its list does not fit its size")) }
}
