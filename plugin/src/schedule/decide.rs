//! From a schedule, the claims and the runs that are there to what to do: pure. No client required.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::SelectorExt;
use kube::{Resource, ResourceExt};

use super::times::{Times, hash};
use crate::api::backup_schedule::{BackupScheduleStatus, ClaimSeen};
use crate::api::run::Phase;
use crate::api::volume_backup::{Source, Urgency};
use crate::api::{BackupSchedule, RUN_LABEL, VolumeBackup, VolumeBackupSpec};
use crate::run::decide::is_bound;

/// Label of the runs of a schedule: its uid.
pub const SCHEDULE_LABEL: &str = "estiba.dev/schedule";
/// Claims come and go, and nobody tells.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// So much of each name is in a run's name.
const MAX_NAME_PART: usize = 80;

/// What comes of a look at a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Runs that are over, and too many: they make room first.
    pub delete: Vec<VolumeBackup>,
    /// Runs to be made then.
    pub create: Vec<VolumeBackup>,
    /// Recorded last.
    pub status: BackupScheduleStatus,
    /// When to look again.
    pub again: Duration,
}

/// What is to be done about a schedule, now. `runs` are those that it made.
#[must_use]
pub fn decide(schedule: &BackupSchedule, claims: &[PersistentVolumeClaim], runs: &[VolumeBackup], now: Timestamp) -> Decision {
    let spec = &schedule.spec;
    let mut status = schedule.status.clone().unwrap_or_default();
    status.observed_generation = schedule.metadata.generation.unwrap_or_default();
    let times = Times::parse(&spec.schedule, &spec.time_zone, &schedule.uid().unwrap_or_default());
    let selector = kube::core::Selector::try_from(spec.claims.clone()).map_err(|error| format!("spec.claims cannot be read: {error}"));
    let (times, selector) = match times.and_then(|times| Ok((times, selector?))) {
        Ok(both) => both,
        Err(why) => {
            (status.message, status.next) = (why, None);
            set_conditions(&mut status, false, now);
            return Decision { create: Vec::new(), status, delete: Vec::new(), again: LOOK_AGAIN.unsigned_abs() };
        }
    };
    let is_triggered = spec.trigger.is_some() && spec.trigger != status.trigger;
    if is_triggered {
        status.trigger.clone_from(&spec.trigger);
        status.triggered = Some(Time(now));
    }
    // A clone that stands beside its claim for a while is nobody's data.
    let is_theirs = |claim: &&PersistentVolumeClaim| !claim.labels().contains_key(RUN_LABEL);
    let meant = claims.iter().filter(|claim| selector.matches(claim.labels())).filter(|claim| is_bound(claim)).filter(is_theirs);
    let before: BTreeMap<String, ClaimSeen> =
        std::mem::take(&mut status.claims).into_iter().map(|seen| (seen.claim.clone(), seen)).collect();
    // Looked up once: a claim's own times are these, later by what is its own.
    let times = times.between(now - SignedDuration::from_secs(i64::from(spec.jitter_seconds)), now);
    let pass = Pass { schedule, runs, times: &times, is_triggered, now };
    let (mut create, mut again) = (Vec::new(), LOOK_AGAIN);
    for claim in meant {
        let name = claim.name_any();
        let (seen, run, wait) = pass.claim(claim, before.get(&name).cloned().unwrap_or_default());
        create.extend(run);
        again = again.min(wait);
        status.claims.push(seen);
    }
    status.claims.sort_by(|a, b| a.claim.cmp(&b.claim));
    status.count = u32::try_from(status.claims.len()).unwrap_or(u32::MAX);
    let running = runs.iter().filter(|run| !is_over(run)).count() + create.len();
    status.running = u32::try_from(running).unwrap_or(u32::MAX);
    let (last, next) = pass.around(now);
    status.last = last.filter(|last| pass.since() <= *last).map(Time);
    status.next = next.filter(|_| !spec.suspend).map(Time);
    status.message = match (spec.suspend, status.count) {
        (true, _) => "it is suspended".to_owned(),
        (false, 0) => "no claim fits that has a volume".to_owned(),
        (false, _) => String::new(),
    };
    set_conditions(&mut status, true, now);
    Decision { create, status, delete: pass.too_many(), again: again.max(SignedDuration::from_secs(1)).unsigned_abs() }
}

struct Pass<'a> {
    schedule: &'a BackupSchedule,
    runs: &'a [VolumeBackup],
    /// Those that may be due, and the next one.
    times: &'a [Timestamp],
    is_triggered: bool,
    now: Timestamp,
}

impl Pass<'_> {
    /// Nothing was due before.
    fn since(&self) -> Timestamp {
        created(self.schedule)
    }

    /// The last time until then, and the first after it.
    fn around(&self, then: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        let after = self.times.partition_point(|time| *time <= then);
        (after.checked_sub(1).map(|last| self.times[last]), self.times.get(after).copied())
    }

    /// What is known of a claim now, the run to be made, and how long nothing else will be due for it.
    fn claim(&self, claim: &PersistentVolumeClaim, mut seen: ClaimSeen) -> (ClaimSeen, Option<VolumeBackup>, SignedDuration) {
        seen.claim = claim.name_any();
        let of_claim: Vec<&VolumeBackup> = self.runs.iter().filter(|run| run.spec.source.claim.as_ref() == Some(&seen.claim)).collect();
        let stored = of_claim.iter().filter_map(|run| stored(run)).max();
        seen.stored = stored.max(seen.stored.as_ref().map(|time| time.0)).map(Time);
        let is_busy = of_claim.iter().any(|run| !is_over(run));
        if self.is_triggered && !is_busy {
            let run = self.run(&seen.claim, self.now, Urgency::Manual);
            return (seen, Some(run), LOOK_AGAIN);
        }
        let offset = self.offset(&seen.claim);
        let (due, next) = self.around(self.now - offset);
        let done = seen.last.as_ref().map_or(self.since().max(created(claim)), |last| last.0);
        let next = next.map_or(LOOK_AGAIN, |next| (next + offset).duration_since(self.now));
        let Some(due) = due.filter(|due| *due > done) else { return (seen, None, next) };
        let before = seen.last.replace(Time(due));
        if self.schedule.spec.suspend || is_busy {
            return (seen, None, next);
        }
        // The time before this one brought nothing.
        let is_late = before.is_some_and(|before| seen.stored.as_ref().is_none_or(|stored| stored.0 < before.0));
        let run = self.run(&seen.claim, due, if is_late { Urgency::Overdue } else { Urgency::Scheduled });
        (seen, Some(run), next)
    }

    /// How much later than the schedule says: the claim's own, always the same.
    fn offset(&self, claim: &str) -> SignedDuration {
        let within = u64::from(self.schedule.spec.jitter_seconds) + 1;
        let seconds = hash(&format!("{}/{claim}", self.schedule.uid().unwrap_or_default())) % within;
        SignedDuration::from_secs(i64::try_from(seconds).unwrap_or_default())
    }

    fn run(&self, claim: &str, time: Timestamp, urgency: Urgency) -> VolumeBackup {
        let schedule = self.schedule;
        let part = |text: &str| text.chars().take(MAX_NAME_PART).collect::<String>().trim_end_matches(['.', '-']).to_owned();
        // Names that are cut may be the same, and what they stand for is not.
        let short = hash(&format!("{}/{claim}", schedule.name_any())) & 0xff_ffff;
        let name = format!("{}-{}-{}-{short:06x}", part(&schedule.name_any()), part(claim), time.strftime("%Y%m%d-%H%M%S"));
        let source = Source { claim: Some(claim.to_owned()), ..Source::default() };
        let spec = VolumeBackupSpec { repository: schedule.spec.repository.clone(), source, urgency, cancel: false };
        let mut run = VolumeBackup::new(&name, spec);
        run.metadata.namespace = schedule.namespace();
        run.labels_mut().insert(SCHEDULE_LABEL.to_owned(), schedule.uid().unwrap_or_default());
        run.metadata.owner_references = schedule.controller_owner_ref(&()).map(|owner| vec![owner]);
        run
    }

    /// The oldest of those that are over, of each claim, beyond what is kept. The newest that stored something stays always.
    fn too_many(&self) -> Vec<VolumeBackup> {
        let mut over: BTreeMap<(Option<&String>, bool), Vec<&VolumeBackup>> = BTreeMap::new();
        let cleaned = |run: &&VolumeBackup| run.status.as_ref().is_some_and(|status| status.run.cleaned);
        for run in self.runs.iter().filter(|run| is_over(run)).filter(cleaned) {
            over.entry((run.spec.source.claim.as_ref(), stored(run).is_some())).or_default().push(run);
        }
        let history = &self.schedule.spec.history;
        let mut delete = Vec::new();
        for ((_, is_stored), mut runs) in over {
            runs.sort_by_key(|run| std::cmp::Reverse(created(*run)));
            let keep = if is_stored { history.completed.max(1) } else { history.failed };
            delete.extend(runs.into_iter().skip(keep as usize).filter(|run| run.metadata.deletion_timestamp.is_none()).cloned());
        }
        delete
    }
}

fn created(object: &impl ResourceExt) -> Timestamp {
    object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn is_over(run: &VolumeBackup) -> bool {
    run.status.as_ref().is_some_and(|status| status.run.phase.is_end())
}

/// The point in time that a run has stored.
fn stored(run: &VolumeBackup) -> Option<Timestamp> {
    let status = run.status.as_ref().filter(|status| status.run.phase == Phase::Completed)?;
    Some(status.snapshot.as_ref()?.taken.as_ref()?.0)
}

fn set_conditions(status: &mut BackupScheduleStatus, is_good: bool, now: Timestamp) {
    let before = std::mem::take(&mut status.conditions);
    let wanted = [("Ready", is_good), ("Reconciling", false), ("Stalled", !is_good)];
    let reason = if is_good { "Scheduled" } else { "Unreadable" };
    status.conditions = crate::api::conditions::all(&before, &wanted, reason, status.observed_generation, now);
}
