//! From the claim to a clone of its volume, in our namespace; and its end.
//!
//! A claim is cloned only within its namespace, and a pod mounts only claims of its own: so the clone is made there, and its
//! volume is given to a claim of ours. It stays one volume all the time, and each mover of the run mounts it.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use super::BackupPass;
use crate::api::run::{Phase, Reason};
use crate::api::volume_backup::VolumeSnapshotSeen;
use crate::backup::objects;
use crate::backup::observe::{CloneSeen, Seen};
use crate::run::Act;
use crate::run::decide::{Step, act, is_bound, look_again, reclaim_policy};
use crate::run::objects::SELECTED_NODE;

impl BackupPass<'_> {
    pub(super) fn clone_volume(&mut self) -> Step {
        match (&self.snapshot, &self.seen.clone.claim) {
            (None, None) if self.run.status.phase == Phase::Accepted => {
                self.run.fail(Reason::SnapshotMissing, "the clone was removed before it could be used")
            }
            (None, None) => self.begin_clone(),
            (None, Some(claim)) => self.take_clone(claim),
            (Some(cloned), _) => self.hand_clone_over(&cloned.clone()),
        }
    }

    fn begin_clone(&mut self) -> Step {
        let backup = &self.seen.backup;
        let (Some(of), namespace) = (&backup.spec.source.claim, backup.namespace().unwrap_or_default()) else {
            return self.run.fail(Reason::SnapshotMissing, "only claims are cloned");
        };
        self.source = Some(self.seen.volume.clone());
        act(Act::CreateClaim(objects::clone(&self.run.uid, &namespace, of, &self.seen.volume, &self.seen.class_rule)))
    }

    /// Waits for it, and records what it is.
    fn take_clone(&mut self, claim: &PersistentVolumeClaim) -> Step {
        let clone = &self.seen.clone;
        if self.run.status.phase == Phase::Pending {
            self.run.enter(Phase::Accepted, Reason::SnapshotNotReady, "the clone is being made");
        }
        if clone.is_foreign {
            let message = "the clone's claim was bound to a volume that was there before and is somebody's: it is left alone; a StorageClass that is cloned must have no free volumes (or bind late)";
            return self.run.fail(Reason::ClaimTaken, message);
        }
        let Some(volume) = clone.volume.as_ref().filter(|_| is_bound(claim)) else {
            let limit = self.seen.run.policy.snapshot_timeout_seconds;
            let reason = if clone.problem.is_some() { Reason::SnapshotFailed } else { Reason::SnapshotNotReady };
            let message = clone.problem.clone().unwrap_or_else(|| "the clone is being made".to_owned());
            if self.run.phase_lasts(limit) {
                return self.run.fail(reason, &format!("the clone could not be used within {limit} s: {message}"));
            }
            // Nobody will ever use it here: we say where it is to be, in the scheduler's place.
            if let Some(node) = clone.node.clone().filter(|_| !claim.annotations().contains_key(SELECTED_NODE)) {
                return act(Act::SelectNode(claim.clone(), node));
            }
            return self.run.wait_a_moment(reason, &message);
        };
        let spec = volume.spec.clone().unwrap_or_default();
        let csi = spec.csi.unwrap_or_default();
        self.snapshot = Some(VolumeSnapshotSeen {
            handle: csi.volume_handle,
            driver: csi.driver,
            taken: claim.metadata.creation_timestamp.clone(),
            bytes: self.seen.volume.bytes,
            storage_class: self.seen.volume.storage_class.clone(),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            topology: spec.node_affinity.and_then(|affinity| affinity.required),
            content: volume.name_any(),
            claim: claim.metadata.uid.clone(),
            namespace_uid: None,
        });
        look_again(Duration::ZERO)
    }

    /// The volume outlives the claim that it was made for; then it is our claim's, and no other's.
    fn hand_clone_over(&mut self, cloned: &VolumeSnapshotSeen) -> Step {
        let Some(ours) = &self.seen.run.claim else {
            return act(Act::CreateClaim(objects::claim_of_clone(&self.run.uid, self.run.installation, cloned, &self.seen.class_rule)));
        };
        let CloneSeen { claim, volume, .. } = &self.seen.clone;
        match volume {
            Some(volume) if reclaim_policy(volume) == Some("Retain") => return act(Act::Rebind(volume.clone(), ours.clone())),
            Some(volume) if claim.is_some() => return act(Act::KeepVolume(volume.clone())),
            None if self.seen.run.volume.is_some() => {}
            // Removed with its claim, or going with it.
            Some(_) | None => return self.run.fail(Reason::SnapshotMissing, "the clone was removed while it was being handed over"),
        }
        if let Some(claim) = claim.as_ref().filter(|claim| claim.metadata.deletion_timestamp.is_none()) {
            return act(Act::DeleteClaim(claim.clone()));
        }
        // One that somebody still uses may take its time to go: its volume is ours by now.
        if is_bound(ours) {
            return self.exposed();
        }
        let limit = self.seen.run.policy.snapshot_timeout_seconds;
        if self.run.phase_lasts(limit.saturating_mul(2)) {
            return self.run.fail(Reason::SnapshotFailed, "the clone's volume was not bound to the mover's claim");
        }
        self.run.wait_a_moment(Reason::SnapshotNotReady, "the clone's volume is being handed over")
    }
}

/// What is left of it where it was made, whatever state it is in; what became our claim's went with that.
pub(super) fn remove(seen: &Seen) -> Option<Step> {
    let CloneSeen { claim, volume, is_foreign, .. } = &seen.clone;
    if let Some(volume) = volume {
        let keeps = reclaim_policy(volume) == Some("Retain");
        if *is_foreign != keeps {
            let volume = volume.clone();
            return Some(act(if *is_foreign { Act::KeepVolume(volume) } else { Act::GiveUpVolume(volume) }));
        }
    }
    // Asked to go, it does, as soon as nobody uses it: with its volume.
    let claim = claim.as_ref().filter(|claim| claim.metadata.deletion_timestamp.is_none())?;
    Some(act(Act::DeleteClaim(claim.clone())))
}
