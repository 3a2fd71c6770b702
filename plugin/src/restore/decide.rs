//! From what was seen of a restore to what to do: pure, one step at a time. No client required.

use std::time::Duration;

use contract::{Line, RestoreSummary};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use super::objects;
use super::observe::Seen;
use crate::api::VolumeRestoreStatus;
use crate::api::run::{Phase, Reason};
use crate::api::volume_restore::{RestoreResult, TargetSeen};
use crate::cluster::GateView;
use crate::run::decide::{Outcome, Pass, Plan, Start, Step, act, going, is_bound, look_again};
use crate::run::objects::Installation;
use crate::run::{Act, Decision};

/// How long after a run a claim of Velero's may be made.
const CLAIM_OF_VELERO_SECS: u32 = 60;

/// What is to be done about a restore, now.
#[must_use]
pub fn decide(seen: &Seen, gate: &GateView, installation: &Installation, now: Timestamp) -> Decision<VolumeRestoreStatus> {
    let status = seen.restore.status.clone().unwrap_or_default();
    let run = Pass::new(&seen.restore, &seen.run, gate, installation, now);
    let mut pass = RestorePass { seen, run, status };
    let (act, again) = pass.step();
    Decision { status: VolumeRestoreStatus { run: pass.run.finish(), ..pass.status }, act, again }
}

struct RestorePass<'a> {
    seen: &'a Seen,
    run: Pass<'a>,
    /// All but what all runs have.
    status: VolumeRestoreStatus,
}

impl RestorePass<'_> {
    fn step(&mut self) -> Step {
        // Looked up once, restored by all.
        if let Some(id) = self.seen.run.progress.as_ref().and_then(|said| said.snapshot_id.clone()) {
            self.status.snapshot_id.get_or_insert(id);
        }
        let outcome = match (self.run.start(&self.seen.restore), self.run.status.phase) {
            (Start::Step(step), _) => return step,
            (Start::CleanUp, _) => {
                // Between two claims the volume belongs to nobody that may be removed.
                return if self.is_between() { going() } else { self.run.clean_up(|| None) };
            }
            // It is filled: what is done is done.
            (Start::Work | Start::Cancel, Phase::Binding) => return self.bind(),
            (Start::Cancel, _) => self.run.cancel(),
            (Start::Work, Phase::Prepared | Phase::DatamoverDeploying | Phase::InProgress) => {
                let plan = match self.target() {
                    Ok((_, target)) => self.plan(target),
                    Err(why) => return self.run.fail(Reason::ClaimMissing, &why),
                };
                if self.run.status.phase == Phase::Prepared {
                    return self.run.wait_for_slot(&plan);
                }
                self.run.attempt(&plan)
            }
            (Start::Work, _) => Outcome::Step(self.prepare()),
        };
        match outcome {
            Outcome::Step(step) => step,
            Outcome::Done(Line::RestoreSummary(summary)) => self.restored(&summary),
            Outcome::Done(_) => self.run.fail(Reason::MoverFailed, "the mover did something else than a restore"),
        }
    }

    /// Claim and origin, as they are now: they stay that for the run.
    fn prepare(&mut self) -> Step {
        if let Some(missing) = self.seen.run.missing.clone() {
            // Velero makes its claims once, before it asks for their data or soon after: nobody mends them.
            let is_final = match missing.reason {
                Reason::ClaimTaken | Reason::NoStorageClass => true,
                Reason::ClaimMissing => self.run.phase_lasts(CLAIM_OF_VELERO_SECS),
                _ => false,
            };
            if is_final && self.seen.restore.spec.claim_namespace.is_some() {
                return self.run.fail(missing.reason, &missing.message);
            }
            return self.run.wait_for_somebody(missing.reason, &missing.message);
        }
        let (Some(target), Some(class)) = (&self.seen.target, &self.seen.class) else {
            return self.run.wait_for_somebody(Reason::ClaimMissing, "there is no claim to fill");
        };
        let spec = target.spec.clone().unwrap_or_default();
        let size = spec.resources.and_then(|resources| resources.requests).and_then(|requests| requests.get("storage").cloned());
        self.status.target = Some(TargetSeen {
            uid: target.uid().unwrap_or_default(),
            storage_class: class.name_any(),
            driver: class.provisioner.clone(),
            access_modes: spec.access_modes.unwrap_or_default(),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            size: size.map(|size| size.0).unwrap_or_default(),
            attributes_class: spec.volume_attributes_class_name,
        });
        self.status.path = Some(self.seen.origin.path.clone());
        self.status.snapshot_id.clone_from(&self.seen.origin.snapshot_id);
        self.run.enter(Phase::Prepared, Reason::WaitingForSlot, "waiting for a slot");
        look_again(Duration::ZERO)
    }

    fn plan(&self, target: &TargetSeen) -> Plan {
        Plan {
            claim: objects::claim(&self.run.uid, self.run.installation, target),
            is_renewable: true,
            topology: self.seen.class.as_ref().and_then(|class| objects::topology(class, self.seen.selected_node.as_deref())),
            job: objects::job(&self.seen.origin, self.status.snapshot_id.as_deref(), target, self.run.is_begun()),
        }
    }

    /// The very claim that the run began with, and what it was then; or why it is not.
    fn target(&self) -> Result<(&PersistentVolumeClaim, &TargetSeen), String> {
        let name = &self.seen.restore.spec.claim;
        let known = self.status.target.as_ref().zip(self.seen.target.as_ref());
        match (&self.seen.target, known) {
            (Some(_), Some((then, now))) if now.metadata.uid.as_deref() == Some(&then.uid) => Ok((now, then)),
            (Some(_), _) => {
                Err(format!("claim {name} was removed and made again while it was being filled: make a new VolumeRestore for it"))
            }
            (None, _) => Err(format!("claim {name} was removed while it was being filled")),
        }
    }

    fn restored(&mut self, summary: &RestoreSummary) -> Step {
        let errors = summary.errors;
        if errors > 0 && !self.seen.restore.spec.accept_incomplete {
            let message = format!("{errors} items could not be restored as they were; spec.acceptIncomplete takes the rest all the same");
            return self.run.retry(Reason::MoverFailed, &message);
        }
        if errors > 0 && self.run.is_begun() {
            // What one before has left of an item that is lost now would stay.
            let message = format!("{errors} items could not be restored as they were: all of it once more");
            return self.run.retry_afresh(Reason::MoverFailed, &message);
        }
        if self.seen.run.volume.is_none() {
            return self.run.retry_afresh(Reason::MoverFailed, "the volume that was filled is gone");
        }
        self.status.snapshot_id = Some(summary.snapshot_id.clone());
        self.status.result = Some(RestoreResult {
            files: summary.files_restored + summary.files_skipped,
            bytes: summary.bytes_restored + summary.bytes_in_place,
            bytes_in_place: summary.bytes_in_place,
            incomplete: errors,
        });
        self.run.enter(Phase::Binding, Reason::ClaimBinding, "the data is there; the claim is being bound to it");
        look_again(Duration::ZERO)
    }

    /// The filled volume gets its owner. Who that is stands in the volume alone, so each step can be repeated.
    fn bind(&mut self) -> Step {
        if let Some(step) = self.run.end_movers() {
            return step;
        }
        let target = match self.target() {
            Ok((target, _)) => target.clone(),
            Err(why) => return self.run.fail(Reason::ClaimMissing, &why),
        };
        let Some(volume) = &self.seen.filled else {
            return self.run.fail(Reason::MoverFailed, "the volume that was filled is gone");
        };
        if owner(volume) == target.metadata.uid.as_deref() {
            if !is_bound(&target) {
                return self.run.wait_a_moment(Reason::ClaimBinding, "the claim is being bound to its volume");
            }
            let incomplete = self.status.result.as_ref().map_or(0, |result| result.incomplete);
            return self.run.complete(&match incomplete {
                0 => "the claim has its data".to_owned(),
                count => format!("the claim has its data, save {count} items that could not be restored as they were"),
            });
        }
        // That which our own claim has, and no other, whatever a status says.
        let ours = self.seen.run.volume.as_ref().filter(|ours| ours.metadata.uid == volume.metadata.uid);
        let Some(ours) = ours else {
            return self.run.fail(Reason::ClaimTaken, &format!("volume {} was given to another claim", volume.name_any()));
        };
        if let Some(other) = target.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) {
            return self.run.fail(Reason::ClaimTaken, &format!("claim {} has another volume by now: {other}", target.name_any()));
        }
        act(Act::Rebind(ours.clone(), target))
    }

    /// The volume belongs to the claim that waits, and nobody has bound it yet.
    fn is_between(&self) -> bool {
        let Ok((target, _)) = self.target() else { return false };
        let is_theirs = self.seen.filled.as_ref().is_some_and(|volume| owner(volume) == target.metadata.uid.as_deref());
        is_theirs && self.seen.run.claim.is_some() && !is_bound(target)
    }
}

fn owner(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref()
}
