//! While others are at work: what is to go is condemned first, and goes under a fence, when nobody can rely on it any more.
//!
//! ```text
//! shared lock: look ─► what stays in place of copies is read ─► what is useless is condemned
//!              ─► packed again ─► condemned, too ─► lock away
//! fence:       who does not honour a list? ─► lists, new snapshots, new index files ─► what nothing needs of the lists:
//!              index files without it ─► old ones go ─► packs ─► lists ─► fence away
//! ```
//! One look serves one fence: what a fence took out of the index is still in the look's.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::copies::{Kept, keep_copies};
use super::repack::repack;
use super::{Options, Outcome, Planned, Removed, Waiting, Watch, batches, look_avoiding};
use crate::condemned::Condemned;
use crate::error::{Error, Result};
use crate::format::lock::LockMode;
use crate::id::{ObjectId, PackId};
use crate::index::Usage;
use crate::index::rewrite::{remove, rewrite};
use crate::lock::{AtWork, Lock, at_work, may_raise_fence};
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;
use crate::store::StoreErrorKind;
use crate::survey::Survey;

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
/// So long is tried without being asked to: somebody who begins is about to say which lists it honours.
const SHORT_WAIT: Duration = Duration::from_secs(10);
/// Records of interrupted backups that nobody came back for.
const OLD_RECORD: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// What interrupted backups have stored is left alone for so long.
const KEPT_FOR_RECORDS: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn run(repository: &Arc<Repository>, options: &Options, retry: Duration, watch: Watch<'_>) -> Result<Outcome> {
    let mut so_far = SoFar::default();
    let (mut first, mut out_of_date) = (None, 0);
    for _ in 0..FENCES {
        let (mut planned, ended) = attempt(repository, options, retry, watch, &mut so_far)?;
        // What was looked at is of no use any more, and takes memory.
        planned.survey = Survey::default();
        let planned = first.take().unwrap_or(planned);
        match ended {
            Ended::Done(waiting) => {
                let SoFar { removed, failure, .. } = so_far;
                return failure.map_or(Ok(Outcome { planned, removed, waiting }), Err);
            }
            Ended::Again => {}
            Ended::OutOfDate if out_of_date < TRIES => out_of_date += 1,
            Ended::OutOfDate => return Err(Error::Refused("others wrote the index again and again meanwhile: prune later".to_owned())),
        }
        first = Some(planned);
    }
    Err(Error::Refused(format!("{FENCES} times there was no time to remove all of it: prune again")))
}

/// What the attempts have in common.
#[derive(Debug, Default)]
struct SoFar {
    removed: Removed,
    /// What could not be done; all else is.
    failure: Option<Error>,
    /// Until when others are waited for, by the machine's time since boot; from when they were first met.
    deadline: Option<Duration>,
}

/// How a look and its fence ended.
enum Ended {
    /// All is done that can be; what is left waits for somebody.
    Done(Option<Waiting>),
    /// There is more to do, with a new look.
    Again,
    /// Somebody else has pruned in between.
    OutOfDate,
}

fn attempt(
    repository: &Arc<Repository>,
    options: &Options,
    retry: Duration,
    watch: Watch<'_>,
    so_far: &mut SoFar,
) -> Result<(Planned, Ended)> {
    let lock = Lock::acquire(repository, LockMode::Shared, retry)?;
    let mut avoid = Condemned::read(repository)?.packs();
    let mut planned = look_avoiding(repository, options, &avoid)?;
    (watch.on_planned)(&planned);
    repository.remove_resumes_older_than(OLD_RECORD)?;
    let Kept { packs: mut kept, mut damage } = keep_copies(repository, &planned.survey.index, &going(&planned, &avoid), options)?;
    // Also where an earlier list names it.
    kept.extend(&planned.retained.packs);
    let mut condemn = |packs: &mut dyn Iterator<Item = PackId>| {
        let new: Vec<PackId> = packs.filter(|pack| !kept.contains(pack) && avoid.insert(*pack)).collect();
        Condemned::write(repository, &new)
    };
    let useless = planned.packs.remove.iter().map(|usage| usage.pack.id).chain(planned.orphans.iter().map(|(id, _)| *id));
    let (useless, young) = without_young(repository, options, useless.collect())?;
    condemn(&mut useless.into_iter())?;
    let again: Vec<Usage> = planned.packs.repack.iter().filter(|usage| !kept.contains(&usage.pack.id)).copied().collect();
    let (mut done, mut repacked) = (HashSet::new(), Ok(()));
    for batch in batches(&again, options, |usage| usage.needed_blobs) {
        match repack(repository, &planned.survey.index, batch, options, watch.on_repacked, &mut damage) {
            Ok(packs) => done.extend(packs),
            // What is useless goes all the same: for want of room, for instance.
            Err(error) => {
                repacked = Err(error);
                break;
            }
        }
    }
    // Of what was packed again, all lies elsewhere now, and was hashed on its way.
    let all = planned.packs.remove.iter().chain(&planned.packs.repack).chain(&planned.packs.keep);
    let mut read: HashMap<PackId, u32> = all.map(|usage| (usage.pack.id, usage.copies)).collect();
    again.iter().filter(|usage| done.contains(&usage.pack.id)).for_each(|usage| {
        read.insert(usage.pack.id, usage.copies + usage.needed_blobs);
    });
    condemn(&mut done.into_iter())?;
    // Under the lock nothing goes; what was packed again is seen where it is now.
    let is_up_to_date = planned.survey.catch_up(repository, &options.shares, &avoid)?;
    lock.release()?;
    if !is_up_to_date {
        return Ok((planned, Ended::OutOfDate));
    }
    so_far.failure = so_far.failure.take().or(repacked.err()).or(damage);
    let is_untidy = planned.is_index_untidy();
    let survey = &mut planned.survey;
    let mut ended = Removal { repository, options, retry, survey, avoid: &avoid, kept: &kept, read: &read, is_untidy, so_far }.run()?;
    if let (Ended::Done(waiting), Some(young)) = (&mut ended, young.waiting(&planned.survey)) {
        let waiting = waiting.get_or_insert_with(Waiting::default);
        waiting.packs += young.packs;
        waiting.bytes += young.bytes;
        waiting.holders.extend(young.holders);
        waiting.holders.sort_unstable();
        waiting.holders.dedup();
    }
    Ok((planned, ended))
}

/// Packs that are to go, and hold copies of what is needed.
fn going(planned: &Planned, avoid: &HashSet<PackId>) -> Vec<Usage> {
    let mut going: Vec<Usage> = planned.packs.with_copies().copied().collect();
    going.extend(planned.packs.keep.iter().filter(|usage| usage.copies > 0 && avoid.contains(&usage.pack.id)));
    going
}

/// Packs that are left alone, because somebody may be about to use them.
struct Young {
    packs: HashSet<PackId>,
    holders: Vec<String>,
}

impl Young {
    /// Those that an index file names and nothing needs; others are just being written.
    fn waiting(self, survey: &Survey) -> Option<Waiting> {
        if self.packs.is_empty() {
            return None;
        }
        let useless = survey.usage_of(&self.packs).into_values().filter(|usage| usage.needed_blobs == 0);
        let sizes: Vec<u64> = useless.filter_map(|usage| survey.stored.get(&usage.pack.id)).copied().collect();
        let (packs, bytes) = (sizes.len() as u64, sizes.iter().sum());
        (packs > 0).then_some(Waiting { packs, bytes, holders: self.holders })
    }
}

/// Without what those of ours may be about to use who are at work, or were interrupted: it would only keep others from sharing it, or
/// take from them what they have done.
fn without_young(repository: &Repository, options: &Options, mut packs: Vec<PackId>) -> Result<(Vec<PackId>, Young)> {
    let AtWork { oldest, mut holders } = at_work(repository)?;
    let mut spared = oldest;
    if !repository.store().names(ObjectKind::Resume)?.is_empty() {
        spared = spared.max(Some(KEPT_FOR_RECORDS));
        holders.push("an interrupted backup, for a day".to_owned());
    }
    let young = Mutex::new(HashSet::new());
    if let Some(spared) = spared {
        let look = |(): &mut (), pack: &PackId| {
            match repository.store().stat(&ObjectName::pack(*pack)) {
                Ok(stat) if stat.age <= spared => drop(young.lock().expect("no holder panics").insert(*pack)),
                Err(error) if error.kind != StoreErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            Ok(())
        };
        parallel::each(options.shares.uploads, &packs, || (), look)?;
    }
    let young = young.into_inner().expect("no holder panics");
    packs.retain(|pack| !young.contains(pack));
    Ok((packs, Young { packs: young, holders }))
}

/// The second part: what is condemned goes.
struct Removal<'a> {
    repository: &'a Arc<Repository>,
    options: &'a Options,
    retry: Duration,
    survey: &'a mut Survey,
    /// All that lists name.
    avoid: &'a HashSet<PackId>,
    /// They stay for the copies in them.
    kept: &'a HashSet<PackId>,
    /// Of how many blobs of each pack the copy elsewhere was read.
    read: &'a HashMap<PackId, u32>,
    /// The index is to be written again for its own sake.
    is_untidy: bool,
    so_far: &'a mut SoFar,
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

impl Removal<'_> {
    /// Raises a fence as soon as it may, and removes what it may.
    fn run(mut self) -> Result<Ended> {
        let (repository, clock) = (self.repository, self.repository.clock());
        let mut is_told = false;
        loop {
            let listed = Condemned::ids(repository)?;
            if listed.is_empty() && !self.is_untidy {
                return Ok(Ended::Done(None));
            }
            match Lock::raise_fence(repository, &listed) {
                Ok((fence, honoured)) => {
                    let fenced = self.under(&fence, &honoured);
                    let released = fence.release();
                    let fenced = fenced?;
                    released?;
                    return match fenced {
                        Fenced::Done => self.left(),
                        Fenced::TimeUp => Ok(Ended::Again),
                        Fenced::OutOfDate => Ok(Ended::OutOfDate),
                    };
                }
                // A tidy index is worth no waiting.
                Err(Error::Locked { .. }) if listed.is_empty() => return Ok(Ended::Done(None)),
                Err(Error::Locked { holders, .. }) if self.time_left() < RETRY_EVERY => {
                    return Ok(Ended::Done(Some(self.waiting(holders))));
                }
                Err(error @ Error::Locked { .. }) => {
                    if !std::mem::replace(&mut is_told, true) {
                        repository.waits(&error, self.time_left());
                    }
                    if !clock.sleep(RETRY_EVERY, repository.stop()) {
                        return Err(Error::Stopped);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// For how long others are still waited for.
    fn time_left(&mut self) -> Duration {
        let now = self.repository.clock().since_boot();
        self.so_far.deadline.get_or_insert(now + self.retry.max(SHORT_WAIT)).saturating_sub(now)
    }

    /// Lists may be left that somebody did not honour, or of which not all was read.
    fn left(&mut self) -> Result<Ended> {
        let listed = Condemned::ids(self.repository)?;
        if listed.is_empty() {
            return Ok(Ended::Done(None));
        }
        match may_raise_fence(self.repository, &listed) {
            Err(Error::Locked { holders, .. }) if self.time_left() < RETRY_EVERY => Ok(Ended::Done(Some(self.waiting(holders)))),
            Ok(()) | Err(Error::Locked { .. }) => Ok(Ended::Again),
            Err(error) => Err(error),
        }
    }

    fn waiting(&self, holders: Vec<String>) -> Waiting {
        let packs = self.survey.unmarked(self.avoid);
        let sizes: Vec<u64> = packs.difference(self.kept).filter_map(|pack| self.survey.stored.get(pack)).copied().collect();
        Waiting { packs: sizes.len() as u64, bytes: sizes.iter().sum(), holders }
    }

    fn under(&mut self, fence: &Lock, honoured: &HashSet<ObjectId>) -> Result<Fenced> {
        let Self { repository, options, survey, kept, read, is_untidy, so_far, .. } = self;
        // Only now: whoever had a fence before may have taken lists away.
        let all = Condemned::read(repository)?;
        let avoid = all.packs();
        let lists = all.only(honoured);
        if !survey.catch_up(repository, &options.shares, &avoid)? {
            return Ok(Fenced::OutOfDate);
        }
        if fence.age() > FENCE_TIME {
            return Ok(Fenced::TimeUp);
        }
        let listed = lists.packs();
        let usage = survey.usage_of(&listed);
        // Something new may need a copy that nobody has read, in place of one here: the next look reads it.
        let is_read = |usage: &Usage| usage.copies <= read.get(&usage.pack.id).copied().unwrap_or(0);
        let is_dead = |pack: &PackId| usage.get(pack).is_none_or(|usage| usage.needed_blobs == 0 && is_read(usage)) && !kept.contains(pack);
        let dead: HashSet<PackId> = listed.iter().filter(|pack| is_dead(pack)).copied().collect();
        if *is_untidy || dead.iter().any(|pack| usage.contains_key(pack)) {
            rewrite(repository, repository.store().names(ObjectKind::Index)?, |pack| !dead.contains(&pack.id))?;
        }
        let there: Vec<PackId> = dead.into_iter().filter(|pack| survey.stored.contains_key(pack)).collect();
        let threads = options.shares.uploads;
        for some in there.chunks(threads.max(1) * REMOVED_BETWEEN_LOOKS) {
            if fence.age() > FENCE_TIME {
                return Ok(Fenced::TimeUp);
            }
            remove(repository, threads, some)?;
            let bytes = some.iter().filter_map(|pack| survey.stored.remove(pack));
            so_far.removed.bytes += bytes.sum::<u64>();
            so_far.removed.packs += some.len() as u64;
        }
        if usage.values().all(|usage| usage.needed_blobs > 0 || is_read(usage)) {
            lists.remove(repository)?;
        }
        Ok(Fenced::Done)
    }
}
