//! Frees what no snapshot needs.
//!
//! ```text
//! mark what snapshots need ─► plan ─► where copies are to go, what stays in their place is read
//!   alone  (the exclusive lock): rubbish goes ─► index files without packs ─► they go ─► some packs are packed again ─► the same
//!   beside (others at work):     packed again ─► all that is to go is condemned ─► under a fence: index files without them ─► they go
//! ```
//! Each step leaves every snapshot whole: at any moment each needed blob lies in a pack that is there and that an index file
//! names. One that was killed leaves packs that nobody names, files that were cut off, or a list of condemned packs, and the
//! next one goes on with these. `docs/maintenance.md` says why each order is right.

mod alone;
mod beside;
mod copies;
mod plan;
mod repack;
mod retained;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub use self::plan::{MaxUnused, Plan};
pub use self::retained::Retained;
use crate::budget::Shares;
use crate::error::{Error, Result};
use crate::format::lock::LockMode;
use crate::id::PackId;
use crate::index::Usage;
use crate::index::rewrite::are_scattered;
use crate::lock::Lock;
use crate::object::ObjectName;
use crate::read::RANGE;
use crate::repository::Repository;
use crate::store::late;
use crate::survey::Survey;
use crate::write::must_be_writable;

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
    survey: Survey,
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
    /// What would go or be packed again, and is retained (object lock): it stays until that ends.
    pub retained: Retained,
    /// What goes stays as an old version, and takes its room, until somebody removes those.
    pub is_versioned: bool,
}

impl Planned {
    /// What goes, once what is needed of it is stored again.
    #[must_use]
    pub fn goes(&self) -> Removed {
        let indexed = self.packs.remove.iter().chain(&self.packs.repack).map(|usage| usage.pack.size);
        let all: Vec<u64> = indexed.chain(self.orphans.iter().map(|(_, size)| *size)).collect();
        Removed { packs: all.len() as u64, bytes: all.iter().sum() }
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
        let passes = u64::from(!self.packs.remove.is_empty() || self.is_index_untidy()) + batches;
        let files = passes * self.survey.index.files() as u64;
        (self.packs.repacked().div_ceil(options.shares.pack_bytes) + 1 + files, reads + files, self.goes().packs + files)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.remove.is_empty() && self.packs.repack.is_empty() && self.orphans.is_empty() && !self.is_index_untidy()
    }

    /// Whether the index is to be written again for its own sake.
    fn is_index_untidy(&self) -> bool {
        self.twice > 0 || are_scattered(self.survey.index.files(), self.survey.index.len())
    }
}

/// Told of bytes that are stored again.
pub type OnRepacked<'a> = &'a (dyn Fn(u64) + Sync);

/// Finds out what is to be done, and changes nothing. Whoever goes on with it holds a lock since before.
///
/// # Errors
/// Damage: what snapshots need must be there, or be repaired first. [`Error::MemoryBound`]. [`Error::Refused`].
pub fn look(repository: &Arc<Repository>, options: &Options) -> Result<Planned> {
    look_avoiding(repository, options, &HashSet::new())
}

/// Of what lies in several packs, that copy counts as needed which is in none of `avoid`.
fn look_avoiding(repository: &Arc<Repository>, options: &Options, avoid: &HashSet<PackId>) -> Result<Planned> {
    must_be_writable(repository)?;
    repository.may_remove()?;
    let survey = Survey::take(repository, &options.shares, avoid)?;
    if survey.snapshots.is_empty() && !options.may_empty && !(survey.index.is_empty() && survey.stored.is_empty()) {
        let message = "there is no snapshot at all, so everything would go: if that is meant, say --allow-empty";
        return Err(Error::Refused(message.to_owned()));
    }
    let mut usage = survey.index.usage();
    let named: HashSet<PackId> = usage.iter().map(|usage| usage.pack.id).collect();
    let mut lost = 0;
    for usage in &mut usage {
        if let Some(size) = survey.stored.get(&usage.pack.id) {
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
    let bytes_before = survey.stored.values().sum();
    let mut orphans = survey.stored.iter().filter(|(id, _)| !named.contains(*id)).map(|(id, size)| (*id, *size)).collect();
    // Without versions there is no object lock.
    let is_versioned = repository.store().stat(&ObjectName::CONFIG)?.is_versioned;
    let (packs, retained) = if is_versioned {
        retained::plan_without(repository, options, usage, &mut orphans)?
    } else {
        (plan::plan(usage, options.max_unused, options.max_repack_bytes), Retained::default())
    };
    let unused_blobs = blobs - needed_blobs;
    Ok(Planned { survey, packs, orphans, lost, twice, needed_blobs, needed_bytes, unused_blobs, bytes_before, retained, is_versioned })
}

/// How a prune gets along with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Under the exclusive lock: it waits until nobody is at work, and nobody begins before it has ended.
    Alone,
    /// Beside backups; for stores that [refuse what is late](late::is_refused).
    Beside,
}

impl Way {
    /// The way that fits where it lies.
    ///
    /// # Errors
    /// Those of the store.
    pub fn of(repository: &Repository) -> Result<Self> {
        Ok(if late::is_refused(repository.store(), repository.clock().now())? { Self::Beside } else { Self::Alone })
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What was to be done.
    pub planned: Planned,
    /// What is gone.
    pub removed: Removed,
    /// What is useless, and stays until others have ended.
    pub waiting: Option<Waiting>,
}

/// Packs that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Packs that nothing needs, and why they are still there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Who is at work and began before, in words.
    pub holders: Vec<String>,
}

/// Prunes; waits up to `retry` for others.
///
/// # Errors
/// [`Error::Locked`]; those of [`look`] and of the store: what was done by then is whole, and the next one goes on. Damage, once
/// all else is done: the packs concerned stay, and so do those that hold other copies.
pub fn run(repository: &Arc<Repository>, options: &Options, way: Way, retry: Duration, watch: Watch<'_>) -> Result<Outcome> {
    match way {
        Way::Beside => beside::run(repository, options, retry, watch),
        Way::Alone => {
            let lock = Lock::acquire(repository, LockMode::Exclusive, retry)?;
            let planned = look(repository, options)?;
            (watch.on_planned)(&planned);
            alone::run(repository, &planned, options, watch.on_repacked)?;
            lock.release()?;
            let removed = planned.goes();
            Ok(Outcome { planned, removed, waiting: None })
        }
    }
}

/// Told of what is going on.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// What is to be done.
    pub on_planned: &'a (dyn Fn(&Planned) + Sync),
    /// Bytes that are stored again, as they come, from several threads.
    pub on_repacked: OnRepacked<'a>,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
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
