//! What Velero asks for, as runs of ours; and what they say, in Velero's words.
#![allow(clippy::unwrap_used, clippy::panic)]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plugin::api::run::{Attempt, Phase, Progress};
use plugin::api::volume_backup::{BackupResult, VolumeBackupStatus};
use plugin::api::volume_restore::RestoreResult;
use plugin::api::{RunStatus, VolumeBackup, VolumeRestore};
use plugin::run::Run;
use plugin::velero::api::{Backup, DataDownload, DataUpload, Restore, TransferPhase, TransferStatus};
use plugin::velero::{Act, Decision, Seen, Transfer, decide};
use serde_json::{Value, json};

const SNAPSHOT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn of<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// Noon.
fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn metadata(name: &str, owner: &Value) -> Value {
    json!({"name": name, "namespace": "velero", "uid": format!("uid-of-{name}"), "creationTimestamp": "2026-11-22T08:00:00Z", "ownerReferences": [owner]})
}

fn upload() -> DataUpload {
    let owner = json!({"apiVersion": "velero.io/v1", "kind": "Backup", "name": "b", "uid": "uid-of-b", "controller": true});
    // As Velero 1.18 writes it; a later one writes more.
    of(json!({"metadata": metadata("b-x7", &owner), "spec": {"snapshotType": "CSI", "datamover": "estiba", "sourcePVC": "data",
        "sourceNamespace": "shop", "backupStorageLocation": "default", "operationTimeout": "10m0s", "parentSnapshot": "auto",
        "csiSnapshot": {"volumeSnapshot": "velero-data-1", "storageClass": "fast", "snapshotClass": "c", "driver": "d"}}}))
}

fn backup() -> Backup {
    of(
        json!({"metadata": {"name": "b", "namespace": "velero", "uid": "uid-of-b"}, "spec": {"itemOperationTimeout": "4h0m0s", "ttl": "720h0m0s"}}),
    )
}

fn download() -> DataDownload {
    let owner = json!({"apiVersion": "velero.io/v1", "kind": "Restore", "name": "r", "uid": "uid-of-r", "controller": true});
    of(json!({"metadata": metadata("r-y8", &owner), "spec": {"datamover": "estiba", "backupStorageLocation": "default",
        "snapshotID": format!("estiba1:{SNAPSHOT}:{SNAPSHOT}:/shop/data"), "sourceNamespace": "shop", "operationTimeout": "10m0s",
        "targetVolume": {"pvc": "data", "namespace": "other", "pv": ""}}}))
}

fn restore() -> Restore {
    of(json!({"metadata": {"name": "r", "namespace": "velero", "uid": "uid-of-r"}, "spec": {}, "status": {"phase": "InProgress"}}))
}

fn begin<T: Transfer>(transfer: T, job: T::Job) -> Seen<T> {
    Seen { transfer, run: None, job: Some(job), waits_for: None }
}

fn created<T: Transfer>(seen: &Seen<T>) -> T::Run {
    match decide(seen, noon()).act {
        Some(Act::Create(run)) => *run,
        _ => panic!("no run is made"),
    }
}

/// An upload whose run is that far.
fn at(status: RunStatus) -> Seen<DataUpload> {
    let mut seen = begin(upload(), backup());
    let mut run = created(&seen);
    run.metadata.creation_timestamp = upload().metadata.creation_timestamp;
    let result = BackupResult { snapshot_id: SNAPSHOT.to_owned(), repository_id: SNAPSHOT.to_owned(), ..BackupResult::default() };
    run.status = Some(VolumeBackupStatus { run: status, result: Some(result), ..VolumeBackupStatus::default() });
    seen.run = Some(run);
    seen
}

fn look(seen: &Seen<DataUpload>) -> Decision<VolumeBackup> {
    decide(seen, noon())
}

#[test]
fn an_upload_is_a_backup_of_the_snapshot_that_it_hands_over() {
    let run = created(&begin(upload(), backup()));
    let expected = json!({
        "apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeBackup",
        "metadata": {"name": "b-x7", "namespace": "velero", "finalizers": ["estiba.dev/cleanup"], "labels": {"velero.io/exclude-from-backup": "true"},
            "annotations": {"estiba.dev/velero-gives-up": "2026-11-22T12:00:00Z"},
            "ownerReferences": [{"apiVersion": "velero.io/v2alpha1", "kind": "DataUpload", "name": "b-x7", "uid": "uid-of-b-x7", "controller": true}]},
        "spec": {"repository": "velero-default", "urgency": "Manual", "cancel": false, "source": {"handedOver": {"namespace": "shop",
            "volumeSnapshot": "velero-data-1", "claim": "data", "storageClass": "fast",
            "tags": ["velero-backup=b", "velero-backup-uid=uid-of-b"]}}},
    });
    assert_eq!(serde_json::to_value(&run).unwrap(), expected);
    let mut scheduled = backup();
    scheduled.metadata.labels = Some([("velero.io/schedule-name".to_owned(), "nightly".to_owned())].into());
    assert_eq!(serde_json::to_value(created(&begin(upload(), scheduled)).spec.urgency).unwrap(), "Scheduled");
}

#[test]
fn a_download_is_a_restore_into_the_claim_that_velero_keeps_free() {
    let run = created(&begin(download(), restore()));
    let expected = json!({"repository": "velero-default", "source": {"claim": "data", "namespace": "shop", "snapshot": SNAPSHOT},
        "claim": "data", "claimNamespace": "other", "acceptIncomplete": false, "cancel": false});
    assert_eq!(serde_json::to_value(&run.spec).unwrap(), expected);
    // Its claim, or whoever uses it, is still being brought back.
    let waiting = Seen { waits_for: Some("whoever uses it".to_owned()), ..begin(download(), restore()) };
    let decision = decide(&waiting, noon());
    assert_eq!((decision.act, decision.status.phase, decision.status.message.as_str()), (None, TransferPhase::New, "whoever uses it"));
    assert!(decision.again.is_some());
}

#[test]
fn what_cannot_be_done_fails_with_words() {
    let other = |path: &str, value: &str| {
        let mut json = serde_json::to_value(upload()).unwrap();
        *json.pointer_mut(path).unwrap() = json!(value);
        begin(of::<DataUpload>(json), backup())
    };
    for seen in [other("/spec/snapshotType", "kopia"), other("/spec/csiSnapshot/volumeSnapshot", "")] {
        let decision = look(&seen);
        assert_eq!((decision.act, decision.status.phase), (None, TransferPhase::Failed));
        assert!(decision.status.message.contains("CSI snapshot") && decision.status.completion_timestamp.is_some());
    }
    for id in ["", "36e8b8d3"] {
        let mut download = download();
        id.clone_into(&mut download.spec.snapshot_id);
        let decision = decide(&begin(download, restore()), noon());
        assert_eq!(decision.status.phase, TransferPhase::Failed);
        assert!(decision.status.message.contains("snapshotID"), "{}", decision.status.message);
    }
    // Its Backup is gone: its run only disposes of the snapshot.
    let alone = created(&Seen { job: None, ..begin(upload(), backup()) });
    assert!(alone.is_cancelled() && alone.spec.source.handed_over.unwrap().tags.is_empty());
    // What was stored has no name that a restore could find.
    let mut nameless = at(RunStatus { phase: Phase::Completed, message: "done".to_owned(), ..RunStatus::default() });
    nameless.run.as_mut().unwrap().status.as_mut().unwrap().result = None;
    let decision = look(&nameless);
    assert!(decision.status.phase == TransferPhase::Failed && decision.status.message.contains("no restore could find"));
    // Somebody removed the run, or another one has its name.
    let mut removed = begin(upload(), backup());
    removed.transfer.status = Some(TransferStatus { phase: TransferPhase::Prepared, ..TransferStatus::default() });
    assert_eq!(look(&removed).status.message, "its VolumeBackup was removed before it had ended");
    let mut foreign = at(RunStatus::default());
    foreign.run.as_mut().unwrap().metadata.owner_references = None;
    let decision = look(&foreign);
    assert_eq!((decision.act, decision.status.phase), (None, TransferPhase::Failed));
}

#[test]
fn what_is_of_another_mover_or_has_ended_is_left_alone() {
    for mover in ["", "velero", "kubevirt"] {
        let mut seen = begin(upload(), backup());
        mover.clone_into(&mut seen.transfer.spec.datamover);
        let Decision { status, act, again } = look(&seen);
        assert_eq!((status, act, again), (TransferStatus::default(), None, None));
    }
    for phase in [TransferPhase::Completed, TransferPhase::Failed, TransferPhase::Canceled] {
        let mut seen = at(RunStatus { phase: Phase::InProgress, ..RunStatus::default() });
        let ended = TransferStatus { phase, message: "so".to_owned(), ..TransferStatus::default() };
        seen.transfer.status = Some(ended.clone());
        seen.transfer.spec.cancel = true;
        let Decision { status, act, again } = look(&seen);
        assert_eq!((status, act, again), (ended, None, None));
    }
}

#[test]
fn each_phase_has_its_name_at_velero() {
    let cases = [
        (Phase::Pending, "Accepted"),
        (Phase::Accepted, "Accepted"),
        (Phase::Prepared, "Prepared"),
        (Phase::DatamoverDeploying, "Prepared"),
        (Phase::InProgress, "InProgress"),
        (Phase::Binding, "InProgress"),
        (Phase::Canceling, "Canceling"),
        (Phase::Completed, "Completed"),
        (Phase::Failed, "Failed"),
        (Phase::Canceled, "Canceled"),
    ];
    for (phase, name) in cases {
        let decision = look(&at(RunStatus { phase, message: "why".to_owned(), ..RunStatus::default() }));
        let status = serde_json::to_value(&decision.status).unwrap();
        assert_eq!((status["phase"].as_str().unwrap(), decision.act), (name, None));
        assert!(status["message"].as_str().unwrap().starts_with("why"));
        assert_eq!(status.get("completionTimestamp").is_some(), phase.is_end());
        // One that failed without a message would count as completed.
        let silent = look(&at(RunStatus { phase, ..RunStatus::default() }));
        assert!(!phase.is_end() || !silent.status.message.is_empty());
    }
}

#[test]
fn progress_and_result_are_told() {
    let attempt = Attempt { number: 1, node: "node-a".to_owned(), slot: 1 };
    let progress = Progress { bytes_done: 3, bytes_total: Some(10), ..Progress::default() };
    let began = Some(Time("2026-11-22T09:00:00Z".parse().unwrap()));
    let at_work =
        RunStatus { phase: Phase::InProgress, attempt: Some(attempt), progress: Some(progress), started: began, ..RunStatus::default() };
    let status = serde_json::to_value(look(&at(at_work.clone())).status).unwrap();
    assert_eq!((&status["progress"], &status["node"]), (&json!({"totalBytes": 10, "bytesDone": 3}), &json!("node-a")));
    assert_eq!((&status["startTimestamp"], &status["acceptedTimestamp"]), (&json!("2026-11-22T12:00:00Z"), &json!("2026-11-22T09:00:00Z")));

    let mut done = at(RunStatus { phase: Phase::Completed, message: "done".to_owned(), progress: None, ..at_work });
    done.transfer.status = Some(of(status));
    let result = BackupResult {
        snapshot_id: SNAPSHOT.to_owned(),
        repository_id: SNAPSHOT.to_owned(),
        bytes: Some(12),
        bytes_stored: Some(4),
        ..BackupResult::default()
    };
    done.run.as_mut().unwrap().status.as_mut().unwrap().result = Some(result);
    let status = serde_json::to_value(look(&done).status).unwrap();
    let expected = json!({"phase": "Completed", "message": "done", "snapshotID": format!("estiba1:{SNAPSHOT}:{SNAPSHOT}:/shop/data"),
        "progress": {"totalBytes": 12, "bytesDone": 12}, "incrementalBytes": 4, "node": "node-a", "nodeOS": "linux",
        "acceptedTimestamp": "2026-11-22T09:00:00Z", "startTimestamp": "2026-11-22T12:00:00Z", "completionTimestamp": "2026-11-22T12:00:00Z"});
    assert_eq!(status, expected);
    // And that is what a restore is told.
    let mut next = download();
    next.spec.snapshot_id = status["snapshotID"].as_str().unwrap().to_owned();
    let mut seen = begin(next, restore());
    let mut run: VolumeRestore = created(&seen);
    let status = run.status.get_or_insert_default();
    status.run.phase = Phase::Completed;
    status.result = Some(RestoreResult { bytes: 12, ..RestoreResult::default() });
    seen.run = Some(run);
    assert_eq!(decide(&seen, noon()).status.progress.total_bytes, 12);
}

#[test]
fn what_is_cancelled_is_told_to_stop_and_disposes_of_its_snapshot() {
    let mut unseen = begin(upload(), backup());
    unseen.transfer.spec.cancel = true;
    assert!(created(&unseen).is_cancelled());
    let mut at_work = at(RunStatus { phase: Phase::InProgress, ..RunStatus::default() });
    at_work.transfer.spec.cancel = true;
    assert_eq!(look(&at_work).act, Some(Act::Cancel));
    at_work.run.as_mut().unwrap().spec.cancel = true;
    assert_eq!(look(&at_work).act, None);
    let mut late = at(RunStatus { phase: Phase::Completed, ..RunStatus::default() });
    late.transfer.spec.cancel = true;
    assert_eq!(look(&late).act, None, "what is done is done");
    let mut restoring = Seen { waits_for: Some("somebody".to_owned()), ..begin(download(), restore()) };
    restoring.transfer.spec.cancel = true;
    assert!(created(&restoring).is_cancelled());
}

#[test]
fn who_waits_too_long_is_warned_before_velero_gives_up() {
    let waiting = at(RunStatus { phase: Phase::Prepared, message: "place 2 of 3".to_owned(), ..RunStatus::default() });
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let early = decide(&waiting, time("2026-11-22T10:59:00Z"));
    assert_eq!((early.status.message.as_str(), early.again.unwrap().as_secs()), ("place 2 of 3", 60));
    let late = decide(&waiting, time("2026-11-22T11:00:00Z"));
    assert!(late.status.message.starts_with("place 2 of 3; Velero gives up at 2026-11-22T12:00:00Z"), "{}", late.status.message);
    // An end needs no warning.
    let ended = decide(&at(RunStatus { phase: Phase::Completed, message: "done".to_owned(), ..RunStatus::default() }), noon());
    assert_eq!(ended.status.message, "done");
}
