//! Velero's kinds, as far as they are read here. Fields that other releases have stay what they are: statuses are written by
//! merge patches, and of specs only what is known here is read.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// A volume that is to be stored: made for each claim of a Backup.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "velero.io",
    version = "v2alpha1",
    kind = "DataUpload",
    plural = "datauploads",
    namespaced,
    schema = "disabled",
    status = "TransferStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct DataUploadSpec {
    /// `CSI`.
    pub snapshot_type: String,
    /// The snapshot, of type `CSI`.
    pub csi_snapshot: Option<CsiSnapshot>,
    /// The claim.
    #[serde(rename = "sourcePVC")]
    pub source_pvc: String,
    /// Who is to do it.
    pub datamover: String,
    /// Where it is stored.
    pub backup_storage_location: String,
    /// The namespace of claim and snapshot.
    pub source_namespace: String,
    /// To be stopped.
    pub cancel: bool,
}

/// The snapshot of a volume.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSnapshot {
    /// The VolumeSnapshot.
    pub volume_snapshot: String,
    /// The claim's StorageClass.
    pub storage_class: String,
}

/// A volume that is to be filled: made for each claim of a Restore.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "velero.io",
    version = "v2alpha1",
    kind = "DataDownload",
    plural = "datadownloads",
    namespaced,
    schema = "disabled",
    status = "TransferStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct DataDownloadSpec {
    /// The claim that is to be filled.
    pub target_volume: TargetVolume,
    /// Where it is stored.
    pub backup_storage_location: String,
    /// Who is to do it.
    pub datamover: String,
    /// What the DataUpload's status said.
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
    /// To be stopped.
    pub cancel: bool,
}

/// The claim that is to be filled.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct TargetVolume {
    /// Its name.
    pub pvc: String,
    /// Its namespace.
    pub namespace: String,
}

/// How far a DataUpload or DataDownload is.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TransferStatus {
    /// Empty: nobody has seen it yet. Velero's kinds do not let that be written.
    #[serde(skip_serializing_if = "TransferPhase::is_unseen", deserialize_with = "phase_or_unknown")]
    pub phase: TransferPhase,
    /// In words. One that failed without any counts as completed.
    pub message: String,
    /// Of an upload: all that a restore is told of it.
    #[serde(rename = "snapshotID", skip_serializing_if = "String::is_empty")]
    pub snapshot_id: String,
    /// When a mover began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<Time>,
    /// When it was taken on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_timestamp: Option<Time>,
    /// Bytes.
    pub progress: TransferProgress,
    /// Of an upload: bytes that the repository did not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incremental_bytes: Option<i64>,
    /// Where the mover is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Of an upload: `linux`.
    #[serde(rename = "nodeOS", skip_serializing_if = "Option::is_none")]
    pub node_os: Option<String>,
}

/// Bytes of a volume.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct TransferProgress {
    /// In all.
    pub total_bytes: i64,
    /// So far.
    pub bytes_done: i64,
}

/// As both kinds allow it.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TransferPhase {
    /// Nobody has seen it.
    #[default]
    #[serde(rename = "")]
    Unseen,
    /// The same.
    New,
    /// Its snapshot is being made ready.
    Accepted,
    /// It waits for a slot, or a mover is about to start.
    Prepared,
    /// A mover is at work.
    InProgress,
    /// It is being stopped.
    Canceling,
    /// It was stopped.
    Canceled,
    /// It is done.
    Completed,
    /// It ended without that.
    Failed,
    /// One of a Velero that is newer than this: left alone.
    Unknown,
}

fn phase_or_unknown<'a, D: serde::Deserializer<'a>>(from: D) -> Result<TransferPhase, D::Error> {
    let name = String::deserialize(from)?;
    Ok(serde_json::from_value(serde_json::Value::String(name)).unwrap_or(TransferPhase::Unknown))
}

impl TransferPhase {
    /// Nothing more happens, as far as we know.
    #[must_use]
    pub const fn is_end(self) -> bool {
        match self {
            Self::Canceled | Self::Completed | Self::Failed | Self::Unknown => true,
            Self::Unseen | Self::New | Self::Accepted | Self::Prepared | Self::InProgress | Self::Canceling => false,
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    const fn is_unseen(&self) -> bool {
        matches!(self, Self::Unseen)
    }

    /// Nobody has taken it on.
    #[must_use]
    pub const fn is_new(self) -> bool {
        matches!(self, Self::Unseen | Self::New)
    }
}

/// A backup of namespaces, as somebody asked for it.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(group = "velero.io", version = "v1", kind = "Backup", plural = "backups", namespaced, schema = "disabled", derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct BackupSpec {
    /// How long Velero waits for all that is done for it: `4h0m0s`.
    pub item_operation_timeout: Option<String>,
}

/// A restore of a backup.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "velero.io",
    version = "v1",
    kind = "Restore",
    plural = "restores",
    namespaced,
    schema = "disabled",
    status = "RestoreStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreSpec {
    /// How long Velero waits for all that is done for it.
    pub item_operation_timeout: Option<String>,
}

/// How far a restore is.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct RestoreStatus {
    /// `InProgress`: objects are still being brought back.
    pub phase: String,
}

/// Where backups are kept.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "velero.io",
    version = "v1",
    kind = "BackupStorageLocation",
    plural = "backupstoragelocations",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStorageLocationSpec {
    /// Whose storage: `aws`, or `velero.io/aws`.
    pub provider: String,
    /// As the provider's plugin reads it.
    pub config: BTreeMap<String, String>,
    /// A Secret and a key in it, in Velero's namespace.
    pub credential: Option<SecretKey>,
    /// The bucket.
    pub object_storage: Option<ObjectStorage>,
    /// `ReadWrite`, or `ReadOnly`.
    pub access_mode: String,
}

/// A key of a Secret.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct SecretKey {
    /// The Secret.
    pub name: String,
    /// The key.
    pub key: String,
}

/// A bucket, and where in it.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectStorage {
    /// The bucket.
    pub bucket: String,
    /// Folder in the bucket.
    pub prefix: String,
    /// PEM.
    pub ca_cert: Option<ByteString>,
    /// The same in a Secret.
    pub ca_cert_ref: Option<SecretKey>,
}
