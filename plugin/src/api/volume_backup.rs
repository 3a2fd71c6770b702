//! `VolumeBackup`: one claim, or one snapshot of it, into one snapshot of a repository.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NAME;
use super::mover_policy::CopyMethod;
use super::run::RunStatus;

/// One run that moves the data of a volume into a repository. It is a run, not the catalogue: the repository keeps what
/// it stored, however many runs are deleted.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "estiba.dev",
    version = "v1alpha1",
    kind = "VolumeBackup",
    plural = "volumebackups",
    namespaced,
    shortname = "vb",
    category = "estiba",
    status = "VolumeBackupStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.shown"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.progress.eta"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.attempt.node"),
    printcolumn(name = "Waiting for", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".status.result.snapshotId", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeBackupSpec {
    /// The Repository that stores it.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a run does not change its repository"))]
    pub repository: String,
    /// What is backed up.
    pub source: Source,
    /// Why: what somebody asked for goes before what is only due.
    #[serde(default)]
    pub urgency: Urgency,
    /// Stop, and clean up.
    #[serde(default)]
    pub cancel: bool,
}

/// A claim, or a snapshot that is there already; in the run's own namespace. Or a snapshot of another one, where Velero made it
/// for the run.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("[has(self.claim), has(self.volumeSnapshot), has(self.handedOver)].filter(b, b).size() == 1").message("name a claim or a volumeSnapshot, not both"),
    validation = Rule::new("self == oldSelf").message("a run does not change its source")
)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A PersistentVolumeClaim: a snapshot of it is made, and removed at the end.
    #[schemars(regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// A VolumeSnapshot: it is only read.
    #[schemars(regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<String>,
    /// A VolumeSnapshot that Velero made for this run, which removes it at the end. Only in Velero's own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<HandedOver>,
}

impl Source {
    /// Whether the snapshot is the run's to remove.
    #[must_use]
    pub const fn owns_snapshot(&self) -> bool {
        self.volume_snapshot.is_none()
    }
}

/// A VolumeSnapshot of another namespace, with what is known of the claim that it was taken of.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HandedOver {
    /// Where it is.
    #[schemars(regex(pattern = NAME))]
    pub namespace: String,
    /// Its name.
    #[schemars(regex(pattern = NAME))]
    pub volume_snapshot: String,
    /// The claim that it was taken of.
    #[schemars(regex(pattern = NAME))]
    pub claim: String,
    /// The claim's StorageClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// What the snapshot in the repository is tagged with, beside what all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Why a backup is made; the order in which slots are given.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody asked for it.
    #[default]
    Manual,
    /// Its time has passed more than once.
    Overdue,
    /// Its time has come.
    Scheduled,
}

/// What is known of a run.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeBackupStatus {
    /// How far it is.
    #[serde(flatten)]
    pub run: RunStatus,
    /// How the volume was fixed at a point in time.
    pub copy_method: CopyMethod,
    /// The volume, as it was when its snapshot was asked for: from then on nothing depends on its claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceVolume>,
    /// The snapshot of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<VolumeSnapshotSeen>,
    /// What was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<BackupResult>,
}

/// The volume that is backed up.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceVolume {
    /// Its StorageClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// Its size.
    pub bytes: i64,
    /// Its driver.
    pub driver: String,
    /// What it requires of nodes. None: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<NodeSelector>,
}

/// The snapshot of the volume, or its clone.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSnapshotSeen {
    /// The driver's own name for it.
    pub handle: String,
    /// The driver.
    pub driver: String,
    /// The point in time that the backup shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Time>,
    /// Bytes that a volume made from it needs.
    pub bytes: i64,
    /// StorageClass of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// What the source's volume requires of nodes. None: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<NodeSelector>,
    /// The VolumeSnapshotContent of the snapshot in the claim's namespace, until it is handed over; of a clone, its PersistentVolume.
    pub content: String,
    /// Of a clone: uid of the claim that it was made for, in the namespace of the claim that is backed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Of one that was handed over: uid of its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_uid: Option<String>,
}

/// What was stored.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupResult {
    /// The snapshot in the repository.
    pub snapshot_id: String,
    /// The repository's own id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repository_id: String,
    /// Bytes of the volume. None, like the next two: the mover that knew it could not say so any more, and another one found
    /// its snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes that the repository did not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_stored: Option<u64>,
    /// Bytes that attempts before this one had done, and that were neither read nor sent again. None: there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_resumed: Option<u64>,
    /// Files that could not be read: the snapshot is there without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<u64>,
}
