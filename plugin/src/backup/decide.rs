//! From what was seen to what to do: pure, one step at a time. No client required.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::objects::{self, ClaimShape, Installation, PodParts, SELECTED_NODE};
use super::observe::{MoverSaid, PodSeen, Seen, SnapshotSeen};
use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::mover_policy::AccessMode;
use crate::api::volume_backup::{Attempt, BackupResult, Phase, Progress, Reason, VolumeBackupStatus, VolumeSnapshotSeen};
use crate::api::{RUN_FINALIZER, conditions};

/// Between two looks at a mover's progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at something that tells us when it changes, in case it did not.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks at something that does not tell us.
const POLL: Duration = Duration::from_secs(2);
/// After the first mover that failed; each further one doubles it, to the longest.
const FIRST_BACK_OFF: SignedDuration = SignedDuration::from_secs(5);
const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_mins(10);
/// What a status keeps of a log.
const MAX_LOG_TAIL: usize = 4096;
/// Labels a restore of Velero puts on what it restores.
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
    /// The backup claim.
    CreateClaim(PersistentVolumeClaim),
    /// Where the backup claim is to be bound.
    SelectNode(String),
    /// The backup claim, or its end.
    DeleteClaim(PersistentVolumeClaim),
    /// What the mover must mount.
    CreateRequest(Secret),
    /// The mover. Refused, if the slot is taken.
    CreatePod(Pod),
    /// All requests of the run: no pod of it can start any more.
    Fence,
}

/// What comes of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Recorded first.
    pub status: VolumeBackupStatus,
    /// Done then; another pass follows at once.
    pub act: Option<Act>,
    /// Without an act: the next pass, if nothing changes before.
    pub again: Option<Duration>,
}

/// What is to be done about a run, now.
#[must_use]
pub fn decide(seen: &Seen, installation: &Installation, now: Timestamp) -> Decision {
    let backup = &seen.backup;
    let mut pass =
        Pass { seen, installation, now, uid: backup.uid().unwrap_or_default(), status: backup.status.clone().unwrap_or_default() };
    pass.status.observed_generation = backup.metadata.generation.unwrap_or_default();
    let (act, again) = pass.step();
    conditions::set(&mut pass.status, now);
    Decision { status: pass.status, act, again }
}

type Step = (Option<Act>, Option<Duration>);

fn act(act: Act) -> Step {
    (Some(act), None)
}

fn look_again(after: Duration) -> Step {
    (None, Some(after))
}

struct Pass<'a> {
    seen: &'a Seen,
    installation: &'a Installation,
    now: Timestamp,
    uid: String,
    status: VolumeBackupStatus,
}

impl Pass<'_> {
    fn step(&mut self) -> Step {
        let backup = &self.seen.backup;
        let is_new = backup.status.is_none();
        if is_new && (backup.labels().contains_key(VELERO_RESTORE) || backup.annotations().contains_key(VELERO_RESTORE)) {
            self.enter(Phase::Canceled, Reason::Skipped, "restored from a backup of itself: make a new one to run it again");
            self.status.cleaned = true;
            return (None, None);
        }
        if backup.metadata.deletion_timestamp.is_some() || self.status.phase.is_end() {
            return self.clean_up();
        }
        if !backup.finalizers().iter().any(|finalizer| finalizer == RUN_FINALIZER) {
            return act(Act::AddFinalizer);
        }
        self.status.started.get_or_insert(Time(self.now));
        self.status.phase_since.get_or_insert(Time(self.now));
        if backup.spec.cancel {
            return self.cancel();
        }
        match self.status.phase {
            Phase::Pending | Phase::Accepted => self.expose(),
            Phase::Prepared => self.wait_for_slot(),
            Phase::DatamoverDeploying | Phase::InProgress => self.attempt(),
            // No longer asked for: the way is the same.
            Phase::Canceling => self.cancel(),
            Phase::Completed | Phase::Failed | Phase::Canceled => self.clean_up(),
        }
    }

    // From the claim to a snapshot that our namespace can use.

    fn expose(&mut self) -> Step {
        if let Some(missing) = self.seen.missing.clone() {
            return self.wait(missing.reason, &missing.message, POLL);
        }
        match &self.seen.copy {
            None => self.take_snapshot(),
            Some(content) => self.hand_over(content),
        }
    }

    fn take_snapshot(&mut self) -> Step {
        let backup = &self.seen.backup;
        let namespace = backup.namespace().unwrap_or_default();
        let Some(snapshot) = &self.seen.snapshot else {
            if self.status.phase == Phase::Accepted {
                return self.fail(Reason::SnapshotMissing, "the snapshot was removed before it could be used");
            }
            let (Some(claim), Some(class)) = (&backup.spec.source.claim, &self.seen.snapshot_class) else {
                return self.wait(Reason::SnapshotMissing, "the VolumeSnapshot is not there", POLL);
            };
            return act(Act::CreateSnapshot(objects::snapshot(&self.uid, &namespace, claim, class)));
        };
        if self.status.phase == Phase::Pending {
            self.enter(Phase::Accepted, Reason::SnapshotNotReady, "the snapshot is being taken");
        }
        let limit = u64::from(self.seen.policy.snapshot_timeout_seconds);
        let SnapshotSeen { object, content, error } = snapshot;
        let handle = content.as_ref().and_then(|content| content.status.as_ref()).and_then(|status| status.snapshot_handle.clone());
        let is_ready = object.status.as_ref().and_then(|status| status.ready_to_use) == Some(true);
        let (Some(content), Some(handle), true) = (content, handle, is_ready) else {
            let reason = if error.is_some() { Reason::SnapshotFailed } else { Reason::SnapshotNotReady };
            let message = error.clone().unwrap_or_else(|| "the snapshot is being taken".to_owned());
            if self.phase_lasts(limit) {
                return self.fail(reason, &format!("the snapshot could not be used within {limit} s: {message}"));
            }
            return self.wait(reason, &message, POLL);
        };
        let seen = object.status.clone().unwrap_or_default();
        self.status.snapshot = Some(VolumeSnapshotSeen {
            handle: handle.clone(),
            driver: content.spec.driver.clone(),
            taken: seen.creation_time,
            bytes: content.status.as_ref().and_then(|status| status.restore_size).unwrap_or_default().max(self.seen.volume.bytes),
            storage_class: self.seen.volume.storage_class.clone(),
            volume_mode: content.spec.source_volume_mode.clone().unwrap_or_else(|| self.seen.volume.mode.clone()),
            topology: self.seen.volume.topology.clone(),
            content: content.name_any(),
        });
        self.status.topology.clone_from(&self.seen.volume.topology);
        act(Act::CreateContent(objects::content_copy(&self.uid, self.installation, content, &handle)))
    }

    /// The copy first, then the original goes, and only then does the copy own the storage's snapshot: at each moment
    /// exactly one of them, or none, would delete it. A snapshot that somebody else made stays theirs.
    fn hand_over(&mut self, copy: &VolumeSnapshotContent) -> Step {
        let Some(copied) = &self.seen.copied_snapshot else {
            let class = copy.spec.volume_snapshot_class_name.as_deref();
            return act(Act::CreateSnapshot(objects::snapshot_copy(&self.uid, self.installation, class)));
        };
        let status = copied.status.clone().unwrap_or_default();
        let is_ready = status.ready_to_use == Some(true) && status.bound_volume_snapshot_content_name.is_some();
        if !is_ready {
            let limit = u64::from(self.seen.policy.snapshot_timeout_seconds);
            let message = status.error.and_then(|error| error.message).unwrap_or_else(|| "the snapshot's copy is not ready yet".to_owned());
            if self.phase_lasts(limit * 2) {
                return self.fail(Reason::SnapshotFailed, &message);
            }
            return self.wait(Reason::SnapshotNotReady, &message, POLL);
        }
        if self.seen.backup.spec.source.claim.is_some()
            && let Some(step) = self.take_over(copy)
        {
            return step;
        }
        self.enter(Phase::Prepared, Reason::WaitingForSlot, "waiting for a slot");
        self.wait_for_slot()
    }

    fn take_over(&self, copy: &VolumeSnapshotContent) -> Option<Step> {
        let snapshot = self.seen.snapshot.as_ref();
        if let Some(content) = snapshot.and_then(|snapshot| snapshot.content.as_ref())
            && content.spec.deletion_policy != "Retain"
        {
            return Some(act(Act::SetDeletionPolicy { content: content.name_any(), policy: "Retain" }));
        }
        if let Some(snapshot) = snapshot {
            if snapshot.object.metadata.deletion_timestamp.is_none() {
                return Some(act(Act::DeleteSnapshot(snapshot.object.clone())));
            }
            return Some(look_again(POLL));
        }
        if let Some(content) = &self.seen.original_content {
            if content.metadata.deletion_timestamp.is_none() {
                return Some(act(Act::DeleteContent(content.clone())));
            }
            return Some(look_again(POLL));
        }
        (copy.spec.deletion_policy != "Delete").then(|| act(Act::SetDeletionPolicy { content: copy.name_any(), policy: "Delete" }))
    }

    // From the slot to the result.

    fn wait_for_slot(&mut self) -> Step {
        if self.seen.copied_snapshot.is_none() {
            return self.fail(Reason::SnapshotMissing, "the snapshot was removed while it waited for a slot");
        }
        if let Some(after) = &self.status.retry_after
            && after.0 > self.now
        {
            let wait = after.0.duration_since(self.now);
            let message = format!("a mover failed; the next one starts in {}", shown(wait));
            return self.wait(Reason::Retrying, &message, Duration::try_from(wait).unwrap_or(POLL).min(LOOK_AGAIN));
        }
        // No attempt before the one before can no longer start, and is gone.
        if !self.seen.requests.is_empty() {
            return act(Act::Fence);
        }
        if self.seen.has_pods {
            return self.wait(Reason::Retrying, "waiting for the mover before to end", POLL);
        }
        if let Some(step) = self.follow_claim() {
            return step;
        }
        let gate = &self.seen.gate;
        if let Some(grant) = &gate.grant {
            self.status.attempts += 1;
            self.status.attempt = Some(Attempt { number: self.status.attempts, node: grant.node.clone(), slot: grant.slot });
            self.status.retry_after = None;
            self.enter(Phase::DatamoverDeploying, Reason::ClaimBinding, "a slot is its own; the claim is being bound");
            // Recorded before anything is done about it.
            return look_again(Duration::ZERO);
        }
        if gate.may_prepare && self.seen.claim.is_none() {
            return act(Act::CreateClaim(objects::claim(&self.uid, self.installation, &self.shape())));
        }
        let (reason, message) = match &gate.standing {
            Some(standing) if standing.has_node => {
                (Reason::WaitingForSlot, format!("place {} of {}: {}", standing.position, standing.of, standing.why))
            }
            Some(standing) => (Reason::NoNode, standing.why.clone()),
            None => (Reason::WaitingForSlot, "waiting for a slot".to_owned()),
        };
        self.wait(reason, &message, LOOK_AGAIN)
    }

    /// Where the claim is bound, the mover must go. Where no mover may go, a fresh claim may be bound elsewhere: all of it
    /// is in the snapshot.
    fn follow_claim(&mut self) -> Option<Step> {
        let of_source = self.status.snapshot.as_ref().and_then(|snapshot| snapshot.topology.clone());
        let Some(claim) = &self.seen.claim else {
            (self.status.topology, self.status.retry_after) = (of_source, None);
            return None;
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(look_again(POLL));
        }
        if self.seen.claim_topology.is_some() {
            self.status.topology.clone_from(&self.seen.claim_topology);
        }
        // After a mover that failed, too: its volume may hang on a node that is gone.
        let is_second = self.status.retry_after.is_some();
        let is_stranded = self.seen.gate.standing.as_ref().is_some_and(|standing| !standing.has_node) && self.status.topology != of_source;
        (is_second || is_stranded).then(|| act(Act::DeleteClaim(claim.clone())))
    }

    fn shape(&self) -> ClaimShape {
        let snapshot = self.status.snapshot.clone().unwrap_or_default();
        let rule = &self.seen.class_rule;
        ClaimShape {
            storage_class: rule.backup_storage_class.clone().or(snapshot.storage_class),
            access_mode: rule.access_mode.map_or("ReadWriteOnce", AccessMode::as_str).to_owned(),
            volume_mode: snapshot.volume_mode,
            bytes: snapshot.bytes,
        }
    }

    fn attempt(&mut self) -> Step {
        let Some(attempt) = self.status.attempt.clone() else {
            self.enter(Phase::Prepared, Reason::WaitingForSlot, "waiting for a slot");
            return self.wait_for_slot();
        };
        match &self.seen.pod {
            PodSeen::None => self.deploy(&attempt),
            // The slot was given twice, and somebody was faster.
            PodSeen::Another => self.give_back(&attempt),
            PodSeen::Ours { said, is_running, .. } => {
                if let Some(said) = said {
                    return self.settle(&attempt, said);
                }
                // Between the container that creates the repository and the one that moves, none runs.
                if *is_running || self.status.phase == Phase::InProgress {
                    if self.status.phase != Phase::InProgress {
                        self.enter(Phase::InProgress, Reason::Moving, "the mover is at work");
                    }
                    self.show_progress();
                    return look_again(PROGRESS_EVERY);
                }
                let limit = u64::from(self.seen.policy.start_timeout_seconds);
                if self.phase_lasts(limit) {
                    let why = self.seen.pod_problem.clone().unwrap_or_else(|| "kubelet gives no reason".to_owned());
                    return self.retry(Reason::PodStarting, &format!("the mover did not start within {limit} s: {why}"));
                }
                let message = self.seen.pod_problem.clone().unwrap_or_else(|| "the mover's pod is starting".to_owned());
                self.wait(Reason::PodStarting, &message, POLL)
            }
        }
    }

    /// The claim, bound on the node; the request; the pod: in this order, so that no pod waits.
    fn deploy(&mut self, attempt: &Attempt) -> Step {
        if self.status.phase == Phase::InProgress {
            return self.retry(Reason::Retrying, "the mover's pod is gone, and left no result");
        }
        // Whatever it is that does not come: others could use the slot.
        let limit = u64::from(self.seen.policy.start_timeout_seconds);
        if self.phase_lasts(limit) {
            let (reason, message) = (self.status.reason.unwrap_or(Reason::ClaimBinding), self.status.message.clone());
            return self.retry(reason, &format!("the mover could not be started on {} within {limit} s: {message}", attempt.node));
        }
        if let Some(missing) = self.seen.missing.clone() {
            return self.wait(missing.reason, &missing.message, POLL);
        }
        let Some(claim) = &self.seen.claim else {
            return act(Act::CreateClaim(objects::claim(&self.uid, self.installation, &self.shape())));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return look_again(POLL);
        }
        let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if !is_bound {
            let selected = claim.annotations().get(SELECTED_NODE);
            if self.seen.binds_late && selected.is_none() {
                return act(Act::SelectNode(attempt.node.clone()));
            }
            if self.seen.binds_late && selected != Some(&attempt.node) {
                // It may be half made elsewhere: a fresh one from the snapshot.
                return act(Act::DeleteClaim(claim.clone()));
            }
            let message = self.seen.claim_problem.clone().unwrap_or_else(|| format!("the backup claim is being bound on {}", attempt.node));
            return self.wait(Reason::ClaimBinding, &message, POLL);
        }
        if !self.seen.is_reached {
            self.status.topology.clone_from(&self.seen.claim_topology);
            return self.give_back(attempt);
        }
        let (Some(repository), Some(keys)) = (&self.seen.repository, &self.seen.keys) else {
            return look_again(POLL);
        };
        let request = match objects::request(&self.uid, attempt.number, self.installation, keys) {
            Ok(request) => request,
            Err(key) => return self.wait(Reason::SecretMissing, &format!("the Repository's Secret has no {key}"), POLL),
        };
        if self.seen.requests != [attempt.number] {
            return act(if self.seen.requests.is_empty() { Act::CreateRequest(request) } else { Act::Fence });
        }
        let snapshot = self.status.snapshot.clone().unwrap_or_default();
        let parts = PodParts {
            backup: &self.seen.backup,
            attempt,
            repository,
            request: &request,
            snapshot: &snapshot,
            volume_mode: &snapshot.volume_mode,
            policy: &self.seen.policy,
        };
        act(Act::CreatePod(objects::pod(self.installation, &parts)))
    }

    /// Not a failure: the slot was never really its own.
    fn give_back(&mut self, attempt: &Attempt) -> Step {
        let message = format!("slot {} of {} was taken; waiting for another", attempt.slot, attempt.node);
        self.status.attempt = None;
        self.enter(Phase::Prepared, Reason::WaitingForSlot, &message);
        act(Act::Fence)
    }

    fn show_progress(&mut self) {
        let Some(said) = &self.seen.progress else { return };
        let rate = said.bytes_per_second.max(0.0) as u64;
        let share = said.total_bytes.filter(|total| *total > 0).map(|total| said.bytes_done * 100 / total);
        let speed = format!("{:.1} MiB/s", said.bytes_per_second / f64::from(1 << 20));
        self.status.progress = Some(Progress {
            shown: share.map_or_else(|| speed.clone(), |share| format!("{share} %, {speed}")),
            eta: said.seconds_remaining.map(|seconds| shown(SignedDuration::from_secs(seconds.clamp(0.0, 1e9) as i64))),
            bytes_done: said.bytes_done,
            bytes_total: said.total_bytes,
            rate,
            at: Some(Time(self.now)),
        });
        "the mover is at work".clone_into(&mut self.status.message);
        self.status.reason = Some(Reason::Moving);
    }

    /// The mover ended, and kubelet says how.
    fn settle(&mut self, attempt: &Attempt, said: &MoverSaid) -> Step {
        match said {
            MoverSaid::Stored(summary) => {
                self.status.result = Some(BackupResult {
                    snapshot_id: summary.snapshot_id.clone().unwrap_or_default(),
                    bytes: summary.total_bytes,
                    bytes_stored: summary.bytes_stored,
                    unreadable: summary.errors,
                });
                let message = match summary.errors {
                    0 => "the data is in the repository".to_owned(),
                    count => format!("the data is in the repository, without {count} items that could not be read"),
                };
                self.status.progress = None;
                self.status.log_tail = None;
                self.end(Phase::Completed, Reason::Done, &message);
                look_again(Duration::ZERO)
            }
            MoverSaid::Failed { message, log_tail, is_final } => {
                self.status.log_tail = Some(tail(log_tail));
                if *is_final {
                    return self.fail(Reason::MoverFailed, message);
                }
                self.retry(Reason::MoverFailed, &format!("the mover on {} failed: {message}", attempt.node))
            }
            MoverSaid::Disrupted(message) => {
                // Nobody's fault: it does not count.
                self.status.failures = self.status.failures.saturating_sub(1);
                self.retry(Reason::Retrying, &format!("the mover on {} was ended from outside: {message}", attempt.node))
            }
        }
    }

    /// The attempt is over; another one follows, after a while that grows.
    fn retry(&mut self, reason: Reason, message: &str) -> Step {
        self.status.failures += 1;
        let retries = self.seen.policy.retries;
        if self.status.failures > retries {
            return self.fail(Reason::MoverFailed, &format!("{message} (after {} attempts)", self.status.attempts));
        }
        let back_off = FIRST_BACK_OFF * 2_i32.saturating_pow(self.status.failures.saturating_sub(1).min(10));
        self.status.retry_after = Some(Time(self.now + back_off.min(LONGEST_BACK_OFF)));
        self.status.attempt = None;
        self.status.progress = None;
        self.enter(Phase::Prepared, reason, message);
        act(Act::Fence)
    }

    // Ends.

    fn cancel(&mut self) -> Step {
        if self.status.phase != Phase::Canceling {
            self.enter(Phase::Canceling, Reason::CancelRequested, "it was asked to stop");
            return look_again(Duration::ZERO);
        }
        if let PodSeen::Ours { said: Some(MoverSaid::Stored(_)), .. } = &self.seen.pod
            && let Some(attempt) = self.status.attempt.clone()
            && let PodSeen::Ours { said: Some(said), .. } = &self.seen.pod
        {
            // It was faster: what is stored is stored.
            return self.settle(&attempt, said);
        }
        if !self.seen.requests.is_empty() {
            return act(Act::Fence);
        }
        if self.seen.has_pods {
            return self.wait(Reason::CancelRequested, "waiting for the mover to end", POLL);
        }
        self.end(Phase::Canceled, Reason::CancelRequested, "it was asked to stop");
        look_again(Duration::ZERO)
    }

    /// Pod, claim, volume, snapshot: in this order, each gone before the next.
    fn clean_up(&mut self) -> Step {
        let is_deleted = self.seen.backup.metadata.deletion_timestamp.is_some();
        if !self.status.cleaned {
            if !self.seen.requests.is_empty() {
                return act(Act::Fence);
            }
            if self.seen.has_pods {
                return look_again(POLL);
            }
            if let Some(claim) = &self.seen.claim {
                let is_going = claim.metadata.deletion_timestamp.is_some();
                return if is_going { look_again(POLL) } else { act(Act::DeleteClaim(claim.clone())) };
            }
            if self.seen.has_volume {
                return look_again(POLL);
            }
            if let Some(step) = self.remove_snapshots() {
                return step;
            }
            self.status.cleaned = true;
            self.status.attempt = self.status.attempt.take().filter(|_| self.status.phase == Phase::Completed);
            return look_again(Duration::ZERO);
        }
        let is_held = self.seen.backup.finalizers().iter().any(|finalizer| finalizer == RUN_FINALIZER);
        if is_deleted && is_held { act(Act::RemoveFinalizer) } else { (None, None) }
    }

    fn remove_snapshots(&self) -> Option<Step> {
        let is_ours = self.seen.backup.spec.source.claim.is_some();
        // Taken, but never handed over, or only half.
        if is_ours && let Some(snapshot) = &self.seen.snapshot {
            let content = snapshot.content.as_ref().filter(|content| content.spec.deletion_policy != "Delete");
            if let (Some(content), None) = (content, &self.seen.copy) {
                return Some(act(Act::SetDeletionPolicy { content: content.name_any(), policy: "Delete" }));
            }
            let is_going = snapshot.object.metadata.deletion_timestamp.is_some();
            return Some(if is_going { look_again(POLL) } else { act(Act::DeleteSnapshot(snapshot.object.clone())) });
        }
        if is_ours
            && let Some(content) = &self.seen.original_content
            && self.seen.copy.is_some()
        {
            let is_going = content.metadata.deletion_timestamp.is_some();
            return Some(if is_going { look_again(POLL) } else { act(Act::DeleteContent(content.clone())) });
        }
        if is_ours
            && let Some(copy) = &self.seen.copy
            && copy.spec.deletion_policy != "Delete"
        {
            return Some(act(Act::SetDeletionPolicy { content: copy.name_any(), policy: "Delete" }));
        }
        if let Some(copied) = &self.seen.copied_snapshot {
            let is_going = copied.metadata.deletion_timestamp.is_some();
            return Some(if is_going { look_again(POLL) } else { act(Act::DeleteSnapshot(copied.clone())) });
        }
        if let Some(copy) = &self.seen.copy {
            let is_going = copy.metadata.deletion_timestamp.is_some();
            return Some(if is_going { look_again(POLL) } else { act(Act::DeleteContent(copy.clone())) });
        }
        None
    }

    // What is recorded.

    fn enter(&mut self, phase: Phase, reason: Reason, message: &str) {
        if self.status.phase != phase {
            self.status.phase_since = Some(Time(self.now));
        }
        self.status.phase = phase;
        self.status.reason = Some(reason);
        message.clone_into(&mut self.status.message);
    }

    fn wait(&mut self, reason: Reason, message: &str, again: Duration) -> Step {
        let phase = self.status.phase;
        self.enter(phase, reason, message);
        look_again(again)
    }

    fn end(&mut self, phase: Phase, reason: Reason, message: &str) {
        self.enter(phase, reason, message);
        self.status.completed = Some(Time(self.now));
    }

    fn fail(&mut self, reason: Reason, message: &str) -> Step {
        self.end(Phase::Failed, reason, message);
        look_again(Duration::ZERO)
    }

    fn phase_lasts(&self, seconds: u64) -> bool {
        let since = self.status.phase_since.as_ref().map_or(self.now, |since| since.0);
        self.now.duration_since(since).as_secs().unsigned_abs() >= seconds
    }
}

/// `3m20s`.
fn shown(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

fn tail(text: &str) -> String {
    let start = text.len().saturating_sub(MAX_LOG_TAIL);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    text[start..].to_owned()
}
