//! While others are at work: what is to go is condemned first, and goes under a fence, when nobody can rely on it any more.
//!
//! ```text
//! shared lock: look ─► what stays in place of copies is read ─► what is useless is condemned
//!              ─► packed again ─► condemned, too ─► lock away
//! fence:       who does not honour a list? ─► lists, new snapshots, new index files ─► what nothing needs of the lists:
//!              index files without it ─► old ones go ─► packs ─► lists ─► fence away
//! ```

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::copies::{Kept, keep_copies};
use super::repack::repack;
use super::survey::Survey;
use super::{Options, Outcome, Planned, Removed, Waiting, Watch, batches, look_avoiding};
use crate::condemned::Condemned;
use crate::error::{Error, Result};
use crate::format::lock::LockMode;
use crate::id::{ObjectId, PackId};
use crate::index::Usage;
use crate::index::rewrite::{remove, rewrite};
use crate::lock::{Lock, oldest_other};
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;
use crate::store::StoreErrorKind;

/// How often it is begun anew, because somebody else wrote index files again meanwhile.
const TRIES: usize = 3;
/// How often a fence is raised: one does not remove more than it can in its time.
const FENCES: usize = 100;
/// Under a fence nothing is begun later than this after it was written; the guard ends all at ten minutes.
const FENCE_TIME: Duration = Duration::from_secs(8 * 60);
/// Packs that each thread removes before the time is looked at.
const REMOVED_BETWEEN_LOOKS: usize = 16;
/// Between two tries to raise a fence.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Records of interrupted backups that nobody came back for.
const OLD_RECORD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) fn run(repository: &Arc<Repository>, options: &Options, retry: Duration, watch: Watch<'_>) -> Result<Outcome> {
    for _ in 0..TRIES {
        if let Some(outcome) = attempt(repository, options, retry, watch)? {
            return Ok(outcome);
        }
    }
    Err(Error::Refused("others wrote the index again and again meanwhile: prune later".to_owned()))
}

/// `None`: somebody else has pruned in between.
fn attempt(repository: &Arc<Repository>, options: &Options, retry: Duration, watch: Watch<'_>) -> Result<Option<Outcome>> {
    let lock = Lock::acquire(repository, LockMode::Shared, retry)?;
    let listed = Condemned::read(repository)?;
    let mut avoid = listed.packs();
    let mut planned = look_avoiding(repository, options, &avoid)?;
    (watch.on_planned)(&planned);
    repository.remove_resumes_older_than(OLD_RECORD)?;
    let Kept { packs: kept, mut damage } = keep_copies(repository, &planned.survey.index, &going(&planned, &avoid), options)?;
    let mut condemn = |packs: Vec<PackId>| {
        let new: Vec<PackId> = packs.into_iter().filter(|pack| !kept.contains(pack) && avoid.insert(*pack)).collect();
        Condemned::write(repository, &new)
    };
    let useless = planned.packs.remove.iter().map(|usage| usage.pack.id).chain(planned.orphans.iter().map(|(id, _)| *id));
    condemn(without_young(repository, options, useless.collect())?)?;
    let again: Vec<Usage> = planned.packs.repack.iter().filter(|usage| !kept.contains(&usage.pack.id)).copied().collect();
    let mut repacked = Ok(());
    for batch in batches(&again, options, |usage| usage.needed_blobs) {
        // What is useless goes all the same: for want of room, for instance.
        repacked = repack(repository, &planned.survey.index, batch, options, watch.on_repacked, &mut damage)
            .and_then(|done| condemn(done).map(drop));
        if repacked.is_err() {
            break;
        }
    }
    lock.release()?;
    let is_untidy = planned.is_index_untidy();
    let survey = &mut planned.survey;
    let mut removal = Removal { repository, options, survey, kept: &kept, is_untidy, removed: Removed::default() };
    let (ended, removed) = (removal.run(retry)?, removal.removed);
    repacked?;
    damage.map_or(Ok(()), Err)?;
    let waiting = match ended {
        Ended::OutOfDate => return Ok(None),
        Ended::Waiting(waiting) => Some(waiting),
        Ended::Done => None,
    };
    Ok(Some(Outcome { planned, removed, waiting }))
}

/// Packs that are to go, and hold copies of what is needed.
fn going(planned: &Planned, avoid: &HashSet<PackId>) -> Vec<Usage> {
    let mut going: Vec<Usage> = planned.packs.with_copies().copied().collect();
    going.extend(planned.packs.keep.iter().filter(|usage| usage.copies > 0 && avoid.contains(&usage.pack.id)));
    going
}

/// Without what those of ours may be about to use who are at work: it would only keep others from sharing it.
fn without_young(repository: &Repository, options: &Options, mut packs: Vec<PackId>) -> Result<Vec<PackId>> {
    let Some(working_for) = oldest_other(repository)? else { return Ok(packs) };
    let young = Mutex::new(HashSet::new());
    parallel::each(
        options.shares.uploads,
        &packs,
        || (),
        |(), pack| {
            match repository.store().stat(&ObjectName::pack(*pack)) {
                Ok(stat) if stat.age <= working_for => drop(young.lock().expect("no holder panics").insert(*pack)),
                Err(error) if error.kind != StoreErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            Ok(())
        },
    )?;
    let young = young.into_inner().expect("no holder panics");
    packs.retain(|pack| !young.contains(pack));
    Ok(packs)
}

/// The second part: what is condemned goes.
struct Removal<'a> {
    repository: &'a Arc<Repository>,
    options: &'a Options,
    survey: &'a mut Survey,
    /// They stay for the copies in them.
    kept: &'a HashSet<PackId>,
    /// The index is to be written again for its own sake.
    is_untidy: bool,
    removed: Removed,
}

/// What comes of a fence.
enum Fenced {
    /// All that it could is done.
    Done,
    /// Its time was up.
    TimeUp,
    /// The survey is out of date.
    OutOfDate,
}

/// How it ended.
enum Ended {
    /// Nothing is left.
    Done,
    /// Lists are left that somebody does not honour.
    Waiting(Waiting),
    /// The survey is out of date.
    OutOfDate,
}

impl Removal<'_> {
    /// Fence after fence, until no list is left or somebody does not honour one.
    fn run(&mut self, retry: Duration) -> Result<Ended> {
        let (repository, clock) = (self.repository, self.repository.clock());
        let start = clock.since_boot();
        let mut is_told = false;
        for _ in 0..FENCES {
            let listed = Condemned::read(repository)?;
            if listed.is_empty() && !self.is_untidy {
                return Ok(Ended::Done);
            }
            match Lock::raise_fence(repository, &listed.ids().collect()) {
                Ok((fence, honoured)) => {
                    let fenced = self.under(&fence, &honoured);
                    let released = fence.release();
                    match fenced? {
                        Fenced::Done | Fenced::TimeUp => released?,
                        Fenced::OutOfDate => return released.map(|()| Ended::OutOfDate),
                    }
                }
                // A tidy index is worth no waiting.
                Err(Error::Locked { .. }) if listed.is_empty() => return Ok(Ended::Done),
                Err(Error::Locked { holders, .. }) if clock.since_boot() + RETRY_EVERY > start + retry => {
                    // What was packed again is known to be so.
                    let listed = listed.packs();
                    self.survey.catch_up(repository, self.options, &listed)?;
                    let packs = self.survey.unmarked(&listed);
                    let sizes: Vec<u64> = packs.iter().filter_map(|pack| self.survey.stored.get(pack)).copied().collect();
                    return Ok(Ended::Waiting(Waiting { packs: sizes.len() as u64, bytes: sizes.iter().sum(), holders }));
                }
                Err(error @ Error::Locked { .. }) => {
                    if !std::mem::replace(&mut is_told, true) {
                        repository.waits(&error, retry);
                    }
                    if !clock.sleep(RETRY_EVERY, repository.stop()) {
                        return Err(Error::Stopped);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Ended::OutOfDate)
    }

    fn under(&mut self, fence: &Lock, honoured: &HashSet<ObjectId>) -> Result<Fenced> {
        let Self { repository, options, survey, kept, is_untidy, removed } = self;
        // Only now: whoever had a fence before may have taken lists away.
        let all = Condemned::read(repository)?;
        let avoid = all.packs();
        let lists = all.only(honoured);
        if !survey.catch_up(repository, options, &avoid)? {
            return Ok(Fenced::OutOfDate);
        }
        let dead: HashSet<PackId> = survey.unmarked(&lists.packs()).difference(kept).copied().collect();
        if !dead.is_empty() || *is_untidy {
            let names = repository.store().names(ObjectKind::Index)?;
            let rewritten = rewrite(repository, names, |pack| !dead.contains(&pack.id))?;
            survey.index.was_rewritten(&rewritten);
            *is_untidy = false;
        }
        let there: Vec<PackId> = dead.into_iter().filter(|pack| survey.stored.contains_key(pack)).collect();
        let threads = options.shares.uploads;
        for some in there.chunks(threads.max(1) * REMOVED_BETWEEN_LOOKS) {
            if fence.age() > FENCE_TIME {
                return Ok(Fenced::TimeUp);
            }
            remove(repository, threads, some)?;
            let bytes = some.iter().filter_map(|pack| survey.stored.remove(pack));
            removed.bytes += bytes.sum::<u64>();
            removed.packs += some.len() as u64;
        }
        lists.remove(repository)?;
        Ok(Fenced::Done)
    }
}
