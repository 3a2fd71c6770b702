//! Frees what no snapshot needs. Under the exclusive lock: nobody writes, or relies on anything, meanwhile.
//!
//! ```text
//! mark what snapshots need ─► plan ─► packs that nobody names go
//!      ─► packs of which nothing is needed:                          index files without them ─► the old ones go ─► they go
//!      ─► packs of which little is: that is stored again, and indexed; index files without them ─► the old ones go ─► they go
//! ```
//! Space comes back before more is needed, and damage in one pack keeps nothing from going that is whole.
//! Each step leaves every snapshot whole: at any moment each needed blob lies in a pack that is there and that an index file
//! names. One that was killed leaves packs that nobody names, and the next one removes them.

mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub use self::plan::{MaxUnused, Plan};
use crate::budget::Shares;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::index::IndexedPack;
use crate::format::node::{Node, NodeKind};
use crate::id::{BlobId, PackId};
use crate::index::rewrite::rewrite;
use crate::index::{Index, Mark, PackInfo, Usage};
use crate::object::{ObjectKind, ObjectName};
use crate::read::ranges::merge;
use crate::read::{BlobOpener, MAX_BLOB, Trees};
use crate::repository::Repository;
use crate::store::{ReadRange, StoreErrorKind};
use crate::write::{Verify, WriteMode, WriteOptions, Writer};

/// One request for blobs of a pack is at most this long.
const READ: u32 = 8 << 20;
/// Packs whose blobs are looked up together: the table is gone through once for each so many.
const BATCH: usize = 1024;

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What may stay though nothing needs it.
    pub max_unused: MaxUnused,
    /// Bytes that are stored again, at most.
    pub max_repack_bytes: u64,
    /// Memory and threads.
    pub shares: Shares,
}

/// What is to be done.
#[derive(Debug)]
pub struct Planned {
    index: Arc<Index>,
    /// Packs that index files name.
    pub packs: Plan,
    /// Packs that none names, and their bytes.
    pub orphans: Vec<(PackId, u64)>,
    /// Packs that index files name, that nothing needs, and that are not there.
    pub lost: u64,
    /// Packs that more than one index file names.
    pub twice: u64,
    /// Blobs that snapshots need.
    pub needed_blobs: u64,
    /// Bytes of these, as stored.
    pub needed_bytes: u64,
    /// Blobs that nothing needs, superfluous copies among them.
    pub unused_blobs: u64,
    /// Bytes that are there now.
    pub bytes_before: u64,
}

impl Planned {
    /// Bytes that are free afterwards.
    #[must_use]
    pub fn freed(&self) -> u64 {
        let removed: u64 = self.packs.remove.iter().chain(&self.packs.repack).map(|usage| usage.pack.size).sum();
        let orphans: u64 = self.orphans.iter().map(|(_, size)| size).sum();
        (removed + orphans).saturating_sub(self.packs.repacked())
    }

    /// Requests that it takes, at most: puts, gets, deletes. Each delete asks for the lock, too.
    #[must_use]
    pub fn requests(&self, pack_bytes: u64) -> (u64, u64, u64) {
        if self.is_empty() {
            return (0, 0, 0);
        }
        let again = self.packs.repack.iter();
        let reads: u64 = again.map(|usage| usage.needed_bytes.div_ceil(u64::from(READ)).min(u64::from(usage.needed_blobs))).sum();
        let passes = u64::from(!self.packs.remove.is_empty() || self.twice > 0) + u64::from(!self.packs.repack.is_empty());
        let files = passes * self.index.files() as u64;
        let packs = self.packs.remove.len() + self.packs.repack.len() + self.orphans.len();
        (self.packs.repacked().div_ceil(pack_bytes) + 1 + files, reads + files, packs as u64 + files)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.packs.remove.is_empty() && self.packs.repack.is_empty() && self.orphans.is_empty() && self.twice == 0
    }
}

/// Told of bytes that are stored again, as they come, from several threads.
pub type OnRepacked<'a> = &'a (dyn Fn(u64) + Sync);

/// Finds out what is to be done, and changes nothing. Whoever goes on with it holds the exclusive lock since before.
///
/// # Errors
/// Damage: what snapshots need must be there, or be repaired first. [`Error::MemoryBound`].
pub fn look(repository: &Arc<Repository>, options: &Options) -> Result<Planned> {
    let index = Arc::new(Index::load(repository, options.shares.index_bytes)?);
    let mut stored: HashMap<PackId, u64> = HashMap::new();
    repository.store().list(ObjectKind::Pack, &mut |listed| {
        stored.insert(PackId(listed.name.id.0), listed.size);
    })?;
    let is_whole = |pack: &PackInfo| stored.get(&pack.id) == Some(&pack.size);
    mark(repository, &index, options, &is_whole)?;
    let mut usage = index.usage();
    let named: HashSet<PackId> = usage.iter().map(|usage| usage.pack.id).collect();
    let mut lost = 0;
    for usage in &mut usage {
        if let Some(size) = stored.get(&usage.pack.id) {
            // What is there counts, also of one that is cut: nothing in that is needed.
            usage.pack.size = *size;
        } else {
            usage.pack.size = 0;
            lost += 1;
        }
    }
    let needed_blobs = usage.iter().map(|usage| u64::from(usage.needed_blobs)).sum();
    let needed_bytes = usage.iter().map(|usage| usage.needed_bytes).sum();
    let twice = usage.iter().filter(|usage| usage.pack.files > 1).count() as u64;
    let blobs: u64 = usage.iter().map(|usage| u64::from(usage.blobs)).sum();
    let bytes_before = stored.values().sum();
    stored.retain(|id, _| !named.contains(id));
    let packs = plan::plan(usage, options.max_unused, options.max_repack_bytes);
    let orphans = stored.into_iter().collect();
    Ok(Planned { index, packs, orphans, lost, twice, needed_blobs, needed_bytes, unused_blobs: blobs - needed_blobs, bytes_before })
}

/// Marks one copy of every blob that a snapshot needs.
fn mark(repository: &Arc<Repository>, index: &Arc<Index>, options: &Options, can_be_read: &dyn Fn(&PackInfo) -> bool) -> Result<()> {
    let trees = Trees::new(repository, index, options.shares.tree_bytes);
    // True where it was not needed before.
    let need = |id: &BlobId, kind| match index.mark(id, kind, can_be_read) {
        Mark::First => Ok(true),
        Mark::Again => Ok(false),
        Mark::Missing => Err(match index.location(id, kind) {
            Some(there) => repository.damaged(&ObjectName::pack(there.pack.id), "snapshots need it, and it is gone or cut"),
            None => Error::MissingBlob { id: *id, kind },
        }),
    };
    let mut waiting = Vec::new();
    for id in repository.snapshot_ids()? {
        let root = repository.snapshot(id)?.tree;
        waiting.extend(need(&root, BlobKind::Tree)?.then_some(root));
        while let Some(tree) = waiting.pop() {
            if repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            let mut nodes = trees.open(&tree)?;
            while let Some(Node { kind, content, subtree, .. }) = nodes.next_node()? {
                if kind == NodeKind::File {
                    content.iter().flatten().try_for_each(|id| need(id, BlobKind::Data).map(drop))?;
                }
                if let Some(subtree) = subtree {
                    waiting.extend(need(&subtree, BlobKind::Tree)?.then_some(subtree));
                }
            }
        }
    }
    Ok(())
}

/// Does it. The caller holds the exclusive lock since before [`look`].
///
/// # Errors
/// Those of the store, and damage of what is to be stored again: what was done by then is whole, and the next one goes on.
pub fn run(repository: &Arc<Repository>, planned: &Planned, options: &Options, on_repacked: OnRepacked<'_>) -> Result<()> {
    let Planned { packs, index, .. } = planned;
    remove(repository, planned.orphans.iter().map(|(id, _)| *id))?;
    let ids = |packs: &[Usage]| packs.iter().map(|usage| usage.pack.id).collect::<HashSet<_>>();
    let useless = ids(&packs.remove);
    if !useless.is_empty() || planned.twice > 0 {
        leave_out(repository, &useless)?;
        remove(repository, useless)?;
    }
    if !packs.repack.is_empty() {
        repack(repository, index, packs, options, on_repacked)?;
        let again = ids(&packs.repack);
        leave_out(repository, &again)?;
        remove(repository, again)?;
    }
    Ok(())
}

/// From the index.
fn leave_out(repository: &Repository, gone: &HashSet<PackId>) -> Result<()> {
    let mut names = Vec::new();
    repository.store().list(ObjectKind::Index, &mut |listed| names.push(listed.name))?;
    rewrite(repository, names, |pack| !gone.contains(&pack.id))
}

/// Packs that nobody names any more.
fn remove(repository: &Repository, packs: impl IntoIterator<Item = PackId>) -> Result<()> {
    for id in packs {
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        repository.store().delete(&ObjectName::pack(id))?;
    }
    Ok(())
}

/// Stores what is needed of packs that go once more, as it is sealed, and indexes it.
fn repack(repository: &Arc<Repository>, index: &Index, packs: &Plan, options: &Options, on_repacked: OnRepacked<'_>) -> Result<()> {
    // To it everything is new.
    let nothing = Arc::new(Index::default());
    let write =
        WriteOptions { shares: options.shares, compression: Compression::default(), verify: Verify::Sealed, mode: WriteMode::Store };
    let writer = Writer::start(repository, &nothing, write)?;
    for batch in packs.repack.chunks(BATCH) {
        let batch: Vec<PackInfo> = batch.iter().map(|usage| usage.pack).collect();
        let needed = index.needed_of(&batch);
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            let mut copier =
                Copier { repository, writer: &writer, opener: BlobOpener::new(repository), read: Vec::new(), sealed: Vec::new() };
            while let Some(pack) = needed.get(next.fetch_add(1, Ordering::Relaxed)) {
                match copier.copy(pack) {
                    Ok(()) => on_repacked(pack.blobs.iter().map(|blob| u64::from(blob.stored)).sum()),
                    Err(error) => {
                        next.store(needed.len(), Ordering::Relaxed);
                        failure.lock().expect("no holder panics").get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..options.shares.workers).for_each(|_| drop(scope.spawn(work))));
        if let Some(error) = failure.into_inner().expect("no holder panics") {
            return Err(error);
        }
    }
    writer.finish().map(drop)
}

struct Copier<'a> {
    repository: &'a Repository,
    writer: &'a Writer,
    opener: BlobOpener,
    read: Vec<u8>,
    sealed: Vec<u8>,
}

impl Copier<'_> {
    /// Every blob is opened and hashed on its way; its sealed bytes are used again.
    fn copy(&mut self, pack: &IndexedPack) -> Result<()> {
        let name = ObjectName::pack(pack.id);
        let wanted: Vec<(u32, u32)> = pack.blobs.iter().map(|blob| (blob.offset, blob.stored)).collect();
        for range in merge(&wanted, READ) {
            if self.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            let damaged = |what: &str| self.repository.damaged(&name, what);
            if range.length > MAX_BLOB {
                return Err(damaged("a blob in it is larger than any writer makes"));
            }
            let part = ReadRange::Part { offset: u64::from(range.offset), length: u64::from(range.length) };
            self.repository.store().read(&name, part, &mut self.read).map_err(|error| match error.kind {
                StoreErrorKind::NotFound => damaged("it is gone, though it was there a moment ago"),
                StoreErrorKind::Truncated => damaged("it is shorter than it was a moment ago"),
                _ => error.into(),
            })?;
            for blob in &pack.blobs[range.blobs] {
                let from = (blob.offset - range.offset) as usize;
                let sealed = &self.read[from..from + blob.stored as usize];
                self.sealed.clear();
                self.sealed.extend_from_slice(sealed);
                if let Err(why) = self.opener.open(blob, &mut self.sealed) {
                    return Err(damaged(&format!("{} blob {} at {} {why}", blob.kind, blob.id.short(), blob.offset)));
                }
                self.writer.store_sealed(blob, sealed)?;
            }
        }
        Ok(())
    }
}
