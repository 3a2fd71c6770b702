//! `VolumeBackup`: one claim, or one snapshot of it, into one snapshot of a repository.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// A claim, or a snapshot that is there already; in the run's own namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.claim) != has(self.volumeSnapshot)").message("name a claim or a volumeSnapshot, not both"),
    validation = Rule::new("self == oldSelf").message("a run does not change its source")
)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A PersistentVolumeClaim: a snapshot of it is made, and removed at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// A VolumeSnapshot: it is only read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<String>,
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

/// How far a run is. In this order; the last three are ends.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing was done yet, or something is missing that only somebody else can give: see the reason.
    #[default]
    Pending,
    /// A snapshot was asked for: that fixes the point in time.
    Accepted,
    /// The snapshot can be used from Estiba's namespace; waiting for a slot, which costs no pod, CPU or memory.
    Prepared,
    /// A slot is its own; the claim is bound there, then the pod starts.
    DatamoverDeploying,
    /// The mover runs.
    InProgress,
    /// It was asked to stop.
    Canceling,
    /// The data is in the repository.
    Completed,
    /// It ended without a snapshot: see the message.
    Failed,
    /// It was stopped.
    Canceled,
}

impl Phase {
    /// Nothing more happens.
    #[must_use]
    pub const fn is_end(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Canceled => true,
            Self::Pending | Self::Accepted | Self::Prepared | Self::DatamoverDeploying | Self::InProgress | Self::Canceling => false,
        }
    }
}

/// What a run waits for, or why it ended.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The Repository is not there.
    RepositoryMissing,
    /// The Repository does not let this namespace in.
    NamespaceNotAllowed,
    /// The Repository's Secret is not there, or lacks a key.
    SecretMissing,
    /// The claim is not there.
    ClaimMissing,
    /// The claim has no volume.
    ClaimNotBound,
    /// The claim's volume is not of a CSI driver.
    NotCsi,
    /// No VolumeSnapshotClass fits the driver, or several do and none is the default.
    NoSnapshotClass,
    /// The VolumeSnapshot is not there.
    SnapshotMissing,
    /// The snapshot cannot be used yet.
    SnapshotNotReady,
    /// The driver could not make the snapshot.
    SnapshotFailed,
    /// As many claims as the policy allows are prepared already.
    WaitingToPrepare,
    /// No slot is free; the message says where it stands in the queue.
    WaitingForSlot,
    /// No node may run a mover that can reach the volume.
    NoNode,
    /// The claim made from the snapshot is not bound yet.
    ClaimBinding,
    /// The mover's pod has not started yet.
    PodStarting,
    /// The mover is at work.
    Moving,
    /// A mover failed; another one follows.
    Retrying,
    /// A mover failed as often as the policy allows, or in a way that another one would not mend.
    MoverFailed,
    /// The API server refused an object; the message says which and why.
    Refused,
    /// It was asked to stop.
    CancelRequested,
    /// All is done.
    Done,
    /// The object came out of a backup of itself: it is not run again.
    Skipped,
}

/// What is known of a run.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeBackupStatus {
    /// The generation of the spec that this is about.
    pub observed_generation: i64,
    /// How far it is.
    pub phase: Phase,
    /// What it waits for, or why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same in words.
    pub message: String,
    /// By kstatus: Ready, Reconciling, Stalled.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The snapshot of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<VolumeSnapshotSeen>,
    /// Where the mover can reach what it reads: what the backup claim's volume requires of nodes, before it is bound
    /// what the source's does. None: everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<NodeSelector>,
    /// The node and slot that are its own: every other decision counts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Attempts that were made, this one included.
    pub attempts: u32,
    /// Attempts whose mover failed.
    pub failures: u32,
    /// No attempt before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,
    /// When the phase was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// What the mover says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<BackupResult>,
    /// The last lines of the mover that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
    /// Nothing of what was made for it is left.
    pub cleaned: bool,
    /// When the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<Time>,
}

/// The snapshot of the volume.
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
    /// The VolumeSnapshotContent in the claim's namespace, until it is handed over.
    pub content: String,
}

/// A node and a slot on it, for one mover.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// The node.
    pub node: String,
    /// The slot, from 1.
    pub slot: u32,
}

/// What a mover says while it works.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// `42 %, 120 MiB/s`.
    pub shown: String,
    /// Time to the end: `3m20s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
    /// Bytes read so far.
    pub bytes_done: u64,
    /// Bytes in all, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Bytes a second.
    pub rate: u64,
    /// When the mover said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// What was stored.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupResult {
    /// The snapshot in the repository.
    pub snapshot_id: String,
    /// Bytes of the volume.
    pub bytes: u64,
    /// Bytes that the repository did not have.
    pub bytes_stored: u64,
    /// Files that could not be read: the snapshot is there without them.
    pub unreadable: u64,
}
