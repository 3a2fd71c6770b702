//! The snapshot kinds of the CSI project, as far as they are used here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// A snapshot of a claim, as its namespace sees it.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "snapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeSnapshot",
    plural = "volumesnapshots",
    namespaced,
    schema = "disabled",
    status = "VolumeSnapshotStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSpec {
    /// What it shows.
    pub source: VolumeSnapshotSource,
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_class_name: Option<String>,
}

/// A claim to take it of, or a content that is there.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSource {
    /// The claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_name: Option<String>,
    /// The content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_content_name: Option<String>,
}

/// What is known of it.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    /// Its content, once there.
    pub bound_volume_snapshot_content_name: Option<String>,
    /// The point in time.
    pub creation_time: Option<Time>,
    /// Whether a volume can be made of it.
    pub ready_to_use: Option<bool>,
    /// Bytes that such a volume needs.
    pub restore_size: Option<Quantity>,
    /// What went wrong last.
    pub error: Option<VolumeSnapshotError>,
}

/// What went wrong.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotError {
    /// In the driver's words.
    pub message: Option<String>,
    /// When.
    pub time: Option<Time>,
}

/// A snapshot, as the storage has it.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "snapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeSnapshotContent",
    plural = "volumesnapshotcontents",
    schema = "disabled",
    status = "VolumeSnapshotContentStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContentSpec {
    /// The VolumeSnapshot that it is bound to.
    pub volume_snapshot_ref: ObjectReference,
    /// Whether the storage's snapshot goes with it: `Delete` or `Retain`.
    pub deletion_policy: String,
    /// The driver.
    pub driver: String,
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_class_name: Option<String>,
    /// What it was made of.
    pub source: VolumeSnapshotContentSource,
    /// `Filesystem` or `Block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_volume_mode: Option<String>,
}

/// A volume to take it of, or a snapshot that is there.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContentSource {
    /// The driver's name for the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_handle: Option<String>,
    /// The driver's name for the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_handle: Option<String>,
}

/// What is known of it.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContentStatus {
    /// The driver's name for the snapshot.
    pub snapshot_handle: Option<String>,
    /// Nanoseconds since 1970.
    pub creation_time: Option<i64>,
    /// Whether a volume can be made of it.
    pub ready_to_use: Option<bool>,
    /// Bytes that such a volume needs.
    pub restore_size: Option<i64>,
    /// What went wrong last.
    pub error: Option<VolumeSnapshotError>,
}

/// How a driver takes snapshots.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "snapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeSnapshotClass",
    plural = "volumesnapshotclasses",
    schema = "disabled",
    no_spec,
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotClassFields {
    /// The driver.
    pub driver: String,
    /// Whether the storage's snapshot goes with its object.
    pub deletion_policy: String,
    /// For the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BTreeMap<String, String>>,
}
