//! From a DataUpload or DataDownload to a run, and from the run's status to theirs. No client required.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::{Resource, ResourceExt};

use super::api::{Backup, DataDownload, DataUpload, Restore, TransferPhase, TransferProgress, TransferStatus};
use super::{DATA_MOVER, SnapshotId, repository_name};
use crate::api::run::Phase;
use crate::api::volume_backup::{HandedOver, Source, Urgency};
use crate::api::volume_restore::{RestoreSource, StoredSource};
use crate::api::{NOT_FOR_VELERO, RUN_FINALIZER, RunStatus, VolumeBackup, VolumeBackupSpec, VolumeRestore, VolumeRestoreSpec};
use crate::run::Run;

/// Annotation of a run: when Velero gives up waiting for it.
const GIVES_UP: &str = "estiba.dev/velero-gives-up";
/// Label of backups that a schedule made.
const SCHEDULE: &str = "velero.io/schedule-name";
/// Of the time that Velero waits, how much may pass before that is said.
const WARN_PERCENT: i32 = 75;

/// A kind of work that Velero asks for.
pub trait Transfer: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Send + Sync + 'static {
    /// What does it.
    type Run: Run;
    /// What it belongs to.
    type Job: Job;

    /// How far it is.
    fn transfer_status(&self) -> TransferStatus;
    /// Who is to do it.
    fn data_mover(&self) -> &str;
    /// Whether it is to be stopped.
    fn is_cancelled(&self) -> bool;
    /// Where it is stored.
    fn location(&self) -> &str;
    /// The run that does it; if what it belongs to is gone, only to dispose of what was made for it.
    ///
    /// # Errors
    /// Why there can be none.
    fn run(&self, job: Option<&Self::Job>) -> Result<Self::Run, String>;
    /// What only this kind of run has to say in the end.
    fn result(&self, run: &Self::Run, status: &mut TransferStatus);
}

/// A Backup or a Restore.
pub trait Job: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Send + Sync + 'static {
    /// How long Velero waits for all that is done for it.
    fn timeout(&self) -> Option<&str>;
}

impl Job for Backup {
    fn timeout(&self) -> Option<&str> {
        self.spec.item_operation_timeout.as_deref()
    }
}

impl Job for Restore {
    fn timeout(&self) -> Option<&str> {
        self.spec.item_operation_timeout.as_deref()
    }
}

/// What was seen of a DataUpload or DataDownload.
#[derive(Debug, Clone)]
pub struct Seen<T: Transfer> {
    /// It.
    pub transfer: T,
    /// The run that does it.
    pub run: Option<T::Run>,
    /// As long as there is no run: what it belongs to.
    pub job: Option<T::Job>,
    /// Why it cannot begin yet.
    pub waits_for: Option<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Act<R> {
    /// The run that does it.
    Create(Box<R>),
    /// The run is to stop.
    Cancel,
}

/// What comes of a look.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<R> {
    /// Recorded first.
    pub status: TransferStatus,
    /// Done then; another look follows at once.
    pub act: Option<Act<R>>,
    /// Without an act: the next look, if nothing changes before.
    pub again: Option<Duration>,
}

/// What is to be done about a DataUpload or DataDownload, now.
#[must_use]
pub fn decide<T: Transfer>(seen: &Seen<T>, now: Timestamp) -> Decision<T::Run> {
    let mut status = seen.transfer.transfer_status();
    let (mut act, mut again) = (None, None);
    match &seen.run {
        _ if status.phase.is_end() || seen.transfer.data_mover() != DATA_MOVER => {}
        Some(run) if !is_for(run, &seen.transfer) => {
            let message = format!("there is a {} {} that was not made for it", T::Run::kind(&()), run.name_any());
            end(&mut status, TransferPhase::Failed, &message, now);
        }
        Some(run) => {
            again = mirror(&seen.transfer, run, &mut status, now);
            let is_over = run.run_status().is_some_and(|status| status.phase.is_end());
            act = (seen.transfer.is_cancelled() && !run.is_cancelled() && !is_over).then_some(Act::Cancel);
        }
        None if !status.phase.is_new() => {
            let message = format!("its {} was removed before it had ended", T::Run::kind(&()));
            end(&mut status, TransferPhase::Failed, &message, now);
        }
        None => match (&seen.waits_for, seen.transfer.run(seen.job.as_ref())) {
            (Some(message), Ok(_)) if !seen.transfer.is_cancelled() => {
                status.phase = TransferPhase::New;
                status.message.clone_from(message);
                again = Some(LOOK_AGAIN);
            }
            // Its run disposes of what was made for it, so there is one also if it is to stop at once.
            (_, Ok(run)) => act = Some(Act::Create(Box::new(run))),
            (_, Err(message)) => end(&mut status, TransferPhase::Failed, &message, now),
        },
    }
    Decision { status, act, again }
}

/// Between two looks whether it may begin.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

fn is_for<T: Transfer>(run: &T::Run, transfer: &T) -> bool {
    run.owner_references().iter().any(|owner| transfer.meta().uid.as_ref() == Some(&owner.uid))
}

/// It ends, for this reason.
pub(super) fn end(status: &mut TransferStatus, phase: TransferPhase, message: &str, now: Timestamp) {
    status.phase = phase;
    message.clone_into(&mut status.message);
    status.completion_timestamp = Some(Time(now));
}

/// What the run says, in Velero's words. The answer is when there will be something to add.
fn mirror<T: Transfer>(transfer: &T, run: &T::Run, status: &mut TransferStatus, now: Timestamp) -> Option<Duration> {
    let of_run = run.run_status().cloned().unwrap_or_default();
    let RunStatus { message, attempt, progress, .. } = &of_run;
    status.phase = phase(of_run.phase);
    status.message.clone_from(message);
    status.accepted_timestamp = status.accepted_timestamp.take().or_else(|| of_run.started.clone());
    if let Some(attempt) = attempt {
        status.node.clone_from(&attempt.node);
    }
    if matches!(status.phase, TransferPhase::InProgress) {
        status.start_timestamp.get_or_insert(Time(now));
    }
    if let Some(progress) = progress {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let total_bytes = progress.bytes_total.map_or(0, signed);
        status.progress = TransferProgress { total_bytes, bytes_done: signed(progress.bytes_done) };
    }
    if status.phase.is_end() {
        let message = if message.is_empty() { "it ended, and left no reason".to_owned() } else { message.clone() };
        end(status, status.phase, &message, now);
        // It was, even if no one looked meanwhile.
        status.start_timestamp = status.start_timestamp.take().or_else(|| of_run.started.clone());
        if status.phase == TransferPhase::Completed {
            transfer.result(run, status);
        }
        return None;
    }
    warn_in_time(run, status, now)
}

/// Nobody asks Velero's own clock: whoever waits too long in the queue is told so while something can be done.
fn warn_in_time<R: Run>(run: &R, status: &mut TransferStatus, now: Timestamp) -> Option<Duration> {
    let gives_up: Timestamp = run.annotations().get(GIVES_UP)?.parse().ok()?;
    let since = run.creation_timestamp()?.0;
    let warn = since + gives_up.duration_since(since) * WARN_PERCENT / 100;
    if now < warn {
        return Some(warn.duration_since(now).unsigned_abs());
    }
    status.message = format!(
        "{}; Velero gives up at {} (itemOperationTimeout, which counts the time in the queue)",
        status.message,
        gives_up.strftime("%FT%TZ")
    );
    None
}

const fn phase(of_run: Phase) -> TransferPhase {
    match of_run {
        Phase::Pending | Phase::Accepted => TransferPhase::Accepted,
        Phase::Prepared | Phase::DatamoverDeploying => TransferPhase::Prepared,
        Phase::InProgress | Phase::Binding => TransferPhase::InProgress,
        Phase::Canceling => TransferPhase::Canceling,
        Phase::Completed => TransferPhase::Completed,
        Phase::Failed => TransferPhase::Failed,
        Phase::Canceled => TransferPhase::Canceled,
    }
}

/// What a run is called and whose it is.
fn metadata<T: Transfer>(transfer: &T, job: Option<&T::Job>) -> ObjectMeta {
    let owner = OwnerReference { block_owner_deletion: None, ..transfer.controller_owner_ref(&()).unwrap_or_default() };
    // Velero counts from here, too.
    let since = transfer.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |since| since.0);
    let timeout = job.and_then(Job::timeout).and_then(|timeout| timeout.parse::<SignedDuration>().ok()).filter(SignedDuration::is_positive);
    let gives_up = timeout.and_then(|timeout| since.checked_add(timeout).ok());
    let annotations: BTreeMap<_, _> = gives_up.map(|time| (GIVES_UP.to_owned(), time.to_string())).into_iter().collect();
    ObjectMeta {
        name: transfer.meta().name.clone(),
        namespace: transfer.namespace(),
        labels: Some([(NOT_FOR_VELERO.0.to_owned(), NOT_FOR_VELERO.1.to_owned())].into()),
        annotations: Some(annotations),
        // From the first moment on it disposes of what was made for it.
        finalizers: Some(vec![RUN_FINALIZER.to_owned()]),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

impl Transfer for DataUpload {
    type Run = VolumeBackup;
    type Job = Backup;

    fn transfer_status(&self) -> TransferStatus {
        self.status.clone().unwrap_or_default()
    }

    fn data_mover(&self) -> &str {
        &self.spec.datamover
    }

    fn is_cancelled(&self) -> bool {
        self.spec.cancel
    }

    fn location(&self) -> &str {
        &self.spec.backup_storage_location
    }

    fn run(&self, backup: Option<&Backup>) -> Result<VolumeBackup, String> {
        let snapshot = self.spec.csi_snapshot.as_ref().filter(|snapshot| !snapshot.volume_snapshot.is_empty());
        let Some(snapshot) = snapshot.filter(|_| self.spec.snapshot_type == "CSI") else {
            return Err(format!("it is of type {:?}, without a CSI snapshot: only those can be moved", self.spec.snapshot_type));
        };
        let tags = |backup: &Backup| {
            vec![format!("velero-backup={}", backup.name_any()), format!("velero-backup-uid={}", backup.uid().unwrap_or_default())]
        };
        let handed_over = HandedOver {
            namespace: self.spec.source_namespace.clone(),
            volume_snapshot: snapshot.volume_snapshot.clone(),
            claim: self.spec.source_pvc.clone(),
            storage_class: Some(snapshot.storage_class.clone()).filter(|class| !class.is_empty()),
            tags: backup.map(tags).unwrap_or_default(),
        };
        let is_scheduled = backup.is_some_and(|backup| backup.labels().contains_key(SCHEDULE));
        let spec = VolumeBackupSpec {
            repository: repository_name(self.location()),
            source: Source { handed_over: Some(handed_over), ..Source::default() },
            urgency: if is_scheduled { Urgency::Scheduled } else { Urgency::Manual },
            cancel: self.spec.cancel || backup.is_none(),
        };
        Ok(VolumeBackup { metadata: metadata(self, backup), ..VolumeBackup::new("", spec) })
    }

    fn result(&self, run: &VolumeBackup, status: &mut TransferStatus) {
        let result = run.status.as_ref().and_then(|status| status.result.clone()).unwrap_or_default();
        let id = SnapshotId {
            repository: result.repository_id,
            snapshot: result.snapshot_id,
            namespace: self.spec.source_namespace.clone(),
            claim: self.spec.source_pvc.clone(),
        };
        status.snapshot_id = id.to_string();
        if let Err(error) = status.snapshot_id.parse::<SnapshotId>() {
            // Found out now, not by a restore.
            status.phase = TransferPhase::Failed;
            status.message = format!("the mover stored something that no restore could find: {error}");
        }
        status.node_os = Some("linux".to_owned());
        status.incremental_bytes = result.bytes_stored.and_then(|bytes| i64::try_from(bytes).ok());
        if let Some(bytes) = result.bytes {
            status.progress = all(bytes);
        }
    }
}

impl Transfer for DataDownload {
    type Run = VolumeRestore;
    type Job = Restore;

    fn transfer_status(&self) -> TransferStatus {
        self.status.clone().unwrap_or_default()
    }

    fn data_mover(&self) -> &str {
        &self.spec.datamover
    }

    fn is_cancelled(&self) -> bool {
        self.spec.cancel
    }

    fn location(&self) -> &str {
        &self.spec.backup_storage_location
    }

    fn run(&self, restore: Option<&Restore>) -> Result<VolumeRestore, String> {
        let id: SnapshotId = self.spec.snapshot_id.parse()?;
        let target = &self.spec.target_volume;
        let stored =
            StoredSource { claim: Some(id.claim), namespace: Some(id.namespace), snapshot: Some(id.snapshot), ..StoredSource::default() };
        let spec = VolumeRestoreSpec {
            repository: repository_name(self.location()),
            source: RestoreSource { backup: None, stored },
            claim: target.pvc.clone(),
            claim_namespace: Some(target.namespace.clone()),
            accept_incomplete: false,
            cancel: self.spec.cancel || restore.is_none(),
        };
        Ok(VolumeRestore { metadata: metadata(self, restore), ..VolumeRestore::new("", spec) })
    }

    fn result(&self, run: &VolumeRestore, status: &mut TransferStatus) {
        if let Some(result) = run.status.as_ref().and_then(|status| status.result.as_ref()) {
            status.progress = all(result.bytes);
        }
    }
}

fn all(bytes: u64) -> TransferProgress {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    TransferProgress { total_bytes: bytes, bytes_done: bytes }
}
