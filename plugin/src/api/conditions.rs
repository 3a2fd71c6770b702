//! Conditions by kstatus, derived from phase and reason: `Ready`, `Reconciling`, `Stalled`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::run::{Phase, Reason, RunStatus};

/// Brings the conditions in line with the rest; one that stays as it was keeps its time.
pub fn set(status: &mut RunStatus, now: Timestamp) {
    let is_stalled = status.phase == Phase::Failed || is_stalled(status);
    let is_moving = !status.phase.is_end() && !is_stalled;
    let wanted = [("Ready", status.phase == Phase::Completed), ("Reconciling", is_moving), ("Stalled", is_stalled)];
    let reason = status.reason.map_or_else(|| format!("{:?}", status.phase), |reason| format!("{reason:?}"));
    let before = std::mem::take(&mut status.conditions);
    status.conditions = all(&before, &wanted, &reason, status.observed_generation, now);
}

/// Conditions as they are to be; one that stays as it was keeps its time.
#[must_use]
pub fn all(before: &[Condition], wanted: &[(&str, bool)], reason: &str, generation: i64, now: Timestamp) -> Vec<Condition> {
    let condition = |(kind, is_so): &(&str, bool)| {
        let value = if *is_so { "True" } else { "False" };
        let old = before.iter().find(|old| old.type_ == *kind && old.status == value);
        Condition {
            type_: (*kind).to_owned(),
            status: value.to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
            observed_generation: Some(generation),
        }
    };
    wanted.iter().map(condition).collect()
}

impl RunStatus {
    /// Whether it has not begun, and waits for something that somebody must give: such runs are looked at in turn.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        let has_not_begun = matches!(self.phase, Phase::Pending | Phase::Accepted | Phase::Prepared);
        has_not_begun && self.reason.is_some_and(|reason| needs_somebody(reason) || reason == Reason::BackupNotDone)
    }
}

/// Whether it waits, and waiting alone does not help.
fn is_stalled(status: &RunStatus) -> bool {
    !status.phase.is_end() && status.reason.is_some_and(needs_somebody)
}

/// Waiting alone does not help.
const fn needs_somebody(reason: Reason) -> bool {
    match reason {
        Reason::RepositoryMissing
        | Reason::NamespaceNotAllowed
        | Reason::SecretMissing
        | Reason::ClaimMissing
        | Reason::ClaimNotBound
        | Reason::ClaimTaken
        | Reason::NoStorageClass
        | Reason::BackupMissing
        | Reason::NotCsi
        | Reason::NoSnapshotClass
        | Reason::SnapshotMissing
        | Reason::SnapshotFailed
        | Reason::NoNode
        | Reason::MoverFailed
        | Reason::Refused => true,
        Reason::BackupNotDone
        | Reason::SnapshotNotReady
        | Reason::WaitingForSlot
        | Reason::ClaimBinding
        | Reason::PodStarting
        | Reason::Moving
        | Reason::Retrying
        | Reason::CancelRequested
        | Reason::Done
        | Reason::Skipped => false,
    }
}
