//! Snapshots from one repository to another: what the other one has is not sent again.
//!
//! ```text
//! walk the trees of all snapshots, mark what the other one lacks ─► packs that have it, read range by range
//!      ─► open, hash ─► seal with the other key, as it was compressed ─► packs, index ─► snapshots
//! ```
//! Nothing becomes visible before all of it is there. One that was killed leaves packs and index files, and the next one sends
//! only what is still missing.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::budget::Shares;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, ObjectId, PackId};
use crate::index::Index;
use crate::object::ObjectName;
use crate::parallel;
use crate::read::{HELD, PackReader, Trees};
use crate::repository::Repository;
use crate::snapshots::{Filter, Stored};
use crate::write::{Verify, WriteMode, WriteOptions, Writer};

/// Packs that are read before it is asked which of their blobs are wanted for the next ones.
const PACKS: usize = 500;

/// Told of bytes as they are sent, from several threads; and first of how many there will be.
pub trait Watcher: Sync {
    /// Bytes that the other one lacks, as they are stored here.
    fn planned(&self, bytes: u64);
    /// So many more of them are done.
    fn copied(&self, bytes: u64);
}

/// What was copied, or in a dry run would be.
#[derive(Debug, Default)]
pub struct Copied {
    /// Ids here, and there; none in a dry run.
    pub saved: Vec<(ObjectId, ObjectId)>,
    /// Snapshots that the other one had.
    pub known: u64,
    /// Blobs that it lacked.
    pub blobs: u64,
    /// Bytes of these, as they are stored here.
    pub bytes: u64,
}

/// Copies snapshots. The caller holds a shared lock of both. The memory for the index is shared by the two.
///
/// # Errors
/// Those of the stores; damage of what was to be copied: then nothing becomes visible.
pub fn run(
    from: &Arc<Repository>,
    to: &Arc<Repository>,
    snapshots: &[Stored],
    shares: Shares,
    mode: WriteMode,
    watcher: &dyn Watcher,
) -> Result<Copied> {
    let shares = Shares { index_bytes: shares.index_bytes / 2, ..shares };
    let known: HashSet<Origin> = to.snapshots(&Filter::default())?.iter().map(Origin::of).collect();
    let (wanted, there): (Vec<&Stored>, Vec<&Stored>) = snapshots.iter().partition(|stored| !known.contains(&Origin::of(stored)));
    let mut copied = Copied { known: there.len() as u64, ..Copied::default() };
    if wanted.is_empty() {
        return Ok(copied);
    }
    let source = Arc::new(Index::load(from, shares.index_bytes)?);
    let target = Arc::new(Index::load(to, shares.index_bytes)?);
    mark(from, &source, &target, shares, &wanted)?;
    let usage = source.usage();
    copied.blobs = usage.iter().map(|usage| u64::from(usage.needed_blobs)).sum();
    copied.bytes = usage.iter().map(|usage| usage.needed_bytes).sum();
    watcher.planned(copied.bytes);
    if mode == WriteMode::DryRun {
        return Ok(copied);
    }
    let options = WriteOptions { shares, compression: Compression::default(), verify: Verify::Sealed, mode };
    let writer = Writer::start(to, &target, options)?;
    let packs: Vec<PackId> = usage.iter().filter(|usage| usage.needed_blobs > 0).map(|usage| usage.pack.id).collect();
    for packs in packs.chunks(PACKS) {
        let begin = || (PackReader::new(from), writer.sealer());
        parallel::each(shares.workers, &source.needed_of(packs.to_vec()), begin, |(reader, sealer), pack| {
            reader.each(pack, |opener, blob, sealed| {
                let stored = match blob.uncompressed {
                    // Never held as a whole.
                    Some(length) if blob.kind == BlobKind::Tree && length > HELD => opener
                        .check(blob, sealed)
                        .and_then(|()| opener.payload(sealed))
                        .map(|payload| writer.store_giant(blob.id, payload, length)),
                    _ => opener.open_whole(blob, sealed).map(|(payload, plain)| writer.store_again(sealer, blob, payload, plain)),
                };
                match stored {
                    Ok(stored) => stored?,
                    // Another pack may hold it as well.
                    Err(why) => match from.read_blob(&source, opener, &blob.id, blob.kind) {
                        Err(Error::Damaged { .. }) => {
                            let what = format!("{} blob {} at {} {why}", blob.kind, blob.id.short(), blob.offset);
                            return Err(from.damaged(&ObjectName::pack(pack.id), what));
                        }
                        plain => writer.store(sealer, blob.kind, blob.id, &plain?)?,
                    },
                };
                watcher.copied(u64::from(blob.stored));
                Ok(())
            })
        })?;
    }
    let (committed, _) = writer.finish()?;
    for stored in wanted {
        let original = Some(stored.snapshot.original.unwrap_or(stored.id));
        // Its parent has another id there, if it is there at all.
        let snapshot = Snapshot { original, parent: None, ..stored.snapshot.clone() };
        copied.saved.push((stored.id, to.save_snapshot(&snapshot, &committed)?));
    }
    Ok(copied)
}

/// What makes a snapshot the same one in another repository.
#[derive(PartialEq, Eq, Hash)]
struct Origin {
    id: ObjectId,
    tree: BlobId,
    time: Timestamp,
    host: String,
    paths: Vec<String>,
    tags: Vec<String>,
}

impl Origin {
    fn of(stored: &Stored) -> Self {
        let Snapshot { original, tree, time, hostname, paths, tags, .. } = stored.snapshot.clone();
        Self { id: original.unwrap_or(stored.id), tree, time: time.0, host: hostname, paths, tags }
    }
}

/// Marks one copy of each blob that the snapshots need and that the target lacks.
fn mark(from: &Arc<Repository>, source: &Arc<Index>, target: &Index, shares: Shares, snapshots: &[&Stored]) -> Result<()> {
    let trees = Trees::new(from, source, shares.tree_bytes);
    // Marked there, or else here: what is neither is missing.
    let want = |id: &BlobId, kind| {
        let is_had = target.mark(id, kind, &|_| true) || source.mark(id, kind, &|_| true);
        if is_had { Ok(()) } else { Err(Error::MissingBlob { id: *id, kind }) }
    };
    let mut waiting: Vec<BlobId> = snapshots.iter().map(|stored| stored.snapshot.tree).collect();
    while let Some(tree) = waiting.pop() {
        if from.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        if target.is_needed(&tree, BlobKind::Tree) || source.is_needed(&tree, BlobKind::Tree) {
            continue;
        }
        // What the target has of a directory may be all there is of it: what is below is looked for all the same.
        want(&tree, BlobKind::Tree)?;
        let mut nodes = trees.open(&tree)?;
        while let Some(Node { kind, content, subtree, .. }) = nodes.next_node()? {
            content.iter().flatten().filter(|_| kind == NodeKind::File).try_for_each(|blob| want(blob, BlobKind::Data))?;
            waiting.extend(subtree);
        }
    }
    Ok(())
}
