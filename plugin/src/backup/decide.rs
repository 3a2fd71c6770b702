//! From what was seen of a backup to what to do: pure, one step at a time. No client required.

use contract::{BackupSummary, Line};
use jiff::Timestamp;
use kube::ResourceExt;

use super::objects;
use super::observe::{Seen, SnapshotSeen};
use crate::api::VolumeBackupStatus;
use crate::api::external::VolumeSnapshotContent;
use crate::api::run::{Phase, Reason};
use crate::api::volume_backup::{BackupResult, VolumeSnapshotSeen};
use crate::cluster::GateView;
use crate::run::decide::{Outcome, Pass, Plan, Start, Step, act, going};
use crate::run::objects::Installation;
use crate::run::{Act, Decision};

/// What is to be done about a backup, now.
#[must_use]
pub fn decide(seen: &Seen, gate: &GateView, installation: &Installation, now: Timestamp) -> Decision<VolumeBackupStatus> {
    let status = seen.backup.status.clone().unwrap_or_default();
    let run = Pass::new(&seen.backup, &seen.run, gate, installation, now);
    let mut pass = BackupPass { seen, run, snapshot: status.snapshot, result: status.result };
    let (act, again) = pass.step();
    Decision { status: VolumeBackupStatus { run: pass.run.finish(), snapshot: pass.snapshot, result: pass.result }, act, again }
}

struct BackupPass<'a> {
    seen: &'a Seen,
    run: Pass<'a>,
    snapshot: Option<VolumeSnapshotSeen>,
    result: Option<BackupResult>,
}

impl BackupPass<'_> {
    fn step(&mut self) -> Step {
        let outcome = match self.run.start(&self.seen.backup) {
            Start::Step(step) => return step,
            Start::CleanUp => return self.run.clean_up(|| remove_snapshots(self.seen)),
            Start::Cancel => self.run.cancel(),
            Start::Work => match self.run.status.phase {
                Phase::Prepared => Outcome::Step(self.wait_for_slot()),
                Phase::DatamoverDeploying | Phase::InProgress => self.run.attempt(&self.plan()),
                _ => Outcome::Step(self.expose()),
            },
        };
        match outcome {
            Outcome::Step(step) => step,
            Outcome::Done(Line::BackupSummary(summary)) => self.stored(&summary),
            Outcome::Done(_) => self.run.fail(Reason::MoverFailed, "the mover did something else than a backup"),
        }
    }

    fn plan(&self) -> Plan {
        let snapshot = self.snapshot.clone().unwrap_or_default();
        Plan {
            claim: objects::claim(&self.run.uid, self.run.installation, &snapshot, &self.seen.class_rule),
            job: objects::job(&self.seen.backup, &self.seen.run.namespace_uid(), self.run.installation, &snapshot),
            topology: snapshot.topology,
        }
    }

    fn wait_for_slot(&mut self) -> Step {
        if self.seen.copied_snapshot.is_none() {
            return self.run.fail(Reason::SnapshotMissing, "the snapshot was removed while it waited for a slot");
        }
        self.run.wait_for_slot(&self.plan())
    }

    fn stored(&mut self, summary: &BackupSummary) -> Step {
        // Another mover of this run stored it, and could not say so any more.
        let counted = |count: u64| (!summary.was_there).then_some(count);
        self.result = Some(BackupResult {
            snapshot_id: summary.snapshot_id.clone().unwrap_or_default(),
            bytes: counted(summary.total_bytes),
            bytes_stored: counted(summary.bytes_stored),
            unreadable: counted(summary.errors),
        });
        self.run.complete(&match summary.errors {
            0 => "the data is in the repository".to_owned(),
            count => format!("the data is in the repository, without {count} items that could not be read"),
        })
    }

    // From the claim to a snapshot that our namespace can use.

    fn expose(&mut self) -> Step {
        if let Some(missing) = self.seen.run.missing.clone() {
            return self.run.wait_for_somebody(missing.reason, &missing.message);
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
            if self.run.status.phase == Phase::Accepted {
                return self.run.fail(Reason::SnapshotMissing, "the snapshot was removed before it could be used");
            }
            let (Some(claim), Some(class)) = (&backup.spec.source.claim, &self.seen.snapshot_class) else {
                return self.run.wait_for_somebody(Reason::SnapshotMissing, "the VolumeSnapshot is not there");
            };
            return act(Act::CreateSnapshot(objects::snapshot(&self.run.uid, &namespace, claim, class)));
        };
        if self.run.status.phase == Phase::Pending {
            self.run.enter(Phase::Accepted, Reason::SnapshotNotReady, "the snapshot is being taken");
        }
        let limit = self.seen.run.policy.snapshot_timeout_seconds;
        let SnapshotSeen { object, content, error } = snapshot;
        let handle = content.as_ref().and_then(|content| content.status.as_ref()).and_then(|status| status.snapshot_handle.clone());
        let is_ready = object.status.as_ref().and_then(|status| status.ready_to_use) == Some(true);
        let (Some(content), Some(handle), true) = (content, handle, is_ready) else {
            let reason = if error.is_some() { Reason::SnapshotFailed } else { Reason::SnapshotNotReady };
            let message = error.clone().unwrap_or_else(|| "the snapshot is being taken".to_owned());
            if self.run.phase_lasts(limit) {
                return self.run.fail(reason, &format!("the snapshot could not be used within {limit} s: {message}"));
            }
            return self.run.wait_a_moment(reason, &message);
        };
        if self.snapshot.is_none() {
            let seen = object.status.clone().unwrap_or_default();
            let bytes = content.status.as_ref().and_then(|status| status.restore_size).unwrap_or_default();
            self.snapshot = Some(VolumeSnapshotSeen {
                handle: handle.clone(),
                driver: content.spec.driver.clone(),
                taken: seen.creation_time,
                bytes: bytes.max(self.seen.volume.bytes),
                storage_class: self.seen.volume.storage_class.clone(),
                volume_mode: content.spec.source_volume_mode.clone().unwrap_or_else(|| self.seen.volume.mode.clone()),
                topology: self.seen.volume.topology.clone(),
                content: content.name_any(),
            });
        }
        act(Act::CreateContent(objects::content_copy(&self.run.uid, self.run.installation, content, &handle)))
    }

    /// The copy first, then the original goes, and only then does the copy own the storage's snapshot: at each moment
    /// exactly one of them, or none, would delete it. A snapshot that somebody else made stays theirs.
    fn hand_over(&mut self, copy: &VolumeSnapshotContent) -> Step {
        let Some(copied) = &self.seen.copied_snapshot else {
            let class = copy.spec.volume_snapshot_class_name.as_deref();
            return act(Act::CreateSnapshot(objects::snapshot_copy(&self.run.uid, self.run.installation, class)));
        };
        let status = copied.status.clone().unwrap_or_default();
        let is_ready = status.ready_to_use == Some(true) && status.bound_volume_snapshot_content_name.is_some();
        if !is_ready {
            let limit = self.seen.run.policy.snapshot_timeout_seconds;
            let message = status.error.and_then(|error| error.message).unwrap_or_else(|| "the snapshot's copy is not ready yet".to_owned());
            if self.run.phase_lasts(limit.saturating_mul(2)) {
                return self.run.fail(Reason::SnapshotFailed, &message);
            }
            return self.run.wait_a_moment(Reason::SnapshotNotReady, &message);
        }
        if self.seen.backup.spec.source.claim.is_some()
            && let Some(step) = self.take_over(copy)
        {
            return step;
        }
        self.run.enter(Phase::Prepared, Reason::WaitingForSlot, "waiting for a slot");
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
            return Some(going());
        }
        if let Some(content) = &self.seen.original_content {
            if content.metadata.deletion_timestamp.is_none() {
                return Some(act(Act::DeleteContent(content.clone())));
            }
            return Some(going());
        }
        (copy.spec.deletion_policy != "Delete").then(|| act(Act::SetDeletionPolicy { content: copy.name_any(), policy: "Delete" }))
    }
}

/// Those that were made for the run, whatever state they are in.
fn remove_snapshots(seen: &Seen) -> Option<Step> {
    let is_ours = seen.backup.spec.source.claim.is_some();
    // Taken, but never handed over, or only half.
    if is_ours && let Some(snapshot) = &seen.snapshot {
        let content = snapshot.content.as_ref().filter(|content| content.spec.deletion_policy != "Delete");
        if let (Some(content), None) = (content, &seen.copy) {
            return Some(act(Act::SetDeletionPolicy { content: content.name_any(), policy: "Delete" }));
        }
        let is_going = snapshot.object.metadata.deletion_timestamp.is_some();
        return Some(if is_going { going() } else { act(Act::DeleteSnapshot(snapshot.object.clone())) });
    }
    if is_ours
        && let Some(content) = &seen.original_content
        && seen.copy.is_some()
    {
        let is_going = content.metadata.deletion_timestamp.is_some();
        return Some(if is_going { going() } else { act(Act::DeleteContent(content.clone())) });
    }
    if is_ours
        && let Some(copy) = &seen.copy
        && copy.spec.deletion_policy != "Delete"
    {
        return Some(act(Act::SetDeletionPolicy { content: copy.name_any(), policy: "Delete" }));
    }
    if let Some(copied) = &seen.copied_snapshot {
        let is_going = copied.metadata.deletion_timestamp.is_some();
        return Some(if is_going { going() } else { act(Act::DeleteSnapshot(copied.clone())) });
    }
    if let Some(copy) = &seen.copy {
        let is_going = copy.metadata.deletion_timestamp.is_some();
        return Some(if is_going { going() } else { act(Act::DeleteContent(copy.clone())) });
    }
    None
}
