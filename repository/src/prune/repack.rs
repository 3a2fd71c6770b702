//! Stores again what is needed of packs of which little is.

use std::sync::{Arc, Mutex};

use super::{OnRepacked, Options, ids};
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::index::{Index, Usage};
use crate::parallel;
use crate::read::PackReader;
use crate::repository::Repository;
use crate::write::{Verify, WriteMode, WriteOptions, Writer};

/// Stores what is needed of these packs once more, as it is sealed, and indexes it. The answer is those that may go.
pub(super) fn repack(
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
