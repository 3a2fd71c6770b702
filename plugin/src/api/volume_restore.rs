//! `VolumeRestore`: one snapshot of a repository, or the newest before a time, into one claim.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NAME;
use super::run::RunStatus;

/// One run that fills a claim from a repository. The claim names the run in its `dataSourceRef` and stays Pending until its
/// data is complete.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "estiba.dev",
    version = "v1alpha1",
    kind = "VolumeRestore",
    plural = "volumerestores",
    namespaced,
    shortname = "vr",
    category = "estiba",
    status = "VolumeRestoreStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claim"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.shown"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.progress.eta"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.attempt.node"),
    printcolumn(name = "Waiting for", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".status.snapshotId", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("has(self.claimNamespace) == has(oldSelf.claimNamespace)").message("a run does not change its claim"))]
#[serde(rename_all = "camelCase")]
pub struct VolumeRestoreSpec {
    /// The Repository that has it.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a run does not change its repository"))]
    pub repository: String,
    /// What is restored.
    pub source: RestoreSource,
    /// The PersistentVolumeClaim that is filled: without a volume, its `dataSourceRef` this run.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a run does not change its claim"))]
    #[schemars(regex(pattern = NAME))]
    pub claim: String,
    /// Namespace of a claim that Velero made for this run, whose `selector` keeps it free until then. Only in Velero's own
    /// namespace; all others fill claims of theirs.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a run does not change its claim"))]
    #[schemars(regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_namespace: Option<String>,
    /// Take what could be restored, when some items could not: otherwise such a volume is given up.
    #[serde(default)]
    pub accept_incomplete: bool,
    /// Stop, and clean up: the claim stays Pending.
    #[serde(default)]
    pub cancel: bool,
}

/// A VolumeBackup of this namespace; or what the repository has of a claim: the snapshot with that id, or the newest, or
/// the newest that is not younger than a time.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.backup) != has(self.claim)").message("name a backup or a claim, not both"),
    validation = Rule::new("has(self.claim) || !(has(self.snapshot) || has(self.before) || has(self.__namespace__) || has(self.cluster))").message("snapshot, before, namespace and cluster go with a claim"),
    validation = Rule::new("!(has(self.snapshot) && has(self.before))").message("a snapshot is one point in time already: leave out before"),
    validation = Rule::new("self == oldSelf").message("a run does not change its source")
)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// A VolumeBackup that is completed.
    #[schemars(regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Or what the repository has.
    #[serde(flatten)]
    pub stored: StoredSource,
}

/// What a repository has of a claim, or of all: all of it, or one snapshot, or what is not younger than a time. A restore takes
/// the newest of that.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StoredSource {
    /// Name of the claim whose data it was.
    #[schemars(regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Id of the snapshot in the repository, or its first digits.
    #[schemars(regex(pattern = "^[0-9a-f]{6,64}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Only what is not younger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Time>,
    /// Namespace of the claim, if it is another one: the Repository must allow that.
    #[schemars(regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the cluster that made the snapshot; otherwise this one. For another cluster's the Repository must say
    /// `restores.byName`.
    #[schemars(regex(pattern = "^[A-Za-z0-9][^ ]{0,252}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// What is known of a run.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeRestoreStatus {
    /// How far it is.
    #[serde(flatten)]
    pub run: RunStatus,
    /// What the repository calls what is restored: `/namespace/claim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The snapshot in the repository, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// The claim, as it was when the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetSeen>,
    /// What was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RestoreResult>,
}

/// The claim that is filled.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetSeen {
    /// This very one.
    pub uid: String,
    /// Its class.
    pub storage_class: String,
    /// The driver that makes its volumes.
    pub driver: String,
    /// Its access modes.
    pub access_modes: Vec<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// Its size, as it says it.
    pub size: String,
    /// Its VolumeAttributesClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes_class: Option<String>,
}

/// What was restored.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreResult {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that movers before had written, which were interrupted.
    pub bytes_in_place: u64,
    /// Items that could not be restored as they were.
    pub incomplete: u64,
}
