//! Writes index files again, with less in them or with more; the new ones first, then the old ones go.

use std::collections::HashSet;

use crate::crypto::sha256;
use crate::error::{Error, Result};
use crate::format::index::{IndexFile, IndexedPack};
use crate::format::pack::encode_header;
use crate::id::PackId;
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;

/// Blobs of an index file: stock restic's own number.
pub(crate) const BLOBS_A_FILE: usize = 50_000;
/// Old files that are removed at once.
const REMOVERS: usize = 4;
/// A file of fewer blobs is small.
const SMALL_FILE: usize = BLOBS_A_FILE / 2;
/// So many small files are many.
const MANY_FILES: usize = 8;

/// Index files that name packs that do not stay, or that another one names too, are written again without them. Small ones are
/// put together, where there are many.
///
/// # Errors
/// Those of the store, damaged files; what was done by then is whole.
pub(crate) fn rewrite(repository: &Repository, names: Vec<ObjectName>, stays: impl Fn(&IndexedPack) -> bool) -> Result<()> {
    let (mut old, mut next) = (Vec::new(), Files::new(repository));
    // Of lists that differ all stay: nobody knows which one is right.
    let mut named: HashSet<(PackId, [u8; 32])> = HashSet::new();
    // Held back until it is known that they are many.
    let mut small = Vec::new();
    let mut are_many = false;
    for name in names {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let mut file = repository.index_file(&name)?;
        let count = file.packs.len();
        file.packs.retain(|pack| stays(pack) && named.insert((pack.id, sha256(&encode_header(&pack.blobs)))));
        let is_small = file.packs.iter().map(|pack| pack.blobs.len()).sum::<usize>() < SMALL_FILE;
        if file.packs.len() < count || is_small && are_many {
            old.push(name);
            file.packs.into_iter().try_for_each(|pack| next.add(pack))?;
        } else if is_small {
            small.push((name, file.packs));
            are_many = small.len() == MANY_FILES;
            for (name, packs) in small.drain(..if are_many { MANY_FILES } else { 0 }) {
                old.push(name);
                packs.into_iter().try_for_each(|pack| next.add(pack))?;
            }
        }
    }
    next.finish()?;
    parallel::each(REMOVERS, &old, || (), |(), name| Ok(repository.store().delete(name)?))
}

/// Whether so many blobs lie in far too many index files: each run writes one at least, and whoever opens the repository reads them all.
pub(crate) const fn are_scattered(files: usize, blobs: usize) -> bool {
    files > MANY_FILES + 2 * (blobs / SMALL_FILE)
}

/// First from the index, then from the store.
pub(crate) fn take_out(repository: &Repository, threads: usize, packs: &[PackId]) -> Result<()> {
    let gone: HashSet<PackId> = packs.iter().copied().collect();
    rewrite(repository, repository.store().names(ObjectKind::Index)?, |pack| !gone.contains(&pack.id))?;
    remove(repository, threads, packs)
}

/// Packs that nobody names any more.
pub(crate) fn remove(repository: &Repository, threads: usize, packs: &[PackId]) -> Result<()> {
    parallel::each(
        threads,
        packs,
        || (),
        |(), id| {
            if repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            Ok(repository.store().delete(&ObjectName::pack(*id))?)
        },
    )
}

/// Collects packs into index files of a good size.
pub(crate) struct Files<'a> {
    repository: &'a Repository,
    packs: Vec<IndexedPack>,
    blobs: usize,
}

impl<'a> Files<'a> {
    pub(crate) const fn new(repository: &'a Repository) -> Self {
        Self { repository, packs: Vec::new(), blobs: 0 }
    }

    pub(crate) fn add(&mut self, pack: IndexedPack) -> Result<()> {
        self.blobs += pack.blobs.len();
        self.packs.push(pack);
        if self.blobs < BLOBS_A_FILE { Ok(()) } else { self.write() }
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        if self.packs.is_empty() { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        self.blobs = 0;
        let packs = std::mem::take(&mut self.packs);
        self.repository.save_unpacked(ObjectKind::Index, IndexFile { packs }.encode()).map(drop)
    }
}
