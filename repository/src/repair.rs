//! Makes the index say again what is there. Under the exclusive lock.
//!
//! ```text
//! packs whose list no index file has ─► read from their own ends ─► indexed ─► index files without what is not there
//!      ─► index files that cannot be read go
//! ```
//! Nothing but index files is changed. Blobs that nobody names any more are stored again by the next backup that has them.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::format::index::IndexedPack;
use crate::id::PackId;
use crate::index::rewrite::{Files, rewrite};
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;

/// Packs whose lists are read at once.
const READERS: usize = 4;

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
    let mut planned = Planned { stored: repository.stored_packs()?, ..Planned::default() };
    let (mut right, mut wrong) = (HashSet::new(), HashSet::new());
    for name in repository.store().names(ObjectKind::Index)? {
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
    let unnamed: Vec<(PackId, u64)> = planned.stored.iter().filter(|(id, _)| !right.contains(id)).map(|(id, size)| (*id, *size)).collect();
    let lists = Mutex::new((Vec::new(), Vec::new()));
    parallel::each(READERS, &unnamed, Vec::new, |buffer, &(id, size)| {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let list = repository.own_list(id, size, buffer);
        let (found, lost) = &mut *lists.lock().expect("no holder panics");
        match list {
            Ok(blobs) => found.push(IndexedPack { id, blobs }),
            Err(Error::Damaged { what, .. }) => lost.push((id, what)),
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    (planned.found, planned.lost) = lists.into_inner().expect("no holder panics");
    planned.found.sort_unstable_by_key(|pack| pack.id);
    planned.lost.sort_unstable();
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
