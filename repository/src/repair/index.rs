//! Makes the index say again what is there.
//!
//! ```text
//! packs whose list no index file has ─► read from their own ends ─► indexed ─► index files without what is not there
//!      ─► index files that cannot be read go
//! ```
//! Nothing but index files is changed. Blobs that nobody names any more are stored again by the next backup that has them.

use std::collections::HashSet;
use std::sync::Mutex;

use super::Mode;
use crate::error::{Error, Result};
use crate::format::index::IndexedPack;
use crate::id::PackId;
use crate::index::rewrite::{Files, rewrite};
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;

/// Packs whose lists are read at once.
const READERS: usize = 4;

/// What is wrong with the index, or was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Index files that cannot be read, and why.
    pub unreadable: Vec<(ObjectName, String)>,
    /// Packs that no index file names as they are; to those that only look, also those that somebody is about to index.
    pub unnamed: Vec<PackId>,
    /// Packs that an index file names otherwise than they are, or that are not there.
    pub misnamed: Vec<PackId>,
    /// Packs that no index file names, and whose own list cannot be read, and why.
    pub lost: Vec<(PackId, String)>,
}

impl Wrong {
    /// Whether the index is as it can be.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.unreadable.is_empty() && self.misnamed.is_empty() && self.unnamed.is_empty()
    }
}

/// Finds out what is wrong. Of what is listed only names and sizes are held. To apply it takes the exclusive lock.
///
/// # Errors
/// Those of the store; damage is what it looks for. What was put right by then is whole, and the next one goes on.
pub fn run(repository: &Repository, mode: Mode) -> Result<Wrong> {
    if mode == Mode::Apply {
        repository.may_remove()?;
    }
    let mut wrong = Wrong::default();
    // Packs after index files: what is named was there before.
    let names = repository.store().names(ObjectKind::Index)?;
    let stored = repository.stored_packs()?;
    let is_right = |pack: &IndexedPack| stored.get(&pack.id) == Some(&pack.size());
    let (mut readable, mut right, mut misnamed) = (Vec::new(), HashSet::new(), HashSet::new());
    for name in names {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        match repository.index_file(&name) {
            Ok(file) => {
                for pack in &file.packs {
                    if is_right(pack) { &mut right } else { &mut misnamed }.insert(pack.id);
                }
                readable.push(name);
            }
            Err(Error::Damaged { what, .. }) => wrong.unreadable.push((name, what)),
            Err(error) => return Err(error),
        }
    }
    let unnamed: Vec<(PackId, u64)> = stored.iter().filter(|(id, _)| !right.contains(id)).map(|(id, size)| (*id, *size)).collect();
    let found = Mutex::new((&mut wrong, Files::new(repository)));
    parallel::each(READERS, &unnamed, Vec::new, |buffer, &(id, size)| {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let list = repository.own_list(id, size, buffer);
        let (wrong, files) = &mut *found.lock().expect("no holder panics");
        match list {
            Ok(blobs) => {
                wrong.unnamed.push(id);
                if mode == Mode::Apply { files.add(IndexedPack { id, blobs }) } else { Ok(()) }
            }
            Err(Error::Damaged { what, .. }) => {
                wrong.lost.push((id, what));
                Ok(())
            }
            Err(error) => Err(error),
        }
    })?;
    found.into_inner().expect("no holder panics").1.finish()?;
    wrong.misnamed = misnamed.into_iter().collect();
    wrong.unnamed.sort_unstable();
    wrong.misnamed.sort_unstable();
    wrong.lost.sort_unstable();
    if mode == Mode::Apply {
        if !wrong.misnamed.is_empty() {
            rewrite(repository, readable, is_right)?;
        }
        wrong.unreadable.iter().try_for_each(|(name, _)| repository.store().delete(name))?;
    }
    Ok(wrong)
}
