//! What all runs have in common: phases, reasons, the slot, the mover's progress.
#![allow(unreachable_pub, reason = "what the derives make")]

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a run is. In this order; the last three are ends.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing was done yet, or something is missing that only somebody else can give: see the reason.
    #[default]
    Pending,
    /// A snapshot, or clone, was asked for: that fixes the point in time (backups alone).
    Accepted,
    /// All is there; waiting for a slot, which costs no pod, CPU or memory.
    Prepared,
    /// A slot is its own; the claim is bound there, then the pod starts.
    DatamoverDeploying,
    /// The mover runs.
    InProgress,
    /// The volume is filled, and is being given to its claim (restores alone).
    Binding,
    /// It was asked to stop.
    Canceling,
    /// The data is where it should be.
    Completed,
    /// It ended without that: see the message.
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
            Self::Pending
            | Self::Accepted
            | Self::Prepared
            | Self::DatamoverDeploying
            | Self::InProgress
            | Self::Binding
            | Self::Canceling => false,
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
    /// The claim that is to be filled has a volume already, or is to be filled by something else; or a claim of ours was given
    /// a volume that was there before.
    ClaimTaken,
    /// The claim that is to be filled has no StorageClass, or one that is not there, makes no volumes, or takes Secrets that
    /// only the claim's own namespace has.
    NoStorageClass,
    /// The VolumeBackup that is to be restored is not there, stored no snapshot, or stored it into another Repository.
    BackupMissing,
    /// The VolumeBackup that is to be restored has not ended yet.
    BackupNotDone,
    /// The claim's volume is not of a CSI driver.
    NotCsi,
    /// No VolumeSnapshotClass fits the driver, or several do and none is the default.
    NoSnapshotClass,
    /// The VolumeSnapshot, or clone, is not there.
    SnapshotMissing,
    /// The snapshot, or clone, cannot be used yet.
    SnapshotNotReady,
    /// The driver could not make the snapshot, or clone.
    SnapshotFailed,
    /// No slot is free; the message says where it stands in the queue.
    WaitingForSlot,
    /// No node may run a mover that can reach the volume.
    NoNode,
    /// The claim that the mover mounts is not bound yet, or the one that was filled.
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

/// How far a run is, and why.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunStatus {
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
    /// Where the mover can reach its volume: what that requires of nodes, and before it is there what is known of where it
    /// will be. None: everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<NodeSelector>,
    /// The node and slot that are its own: every other decision counts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Attempts that were made, this one included.
    pub attempts: u32,
    /// Attempts whose mover failed.
    pub failures: u32,
    /// Attempts that were ended from outside: a drain, an eviction, a lost node.
    pub disruptions: u32,
    /// Why the last attempt that ended without a result did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setback: Option<String>,
    /// No attempt before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,
    /// The claim was used by a mover that did not finish: the next one gets a fresh one.
    pub renew_claim: bool,
    /// What movers have begun, and the next one goes on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    /// Since when no node that reaches it may run a mover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_node_since: Option<Time>,
    /// The volume of the mover's claim: looked for when the claim is gone, or has given it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_volume: Option<String>,
    /// The node where the last mover failed: others are tried first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid: Option<String>,
    /// When the phase was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// What the mover says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
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

/// A claim that is filled in part.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// Its uid.
    pub claim: String,
    /// Movers that failed in it.
    pub failures: u32,
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
    /// When it was last seen to say something new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}
