//! Frees what no snapshot needs. Under the exclusive lock: nobody writes, or relies on anything, meanwhile.
//!
//! ```text
//! mark what snapshots need ─► plan ─► packs that nobody names go, and files that were cut off
//!      ─► where copies are to go, what stays in their place is read: what cannot be read keeps them
//!      ─► packs of which nothing is needed:       index files without them ─► the old ones go ─► they go
//!      ─► some packs of which little is needed:   that is stored again, and indexed ─► the same        (again and again)
//! ```
//! Each step leaves every snapshot whole: at any moment each needed blob lies in a pack that is there and that an index file
//! names. Space comes back before more is needed. One that was killed leaves packs that nobody names and files
//! that were cut off, and the next one removes them.

mod plan;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub use self::plan::{MaxUnused, Plan};
use crate::budget::Shares;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::index::IndexedPack;
use crate::format::node::{Node, NodeKind};
use crate::format::pack::PackedBlob;
use crate::id::{BlobId, ObjectId, PackId};
use crate::index::rewrite::{remove, take_out};
use crate::index::{Index, PackInfo, Usage};
use crate::object::ObjectName;
use crate::parallel;
use crate::read::{PackReader, RANGE, Trees};
use crate::repository::Repository;
use crate::store::StoreErrorKind;
use crate::write::{Verify, WriteMode, WriteOptions, Writer, must_be_writable};

/// Blobs of a batch.
pub const BATCH_BLOBS: u32 = 50_000;

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What may stay though nothing needs it.
    pub max_unused: MaxUnused,
    /// Bytes that are stored again, at most.
    pub max_repack_bytes: u64,
    /// Memory and threads.
    pub shares: Shares,
    /// Blobs that are stored again before the packs that had them go: [`BATCH_BLOBS`].
    pub batch_blobs: u32,
    /// Whether all may go, where there is no snapshot at all.
    pub may_empty: bool,
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

    /// Requests that it takes, about: puts, gets, deletes. Each delete asks for the lock, too.
    #[must_use]
    pub fn requests(&self, options: &Options) -> (u64, u64, u64) {
        if self.is_empty() {
            return (0, 0, 0);
        }
        let again = self.packs.repack.iter();
        let again: u64 = again.map(|usage| usage.needed_bytes.div_ceil(u64::from(RANGE)).min(u64::from(usage.needed_blobs))).sum();
        // Copies of a pack lie in one other.
        let reads = again + self.packs.with_copies().count() as u64;
        let batches = batches(&self.packs.repack, options, |usage| usage.needed_blobs).count() as u64;
        let passes = u64::from(!self.packs.remove.is_empty() || self.twice > 0) + batches;
        let files = passes * self.index.files() as u64;
        let packs = self.packs.remove.len() + self.packs.repack.len() + self.orphans.len();
        (self.packs.repacked().div_ceil(options.shares.pack_bytes) + 1 + files, reads + files, packs as u64 + files)
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
/// Damage: what snapshots need must be there, or be repaired first. [`Error::MemoryBound`]. [`Error::Refused`].
pub fn look(repository: &Arc<Repository>, options: &Options) -> Result<Planned> {
    must_be_writable(repository)?;
    repository.may_remove()?;
    // Snapshots first: what they need was stored before them.
    let snapshots = repository.snapshot_ids()?;
    let index = Arc::new(Index::load(repository, options.shares.index_bytes)?);
    let mut stored = repository.stored_packs()?;
    if snapshots.is_empty() && !options.may_empty && !(index.is_empty() && stored.is_empty()) {
        let message = "there is no snapshot at all, so everything would go: if that is meant, say --allow-empty";
        return Err(Error::Refused(message.to_owned()));
    }
    let is_whole = |pack: &PackInfo| stored.get(&pack.id) == Some(&pack.size);
    mark(repository, &index, options, &snapshots, &is_whole)?;
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

/// Marks one copy of every blob that a snapshot needs; of trees the one that was read.
fn mark(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    options: &Options,
    snapshots: &[ObjectId],
    is_whole: &dyn Fn(&PackInfo) -> bool,
) -> Result<()> {
    let trees = Trees::new(repository, index, options.shares.tree_bytes);
    for id in snapshots {
        let root = match repository.snapshot(*id) {
            // Forgotten meanwhile, by those whom a dry run does not keep out; or else it must be there.
            Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound && !repository.snapshot_ids()?.contains(id) => continue,
            snapshot => snapshot?.tree,
        };
        let missing = |blob: &BlobId, kind| match index.location(blob, kind) {
            Some(there) => {
                repository.damaged(&ObjectName::pack(there.pack.id), format!("snapshot {} needs it, and it is gone or cut", id.short()))
            }
            None => Error::MissingBlob { id: *blob, kind },
        };
        let mut waiting = vec![root];
        while let Some(tree) = waiting.pop() {
            if repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            if index.is_needed(&tree, BlobKind::Tree) {
                continue;
            }
            let mut nodes = trees.open(&tree)?;
            let from = nodes.pack();
            let is_read = |pack: &PackInfo| pack.id == from && is_whole(pack);
            if !index.mark(&tree, BlobKind::Tree, &is_read) && !index.mark(&tree, BlobKind::Tree, is_whole) {
                return Err(missing(&tree, BlobKind::Tree));
            }
            while let Some(Node { kind, content, subtree, .. }) = nodes.next_node()? {
                for blob in content.iter().flatten().filter(|_| kind == NodeKind::File) {
                    if !index.mark(blob, BlobKind::Data, is_whole) {
                        return Err(missing(blob, BlobKind::Data));
                    }
                }
                waiting.extend(subtree);
            }
        }
    }
    Ok(())
}

/// Does it. The caller holds the exclusive lock since before [`look`].
///
/// # Errors
/// Those of the store: what was done by then is whole, and the next one goes on. Damage, once all else is done: the packs
/// concerned stay, and so do those that hold other copies.
pub fn run(repository: &Arc<Repository>, planned: &Planned, options: &Options, on_repacked: OnRepacked<'_>) -> Result<()> {
    let Planned { packs, index, .. } = planned;
    let threads = options.shares.uploads;
    repository.store().sweep()?;
    repository.remove_all_resumes()?;
    remove(repository, threads, &planned.orphans.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
    let Kept { packs: kept, mut damage } = keep_copies(repository, index, packs, options)?;
    let goes = |usage: &&Usage| !kept.contains(&usage.pack.id);
    let useless: Vec<PackId> = packs.remove.iter().filter(goes).map(|usage| usage.pack.id).collect();
    if !useless.is_empty() || planned.twice > 0 {
        take_out(repository, threads, &useless)?;
    }
    let again: Vec<Usage> = packs.repack.iter().filter(goes).copied().collect();
    for batch in batches(&again, options, |usage| usage.needed_blobs) {
        let done = repack(repository, index, batch, options, on_repacked, &mut damage)?;
        take_out(repository, threads, &done)?;
    }
    damage.map_or(Ok(()), Err)
}

/// Packs that stay for the copies in them.
#[derive(Debug, Default)]
struct Kept {
    packs: HashSet<PackId>,
    /// What makes them necessary.
    damage: Option<Error>,
}

/// Reads what stays in place of copies that are to go. Where it cannot be read, they stay.
fn keep_copies(repository: &Repository, index: &Index, packs: &Plan, options: &Options) -> Result<Kept> {
    let mut kept = Kept::default();
    let going: Vec<Usage> = packs.with_copies().copied().collect();
    for batch in batches(&going, options, |usage| usage.blobs) {
        let copies = index.unneeded_of(ids(batch));
        let wanted = copies.iter().flat_map(|pack| &pack.blobs).map(|blob| (blob.id, blob.kind)).collect();
        let rotten = Mutex::new((HashSet::new(), &mut kept.damage));
        let begin = || PackReader::new(repository);
        parallel::each(options.shares.workers, &index.needed_among(&wanted), begin, |reader, pack| {
            let lose = |blobs: &[PackedBlob], error| {
                let (rotten, damage) = &mut *rotten.lock().expect("no holder panics");
                rotten.extend(blobs.iter().map(|blob| (blob.id, blob.kind)));
                damage.get_or_insert(error);
            };
            let read = reader.each(pack, |opener, blob, sealed| {
                if let Err(why) = opener.check(blob, sealed) {
                    let what = format!("{} blob {} at {} {why}", blob.kind, blob.id.short(), blob.offset);
                    lose(&[*blob], repository.damaged(&ObjectName::pack(pack.id), what));
                }
                Ok(())
            });
            match read {
                Err(damage @ Error::Damaged { .. }) => lose(&pack.blobs, damage),
                read => read?,
            }
            Ok(())
        })?;
        let (rotten, _) = rotten.into_inner().expect("no holder panics");
        let holds_one = |pack: &&IndexedPack| pack.blobs.iter().any(|blob| rotten.contains(&(blob.id, blob.kind)));
        kept.packs.extend(copies.iter().filter(holds_one).map(|pack| pack.id));
    }
    Ok(kept)
}

fn ids(packs: &[Usage]) -> Vec<PackId> {
    packs.iter().map(|usage| usage.pack.id).collect()
}

/// As many packs at a time as have a batch's blobs; one at least.
fn batches<'a>(mut packs: &'a [Usage], options: &Options, blobs_of: fn(&Usage) -> u32) -> impl Iterator<Item = &'a [Usage]> {
    let most = u64::from(options.batch_blobs);
    std::iter::from_fn(move || {
        let mut blobs = 0;
        let fits = |usage: &&Usage| {
            blobs += u64::from(blobs_of(usage));
            blobs <= most
        };
        let count = packs.iter().take_while(fits).count().max(1);
        let (batch, rest) = packs.split_at_checked(count)?;
        packs = rest;
        Some(batch)
    })
}

/// Stores what is needed of these packs once more, as it is sealed, and indexes it. The answer is those that may go.
fn repack(
    repository: &Arc<Repository>,
    index: &Index,
    batch: &[Usage],
    options: &Options,
    on_repacked: OnRepacked<'_>,
    damage: &mut Option<Error>,
) -> Result<Vec<PackId>> {
    // To it everything is new.
    let nothing = Arc::new(Index::default());
    let write =
        WriteOptions { shares: options.shares, compression: Compression::default(), verify: Verify::Sealed, mode: WriteMode::Store };
    let writer = Writer::start(repository, &nothing, write)?;
    let needed = index.needed_of(ids(batch));
    let (done, damage) = (Mutex::new(Vec::new()), Mutex::new(damage));
    let begin = || (PackReader::new(repository), writer.sealer(), Vec::new());
    parallel::each(options.shares.workers, &needed, begin, |(reader, sealer, copy), pack| {
        // Its sealed bytes are used again; in place of a damaged one another copy serves.
        let copied = reader.each(pack, |opener, blob, sealed| {
            copy.clear();
            copy.extend_from_slice(sealed);
            if opener.check(blob, sealed).is_ok() {
                return writer.store_sealed(blob, copy);
            }
            let plain = repository.read_blob(index, opener, &blob.id, blob.kind)?;
            writer.store(sealer, blob.kind, blob.id, &plain).map(drop)
        });
        match copied {
            Err(error @ Error::Damaged { .. }) => {
                damage.lock().expect("no holder panics").get_or_insert(error);
            }
            copied => {
                copied?;
                on_repacked(pack.blobs.iter().map(|blob| u64::from(blob.stored)).sum());
                done.lock().expect("no holder panics").push(pack.id);
            }
        }
        Ok(())
    })?;
    writer.finish()?;
    Ok(done.into_inner().expect("no holder panics"))
}
