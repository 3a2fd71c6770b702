//! What is decided for every run: how it begins, how it ends, what is recorded. Pure, one step at a time.

mod attempt;

use std::time::Duration;

use contract::Line;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Run;
use super::objects::{Installation, Job};
use super::observe::RunSeen;
use super::pod::{MoverSaid, PodSeen};
use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::run::{Phase, Reason};
use crate::api::{RUN_FINALIZER, RunStatus, conditions};
use crate::cluster::GateView;

/// Between two looks at something that does not tell us.
const POLL: Duration = Duration::from_secs(2);
/// Between two looks at what somebody must give, while few wait: at first, and at last.
const ASK_AT_FIRST: SignedDuration = SignedDuration::from_secs(2);
const ASK_AT_LAST: SignedDuration = SignedDuration::from_secs(30);
/// Looks a second at all runs together that have not begun for want of it: many are looked at more seldom than that.
const ASKED_A_SECOND: u64 = 50;
/// What Velero puts on what it restores, as a label or an annotation.
const VELERO_RESTORE: &str = "velero.io/restore-name";

/// One change.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum Act {
    /// Nothing ends before what was made for it is gone.
    AddFinalizer,
    /// All is gone.
    RemoveFinalizer,
    /// The snapshot in the claim's namespace, or its copy in ours.
    CreateSnapshot(VolumeSnapshot),
    /// The storage's snapshot, for our namespace.
    CreateContent(VolumeSnapshotContent),
    /// Whether the storage's snapshot goes with its object.
    SetDeletionPolicy {
        /// The content.
        content: String,
        /// `Retain` or `Delete`.
        policy: &'static str,
    },
    /// Our own snapshot in the claim's namespace, once it is copied.
    DeleteSnapshot(VolumeSnapshot),
    /// Its content.
    DeleteContent(VolumeSnapshotContent),
    /// The claim that movers mount, or one that clones the claim that is backed up.
    CreateClaim(PersistentVolumeClaim),
    /// Where a claim is to be bound.
    SelectNode(PersistentVolumeClaim, String),
    /// The volume of our claim goes with it, whatever its class says.
    GiveUpVolume(PersistentVolume),
    /// A volume stays, whatever its class says: one that was not made for our claim, or a clone's until it is handed over.
    KeepVolume(PersistentVolume),
    /// The claim's end.
    DeleteClaim(PersistentVolumeClaim),
    /// What the mover must mount.
    CreateRequest(Secret),
    /// The mover. Refused, if the slot is taken.
    CreatePod(Pod),
    /// All requests of the run, and its pods: none can start any more, and those that have end.
    Fence,
    /// The filled volume, or the clone's, belongs to this claim from now on.
    Rebind(PersistentVolume, PersistentVolumeClaim),
}

impl Act {
    /// In a word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "AddFinalizer",
            Self::RemoveFinalizer => "RemoveFinalizer",
            Self::CreateSnapshot(_) => "CreateSnapshot",
            Self::CreateContent(_) => "CreateContent",
            Self::SetDeletionPolicy { .. } => "SetDeletionPolicy",
            Self::DeleteSnapshot(_) => "DeleteSnapshot",
            Self::DeleteContent(_) => "DeleteContent",
            Self::CreateClaim(_) => "CreateClaim",
            Self::SelectNode(..) => "SelectNode",
            Self::GiveUpVolume(_) => "GiveUpVolume",
            Self::KeepVolume(_) => "KeepVolume",
            Self::DeleteClaim(_) => "DeleteClaim",
            Self::CreateRequest(_) => "CreateRequest",
            Self::CreatePod(_) => "CreatePod",
            Self::Fence => "Fence",
            Self::Rebind(..) => "Rebind",
        }
    }
}

/// What comes of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<S> {
    /// Recorded first.
    pub status: S,
    /// Done then; another pass follows at once.
    pub act: Option<Act>,
    /// Without an act: the next pass, if nothing changes before.
    pub again: Option<Duration>,
}

/// An act, or when to look again.
pub type Step = (Option<Act>, Option<Duration>);

/// This change.
#[must_use]
pub fn act(act: Act) -> Step {
    (Some(act), None)
}

/// Nothing now.
#[must_use]
pub fn look_again(after: Duration) -> Step {
    (None, Some(after))
}

/// A step, or what a mover has done.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum Outcome {
    /// It goes on.
    Step(Step),
    /// Its summary; the caller decides what comes of it.
    Done(Line),
}

/// Where a pass begins.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum Start {
    /// Nothing else is to be done now.
    Step(Step),
    /// It is over: only what is left of it counts.
    CleanUp,
    /// It is to stop.
    Cancel,
    /// It goes on.
    Work,
}

/// What an attempt is made of.
#[derive(Debug)]
pub struct Plan {
    /// The claim that the mover mounts.
    pub claim: PersistentVolumeClaim,
    /// Whether it can be made again, with all that is in it.
    pub is_renewable: bool,
    /// Where its volume will be, as far as known before it is there.
    pub topology: Option<NodeSelector>,
    /// What the mover does.
    pub job: Job,
}

/// One pass over one run.
#[derive(Debug)]
pub struct Pass<'a> {
    /// What was seen.
    pub seen: &'a RunSeen,
    gate: &'a GateView,
    /// Where this is.
    pub installation: &'a Installation,
    now: Timestamp,
    /// Of the run.
    pub uid: String,
    is_deleted: bool,
    is_held: bool,
    is_resumable: bool,
    /// What will be recorded.
    pub status: RunStatus,
}

impl<'a> Pass<'a> {
    /// Over this run.
    pub fn new<K: Run>(run: &K, seen: &'a RunSeen, gate: &'a GateView, installation: &'a Installation, now: Timestamp) -> Self {
        let mut status = run.run_status().cloned().unwrap_or_default();
        status.observed_generation = run.meta().generation.unwrap_or_default();
        let is_held = run.meta().finalizers.iter().flatten().any(|finalizer| finalizer == RUN_FINALIZER);
        let is_deleted = run.meta().deletion_timestamp.is_some();
        Self {
            seen,
            gate,
            installation,
            now,
            uid: run.meta().uid.clone().unwrap_or_default(),
            is_deleted,
            is_held,
            is_resumable: run.is_resumable(),
            status,
        }
    }

    /// The same for all: objects that a restore brought back, ends, finalizers.
    pub fn start<K: Run>(&mut self, run: &K) -> Start {
        let has_mark =
            |map: &Option<std::collections::BTreeMap<String, String>>| map.as_ref().is_some_and(|map| map.contains_key(VELERO_RESTORE));
        if run.run_status().is_none() && (has_mark(&run.meta().labels) || has_mark(&run.meta().annotations)) {
            self.enter(Phase::Canceled, Reason::Skipped, "restored from a backup of itself: make a new one to run it again");
            self.status.cleaned = true;
            return Start::Step((None, None));
        }
        if self.is_deleted || self.status.phase.is_end() {
            return Start::CleanUp;
        }
        if !self.is_held {
            return Start::Step(act(Act::AddFinalizer));
        }
        self.status.started.get_or_insert(Time(self.now));
        self.status.phase_since.get_or_insert(Time(self.now));
        // Once asked for, it is the way, also when it is no longer asked for.
        if run.is_cancelled() || self.status.phase == Phase::Canceling { Start::Cancel } else { Start::Work }
    }

    /// Whether a mover before has begun to fill the claim that is there.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        let claim = self.seen.claim.as_ref().and_then(|claim| claim.metadata.uid.as_ref());
        claim.is_some() && claim == self.status.begun.as_ref().map(|begun| &begun.claim)
    }

    /// Brings the conditions in line: the last of a pass.
    #[must_use]
    pub fn finish(mut self) -> RunStatus {
        if let Some(volume) = &self.seen.volume {
            self.status.claim_volume.clone_from(&volume.metadata.name);
        }
        conditions::set(&mut self.status, self.now);
        self.status
    }

    // Ends.

    /// The mover did what it should; the attempt's own traces remain.
    pub fn complete(&mut self, message: &str) -> Step {
        self.status.progress = None;
        self.status.log_tail = None;
        self.end(Phase::Completed, Reason::Done, message);
        look_again(Duration::ZERO)
    }

    /// The end, for this reason.
    pub fn fail(&mut self, reason: Reason, message: &str) -> Step {
        self.end(Phase::Failed, reason, message);
        look_again(Duration::ZERO)
    }

    /// In phase Canceling, and into it. What is done is done: a mover that was faster wins.
    pub fn cancel(&mut self) -> Outcome {
        if self.status.phase != Phase::Canceling {
            self.enter(Phase::Canceling, Reason::CancelRequested, "it was asked to stop");
            return Outcome::Step(look_again(Duration::ZERO));
        }
        if let PodSeen::Ours { said: Some(MoverSaid::Done(line)), .. } = &self.seen.pod {
            return Outcome::Done((**line).clone());
        }
        if !self.seen.requests.is_empty() {
            return Outcome::Step(act(Act::Fence));
        }
        if self.seen.has_pods {
            return Outcome::Step(self.wait(Reason::CancelRequested, "waiting for the mover to end", POLL));
        }
        self.end(Phase::Canceled, Reason::CancelRequested, "it was asked to stop");
        Outcome::Step(look_again(Duration::ZERO))
    }

    /// Pod, claim, volume, and then what `rest` says: in this order, each gone before the next.
    pub fn clean_up(&mut self, rest: impl FnOnce() -> Option<Step>) -> Step {
        if self.status.cleaned {
            // Whoever removes the run waits for nothing, also when no controller is there any more.
            return if self.is_held { act(Act::RemoveFinalizer) } else { (None, None) };
        }
        if let Some(step) = self.end_movers().or_else(|| self.drop_claim()).or_else(rest) {
            return step;
        }
        self.status.cleaned = true;
        self.status.attempt = self.status.attempt.take().filter(|_| self.status.phase == Phase::Completed);
        look_again(Duration::ZERO)
    }

    /// No pod of the run can start, and none is left.
    #[must_use]
    pub fn end_movers(&self) -> Option<Step> {
        if !self.seen.requests.is_empty() {
            return Some(act(Act::Fence));
        }
        self.seen.has_pods.then(|| look_again(POLL))
    }

    /// Claim and volume, whatever their class says about keeping volumes: this one is ours.
    fn drop_claim(&self) -> Option<Step> {
        if let Some(volume) = &self.seen.foreign_volume
            && reclaim_policy(volume) != Some("Retain")
        {
            return Some(act(Act::KeepVolume(volume.clone())));
        }
        if let Some(volume) = &self.seen.volume
            && reclaim_policy(volume) != Some("Delete")
        {
            return Some(act(Act::GiveUpVolume(volume.clone())));
        }
        match &self.seen.claim {
            Some(claim) if claim.metadata.deletion_timestamp.is_none() => Some(act(Act::DeleteClaim(claim.clone()))),
            None if self.seen.volume.is_none() => None,
            Some(_) | None => Some(look_again(POLL)),
        }
    }

    // What is recorded.

    /// A phase and why. The same phase again keeps its time.
    pub fn enter(&mut self, phase: Phase, reason: Reason, message: &str) {
        if self.status.phase != phase {
            self.status.phase_since = Some(Time(self.now));
        }
        self.status.phase = phase;
        self.status.reason = Some(reason);
        message.clone_into(&mut self.status.message);
    }

    /// Stays where it is, and says why.
    pub fn wait(&mut self, reason: Reason, message: &str, again: Duration) -> Step {
        let phase = self.status.phase;
        self.enter(phase, reason, message);
        look_again(if self.status.is_asked_for() { again.max(asked_in_turn(self.gate)) } else { again })
    }

    /// For something that somebody must give, and that does not tell when it comes.
    pub fn wait_for_somebody(&mut self, reason: Reason, message: &str) -> Step {
        let again = self.patience();
        self.wait(reason, message, again)
    }

    /// For something under way that does not tell when it is done.
    pub fn wait_a_moment(&mut self, reason: Reason, message: &str) -> Step {
        self.wait(reason, message, POLL)
    }

    /// The longer it lasts, and the more wait beside it, the more seldom it is asked for.
    fn patience(&self) -> Duration {
        (self.phase_age() / 8).clamp(ASK_AT_FIRST, ASK_AT_LAST).unsigned_abs().max(asked_in_turn(self.gate))
    }

    /// Whether the phase lasts that many seconds.
    #[must_use]
    pub fn phase_lasts(&self, seconds: u32) -> bool {
        self.phase_age() >= SignedDuration::from_secs(i64::from(seconds))
    }

    fn phase_age(&self) -> SignedDuration {
        let since = self.status.phase_since.as_ref().map_or(self.now, |since| since.0);
        self.now.duration_since(since)
    }

    fn end(&mut self, phase: Phase, reason: Reason, message: &str) {
        self.enter(phase, reason, message);
        self.status.completed = Some(Time(self.now));
    }
}

/// How often each of those is looked at that wait for something that somebody must give.
#[must_use]
pub fn asked_in_turn(gate: &GateView) -> Duration {
    Duration::from_secs(gate.stalled as u64 / ASKED_A_SECOND)
}

/// Whether a claim has its volume, and the other way round.
#[must_use]
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// What becomes of a volume without its claim.
#[must_use]
pub fn reclaim_policy(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.persistent_volume_reclaim_policy.as_deref()
}

/// Something that is going, and does not tell when it is gone.
#[must_use]
pub fn going() -> Step {
    look_again(POLL)
}
