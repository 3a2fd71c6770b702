//! From the claim to a snapshot that our namespace can use; and its end.

use kube::ResourceExt;

use super::BackupPass;
use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::run::{Phase, Reason};
use crate::api::volume_backup::VolumeSnapshotSeen;
use crate::backup::objects;
use crate::backup::observe::{Seen, SnapshotSeen};
use crate::run::Act;
use crate::run::decide::{Step, act, going};

impl BackupPass<'_> {
    pub(super) fn snapshot(&mut self) -> Step {
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
            if let Some(handed) = &backup.spec.source.handed_over {
                let message = format!("VolumeSnapshot {} in namespace {} is gone", handed.volume_snapshot, handed.namespace);
                return self.run.fail(Reason::SnapshotMissing, &message);
            }
            let (Some(claim), Some(class)) = (&backup.spec.source.claim, &self.seen.snapshot_class) else {
                return self.run.wait_for_somebody(Reason::SnapshotMissing, "the VolumeSnapshot is not there");
            };
            self.source = Some(self.seen.volume.clone());
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
                volume_mode: content.spec.source_volume_mode.clone().unwrap_or_else(|| self.seen.volume.volume_mode.clone()),
                topology: self.seen.volume.topology.clone(),
                content: content.name_any(),
                claim: None,
                namespace_uid: self.seen.source_namespace.clone(),
            });
        }
        act(Act::CreateContent(objects::content_copy(&self.run.uid, self.run.installation, content, &handle)))
    }

    /// The copy first, then the original goes, and only then does the copy own the storage's snapshot: at each moment
    /// exactly one of them, or none, would delete it. A snapshot that somebody else made for other ends stays theirs.
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
        if self.seen.backup.spec.source.owns_snapshot()
            && let Some(step) = self.take_over(copy)
        {
            return step;
        }
        self.exposed()
    }

    fn take_over(&self, copy: &VolumeSnapshotContent) -> Option<Step> {
        let snapshot = self.seen.snapshot.as_ref();
        if let Some(content) = snapshot.and_then(|snapshot| snapshot.content.as_ref())
            && content.spec.deletion_policy != "Retain"
        {
            return Some(act(Act::SetDeletionPolicy { content: content.name_any(), policy: "Retain" }));
        }
        if let Some(snapshot) = snapshot {
            return Some(end_snapshot(&snapshot.object));
        }
        if let Some(content) = &self.seen.original_content {
            return Some(end_content(content));
        }
        (copy.spec.deletion_policy != "Delete").then(|| act(Act::SetDeletionPolicy { content: copy.name_any(), policy: "Delete" }))
    }
}

/// Those that were made for the run, whatever state they are in.
pub(super) fn remove(seen: &Seen) -> Option<Step> {
    let is_ours = seen.backup.spec.source.owns_snapshot();
    // Taken, but never handed over, or only half.
    if is_ours && let Some(snapshot) = &seen.snapshot {
        let content = snapshot.content.as_ref().filter(|content| content.spec.deletion_policy != "Delete");
        if let (Some(content), None) = (content, &seen.copy) {
            return Some(act(Act::SetDeletionPolicy { content: content.name_any(), policy: "Delete" }));
        }
        return Some(end_snapshot(&snapshot.object));
    }
    if is_ours
        && let Some(content) = &seen.original_content
        && seen.copy.is_some()
    {
        return Some(end_content(content));
    }
    if is_ours
        && let Some(copy) = &seen.copy
        && copy.spec.deletion_policy != "Delete"
    {
        return Some(act(Act::SetDeletionPolicy { content: copy.name_any(), policy: "Delete" }));
    }
    seen.copied_snapshot.as_ref().map(end_snapshot).or_else(|| seen.copy.as_ref().map(end_content))
}

fn end_snapshot(snapshot: &VolumeSnapshot) -> Step {
    if snapshot.metadata.deletion_timestamp.is_some() { going() } else { act(Act::DeleteSnapshot(snapshot.clone())) }
}

fn end_content(content: &VolumeSnapshotContent) -> Step {
    if content.metadata.deletion_timestamp.is_some() { going() } else { act(Act::DeleteContent(content.clone())) }
}
