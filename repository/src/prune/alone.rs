//! Under the exclusive lock: nobody writes, or relies on anything, meanwhile. Space comes back before more is needed.

use std::sync::Arc;

use super::copies::{Kept, keep_copies};
use super::repack::repack;
use super::{OnRepacked, Options, Planned, batches};
use crate::condemned::Condemned;
use crate::error::Result;
use crate::id::PackId;
use crate::index::Usage;
use crate::index::rewrite::{remove, take_out};
use crate::repository::Repository;

/// Does what is planned. The caller holds the exclusive lock since before the look.
pub(super) fn run(repository: &Arc<Repository>, planned: &Planned, options: &Options, on_repacked: OnRepacked<'_>) -> Result<()> {
    let Planned { packs, survey, .. } = planned;
    let threads = options.shares.uploads;
    repository.store().sweep()?;
    repository.remove_all_resumes()?;
    // Whoever honoured them has ended.
    Condemned::read(repository)?.remove(repository)?;
    remove(repository, threads, &planned.orphans.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
    let going: Vec<Usage> = packs.with_copies().copied().collect();
    let Kept { packs: kept, mut damage } = keep_copies(repository, &survey.index, &going, options)?;
    let goes = |usage: &&Usage| !kept.contains(&usage.pack.id);
    let useless: Vec<PackId> = packs.remove.iter().filter(goes).map(|usage| usage.pack.id).collect();
    if !useless.is_empty() || planned.is_index_untidy() {
        take_out(repository, threads, &useless)?;
    }
    let again: Vec<Usage> = packs.repack.iter().filter(goes).copied().collect();
    for batch in batches(&again, options, |usage| usage.needed_blobs) {
        let done = repack(repository, &survey.index, batch, options, on_repacked, &mut damage)?;
        take_out(repository, threads, &done)?;
    }
    damage.map_or(Ok(()), Err)
}
