//! From what was seen of a backup to what to do: pure, one step at a time. No client required.

mod clone;
mod snapshot;

use std::time::Duration;

use contract::{BackupSummary, Line};
use jiff::Timestamp;

use super::objects;
use super::observe::Seen;
use crate::api::VolumeBackupStatus;
use crate::api::mover_policy::CopyMethod;
use crate::api::run::{Phase, Reason};
use crate::api::volume_backup::{BackupResult, SourceVolume, VolumeSnapshotSeen};
use crate::cluster::GateView;
use crate::run::Decision;
use crate::run::decide::{Outcome, Pass, Plan, Start, Step, look_again};
use crate::run::objects::Installation;

/// What is to be done about a backup, now.
#[must_use]
pub fn decide(seen: &Seen, gate: &GateView, installation: &Installation, now: Timestamp) -> Decision<VolumeBackupStatus> {
    let status = seen.backup.status.clone().unwrap_or_default();
    let run = Pass::new(&seen.backup, &seen.run, gate, installation, now);
    let mut pass = BackupPass { seen, run, source: status.source, snapshot: status.snapshot, result: status.result };
    let (act, again) = pass.step();
    let BackupPass { run, source, snapshot, result, .. } = pass;
    Decision { status: VolumeBackupStatus { run: run.finish(), copy_method: seen.copy_method, source, snapshot, result }, act, again }
}

struct BackupPass<'a> {
    seen: &'a Seen,
    run: Pass<'a>,
    source: Option<SourceVolume>,
    snapshot: Option<VolumeSnapshotSeen>,
    result: Option<BackupResult>,
}

impl BackupPass<'_> {
    fn step(&mut self) -> Step {
        let outcome = match self.run.start(&self.seen.backup) {
            Start::Step(step) => return step,
            Start::CleanUp => {
                return self.run.clean_up(|| match self.seen.copy_method {
                    CopyMethod::Snapshot => snapshot::remove(self.seen),
                    CopyMethod::Clone => clone::remove(self.seen),
                });
            }
            Start::Cancel => self.run.cancel(),
            Start::Work => match self.run.status.phase {
                Phase::Prepared => Outcome::Step(self.wait_for_slot()),
                Phase::DatamoverDeploying if self.is_lost() => Outcome::Step(self.lost()),
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
            is_renewable: self.seen.copy_method == CopyMethod::Snapshot,
            job: objects::job(&self.seen.backup, &self.seen.run.namespace_uid(), self.run.installation, &snapshot),
            topology: snapshot.topology,
        }
    }

    /// From the claim to something that a mover in our namespace can mount.
    fn expose(&mut self) -> Step {
        if let Some(missing) = self.seen.run.missing.clone() {
            return self.run.wait_for_somebody(missing.reason, &missing.message);
        }
        match self.seen.copy_method {
            CopyMethod::Snapshot => self.snapshot(),
            CopyMethod::Clone => self.clone_volume(),
        }
    }

    fn exposed(&mut self) -> Step {
        self.run.enter(Phase::Prepared, Reason::WaitingForSlot, "waiting for a slot");
        look_again(Duration::ZERO)
    }

    fn wait_for_slot(&mut self) -> Step {
        if self.is_lost() {
            return self.lost();
        }
        self.run.wait_for_slot(&self.plan())
    }

    /// What the mover was to read is gone, and cannot be had again.
    fn is_lost(&self) -> bool {
        match self.seen.copy_method {
            CopyMethod::Snapshot => self.seen.copied_snapshot.is_none(),
            CopyMethod::Clone => self.seen.run.claim.as_ref().is_none_or(|claim| claim.metadata.deletion_timestamp.is_some()),
        }
    }

    fn lost(&mut self) -> Step {
        let what = if self.seen.copy_method == CopyMethod::Clone { "clone" } else { "snapshot" };
        self.run.fail(Reason::SnapshotMissing, &format!("the {what} was removed before a mover had read it"))
    }

    fn stored(&mut self, summary: &BackupSummary) -> Step {
        // Another mover of this run stored it, and could not say so any more.
        let counted = |count: u64| (!summary.was_there).then_some(count);
        self.result = Some(BackupResult {
            snapshot_id: summary.snapshot_id.clone().unwrap_or_default(),
            repository_id: summary.repository_id.clone(),
            bytes: counted(summary.total_bytes),
            bytes_stored: counted(summary.bytes_stored),
            bytes_resumed: Some(summary.bytes_resumed).filter(|bytes| *bytes > 0),
            unreadable: counted(summary.errors),
        });
        self.run.complete(&match summary.errors {
            0 => "the data is in the repository".to_owned(),
            count => format!("the data is in the repository, without {count} items that could not be read"),
        })
    }
}
