//! Reads all index files into one table, a few at a time.

use std::collections::HashSet;
use std::time::Duration;

use super::Index;
use crate::error::{Error, Result};
use crate::format::index::IndexFile;
use crate::id::PackId;
use crate::lock::WAIT_FOR_FENCE;
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;
use crate::store::StoreErrorKind;

/// Index files of other programs hold some 50,000 blobs: 8 MB of JSON.
const MAX_INDEX_BYTES: usize = 128 << 20;
/// Files read at once. Each takes about 12 MB while it is decoded.
const READERS: usize = 4;
/// Between two tries, because a file vanished meanwhile: somebody prunes. No longer than a fence may stand.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// It doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Memory of one blob in the table, growth included.
const BYTES_A_BLOB: u64 = 80;
/// Just after it has grown.
const MOST_BYTES_A_BLOB: u64 = 112;

/// Told of index files that are damaged.
type OnDamage<'a> = &'a (dyn Fn(&Error) + Sync);

impl Index {
    /// Reads every index file that is listed. `limit_bytes` bounds the table.
    ///
    /// # Errors
    /// A file that cannot be read or decoded: with part of the index, data would look lost that is not.
    /// [`Error::MemoryBound`] if the table grows beyond the limit.
    pub fn load(repository: &Repository, limit_bytes: u64) -> Result<Self> {
        Self::load_without(repository, limit_bytes, &HashSet::new())
    }

    /// As [`Index::load`], but these packs are not there: for whoever honours that they are condemned.
    ///
    /// # Errors
    /// Those of [`Index::load`].
    pub fn load_without(repository: &Repository, limit_bytes: u64, avoid: &HashSet<PackId>) -> Result<Self> {
        Self::load_trying(repository, limit_bytes, avoid, None)
    }

    /// As [`Index::load`], but damaged files are told to `on_damage` and left out: for those who look for damage.
    ///
    /// # Errors
    /// All but damage.
    pub fn load_with(repository: &Repository, limit_bytes: u64, on_damage: &(dyn Fn(&Error) + Sync)) -> Result<Self> {
        Self::load_trying(repository, limit_bytes, &HashSet::new(), Some(on_damage))
    }

    fn load_trying(repository: &Repository, limit_bytes: u64, avoid: &HashSet<PackId>, on_damage: Option<OnDamage<'_>>) -> Result<Self> {
        let clock = repository.clock();
        let (mut since, mut pause) = (None, FIRST_PAUSE);
        loop {
            match Self::load_once(repository, limit_bytes, avoid, on_damage) {
                // Somebody writes the index again: what is new is listed next time.
                Err(Error::Store(error))
                    if error.kind == StoreErrorKind::NotFound
                        && clock.since_boot() <= *since.get_or_insert(clock.since_boot()) + WAIT_FOR_FENCE =>
                {
                    if !clock.sleep(pause, repository.stop()) {
                        return Err(Error::Stopped);
                    }
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                other => return other,
            }
        }
    }

    fn load_once(repository: &Repository, limit_bytes: u64, avoid: &HashSet<PackId>, on_damage: Option<OnDamage<'_>>) -> Result<Self> {
        let names = repository.store().names(ObjectKind::Index)?;
        let index = Self::default();
        let read = |(): &mut (), name: &ObjectName| match (index.add_file(repository, name, avoid), on_damage) {
            (Err(damage @ Error::Damaged { .. }), Some(on_damage)) => {
                on_damage(&damage);
                Ok(())
            }
            (result, _) => result.and_then(|()| index.check_size(limit_bytes)),
        };
        parallel::each(READERS, &names, || (), read)?;
        Ok(index)
    }

    fn add_file(&self, repository: &Repository, name: &ObjectName, avoid: &HashSet<PackId>) -> Result<()> {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        repository.index_file(name)?.packs.iter().filter(|pack| !avoid.contains(&pack.id)).for_each(|pack| self.insert(pack));
        self.files.lock().expect("no holder panics").insert(*name);
        Ok(())
    }

    /// Reads index files that came since. The answer is false if one is gone that was read: then what is known is out of date.
    ///
    /// # Errors
    /// Those of [`Index::load`].
    pub(crate) fn catch_up(&self, repository: &Repository, limit_bytes: u64) -> Result<bool> {
        let names: HashSet<ObjectName> = repository.store().names(ObjectKind::Index)?.into_iter().collect();
        let known = self.files.lock().expect("no holder panics").clone();
        if !known.is_subset(&names) {
            return Ok(false);
        }
        let new: Vec<ObjectName> = names.difference(&known).copied().collect();
        let nothing = HashSet::new();
        let read = parallel::each(
            READERS,
            &new,
            || (),
            |(), name| {
                self.add_file(repository, name, &nothing)?;
                self.check_size(limit_bytes)
            },
        );
        match read {
            Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => Ok(false),
            read => read.map(|()| true),
        }
    }

    /// The most that the table takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len() as u64 * MOST_BYTES_A_BLOB
    }

    /// Whether the table still fits.
    ///
    /// # Errors
    /// [`Error::MemoryBound`].
    pub(crate) fn check_size(&self, limit_bytes: u64) -> Result<()> {
        let bytes = self.len() as u64 * BYTES_A_BLOB;
        if bytes <= limit_bytes {
            return Ok(());
        }
        let what = format!("the index of this repository, at {} blobs and more,", self.len());
        Err(Error::MemoryBound { what, needed_mib: bytes >> 20, allowed_mib: limit_bytes >> 20 })
    }
}

impl Repository {
    /// One index file.
    ///
    /// # Errors
    /// Not there, or damaged.
    pub fn index_file(&self, name: &ObjectName) -> Result<IndexFile> {
        let json = self.load_unpacked(name, MAX_INDEX_BYTES)?;
        IndexFile::decode(&json).map_err(|what| self.damaged(name, what))
    }
}
