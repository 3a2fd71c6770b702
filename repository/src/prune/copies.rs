//! Before copies go, what stays in their place is read: the index does not know which of two copies is rotten.

use std::collections::HashSet;
use std::sync::Mutex;

use super::{Options, batches, ids};
use crate::error::{Error, Result};
use crate::format::index::IndexedPack;
use crate::format::pack::PackedBlob;
use crate::id::PackId;
use crate::index::{Index, Usage};
use crate::object::ObjectName;
use crate::parallel;
use crate::read::PackReader;
use crate::repository::Repository;

/// Packs that stay for the copies in them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) packs: HashSet<PackId>,
    /// What makes them necessary.
    pub(super) damage: Option<Error>,
}

/// Reads what stays in place of copies that are to go. Where it cannot be read, they stay.
pub(super) fn keep_copies(repository: &Repository, index: &Index, going: &[Usage], options: &Options) -> Result<Kept> {
    let mut kept = Kept::default();
    for batch in batches(going, options, |usage| usage.blobs) {
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
