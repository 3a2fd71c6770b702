//! Packs that are damaged: what can be read of them is stored again, and they go. What is lost then is in no index any more, so
//! that the next backup that has it stores it again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::Mode;
use crate::budget::Shares;
use crate::check::{Counts, WholePack};
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::index::IndexedPack;
use crate::format::pack::PackedBlob;
use crate::id::{BlobId, PackId};
use crate::index::rewrite::take_out;
use crate::index::{Index, Location, PackInfo};
use crate::parallel;
use crate::read::{BlobOpener, MAX_BLOB};
use crate::repository::Repository;
use crate::write::{Verify, WriteMode, WriteOptions, Writer};

/// What was wrong with packs, and what became of it.
#[derive(Debug, Default)]
pub struct Wrong {
    /// Packs that are damaged, or gone, and why.
    pub damaged: Vec<(PackId, String)>,
    /// Blobs that can be read, of these.
    pub saved: u64,
    /// Blobs of which no copy can be read.
    pub lost: Vec<(BlobKind, BlobId)>,
}

/// Reads packs from end to end: those whose ids begin so, or all. To apply it takes the exclusive lock.
///
/// # Errors
/// Those of the store; a damaged index, which is to be repaired before; an id that no pack has. What was put right by then is
/// whole, and the next one goes on.
pub fn run(repository: &Arc<Repository>, wanted: &[String], mode: Mode, shares: Shares, counts: &Counts) -> Result<Wrong> {
    if mode == Mode::Apply {
        repository.may_remove()?;
    }
    let index = Arc::new(Index::load(repository, shares.index_bytes)?);
    let packs = chosen(index.by_pack(), wanted)?;
    counts.to_read(packs.len(), packs.iter().map(IndexedPack::size).sum());
    let found = Mutex::new(Vec::new());
    let begin = || WholePack::new(repository, counts);
    parallel::each(shares.workers, &packs, begin, |reader, pack| match reader.check(pack) {
        Err(Error::Damaged { what, .. }) => {
            found.lock().expect("no holder panics").push((pack, what));
            Ok(())
        }
        read => read,
    })?;
    let mut found = found.into_inner().expect("no holder panics");
    found.sort_unstable_by_key(|(pack, _)| pack.id);
    let damaged: Vec<&IndexedPack> = found.iter().map(|(pack, _)| *pack).collect();
    // What cannot be looked at here is not called lost.
    let all = damaged.iter().flat_map(|pack| &pack.blobs);
    if let Some(giant) = all.filter(|blob| blob.stored > MAX_BLOB).max_by_key(|blob| blob.stored) {
        let what = format!("{} blob {} of a damaged pack", giant.kind, giant.id.short());
        return Err(Error::MemoryBound { what, needed_mib: u64::from(giant.stored) >> 20, allowed_mib: u64::from(MAX_BLOB) >> 20 });
    }
    let mut wrong = salvage(repository, &index, &damaged, mode, shares)?;
    if mode == Mode::Apply && !damaged.is_empty() {
        take_out(repository, shares.uploads, &damaged.iter().map(|pack| pack.id).collect::<Vec<_>>())?;
    }
    wrong.damaged = found.into_iter().map(|(pack, what)| (pack.id, what)).collect();
    Ok(wrong)
}

fn chosen(mut packs: Vec<IndexedPack>, wanted: &[String]) -> Result<Vec<IndexedPack>> {
    for wanted in wanted {
        let count = packs.iter().filter(|pack| pack.id.hex().starts_with(wanted)).count();
        if count != 1 {
            return Err(Error::Refused(format!("{count} packs that an index file names have ids that begin with {wanted:?}")));
        }
    }
    packs.retain(|pack| wanted.is_empty() || wanted.iter().any(|wanted| pack.id.hex().starts_with(wanted)));
    Ok(packs)
}

/// Stores each blob of these packs again that can be read there; of others a copy must be whole elsewhere, or it is lost.
fn salvage(repository: &Arc<Repository>, index: &Index, damaged: &[&IndexedPack], mode: Mode, shares: Shares) -> Result<Wrong> {
    let going: HashSet<PackId> = damaged.iter().map(|pack| pack.id).collect();
    let mode = if mode == Mode::Apply { WriteMode::Store } else { WriteMode::DryRun };
    let options = WriteOptions { shares, compression: Compression::default(), verify: Verify::Sealed, mode };
    // To it everything is new.
    let writer = Writer::start(repository, &Arc::new(Index::default()), options)?;
    let (mut opener, mut sealed, mut copy) = (BlobOpener::new(repository), Vec::new(), Vec::new());
    let mut wrong = Wrong::default();
    let (mut saved, mut lost) = (HashSet::new(), HashSet::new());
    for pack in damaged {
        let info = PackInfo { id: pack.id, blobs_end: 0, size: pack.size(), files: 1 };
        for blob in &pack.blobs {
            if repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            if saved.contains(&(blob.id, blob.kind)) {
                continue;
            }
            let mut can_be_read = |location: &Location| match repository.read_sealed(location, &mut sealed) {
                Ok(()) => {
                    sealed.clone_into(&mut copy);
                    Ok(opener.check(&location.blob, &mut sealed).is_ok())
                }
                Err(Error::Damaged { .. }) => Ok(false),
                Err(error) => Err(error),
            };
            if can_be_read(&Location { pack: info, blob: *blob })? {
                if mode == WriteMode::Store {
                    writer.store_sealed(blob, &copy)?;
                }
                saved.insert((blob.id, blob.kind));
                continue;
            }
            let mut elsewhere = index.locations(&blob.id, blob.kind).into_iter().filter(|location| !going.contains(&location.pack.id));
            if !elsewhere.try_fold(false, |is_whole, location| Ok::<_, Error>(is_whole || can_be_read(&location)?))? {
                lost.insert((blob.id, blob.kind));
            }
        }
    }
    writer.finish()?;
    let is_lost = |PackedBlob { id, kind, .. }: &PackedBlob| lost.contains(&(*id, *kind)) && !saved.contains(&(*id, *kind));
    let blobs = damaged.iter().flat_map(|pack| &pack.blobs);
    wrong.lost = blobs.filter(|blob| is_lost(blob)).map(|blob| (blob.kind, blob.id)).collect();
    wrong.lost.sort_unstable();
    wrong.lost.dedup();
    wrong.saved = saved.len() as u64;
    Ok(wrong)
}
