//! `MoverPolicy`: how many movers run on a node, and what they are made of.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many movers may run on each node, how far ahead claims are prepared, and what mover pods look like. Only the one
/// named `default` counts; without it, its defaults do.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "estiba.dev",
    version = "v1alpha1",
    kind = "MoverPolicy",
    plural = "moverpolicies",
    shortname = "mpol",
    category = "estiba",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name == 'default'").message("there is one policy for a cluster, and its name is default"),
    printcolumn(name = "Movers", type_ = "integer", json_path = ".spec.moversPerNode"),
    printcolumn(name = "Reserved", type_ = "integer", json_path = ".spec.reservedForRestore"),
    printcolumn(name = "Ahead", type_ = "integer", json_path = ".spec.prepareAhead"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MoverPolicySpec {
    /// Movers that may run on a node at once. 0: none.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default = "one")]
    pub movers_per_node: u32,
    /// Other numbers for some nodes; the first whose labels fit counts.
    #[serde(default)]
    pub nodes: Vec<NodeRule>,
    /// Slots of each node that backups may not take. At most one less than the node has: backups never starve.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default)]
    pub reserved_for_restore: u32,
    /// Claims of ours that may exist for runs that wait for a slot.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default = "four")]
    pub prepare_ahead: u32,
    /// How long a snapshot may take until it can be used.
    #[schemars(range(min = 1))]
    #[serde(default = "ten_minutes")]
    pub snapshot_timeout_seconds: u32,
    /// How long a mover may take from its slot to its start.
    #[schemars(range(min = 1))]
    #[serde(default = "ten_minutes")]
    pub start_timeout_seconds: u32,
    /// Movers that may fail in one run before the run does.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default = "three")]
    pub retries: u32,
    /// How claims of a StorageClass are backed up.
    #[serde(default)]
    pub classes: Vec<ClassRule>,
    /// What mover pods look like.
    #[serde(default)]
    pub pod: PodRule,
}

const fn one() -> u32 {
    1
}

const fn three() -> u32 {
    3
}

const fn four() -> u32 {
    4
}

const fn ten_minutes() -> u32 {
    600
}

impl Default for MoverPolicySpec {
    fn default() -> Self {
        Self {
            movers_per_node: one(),
            nodes: Vec::new(),
            reserved_for_restore: 0,
            prepare_ahead: four(),
            snapshot_timeout_seconds: ten_minutes(),
            start_timeout_seconds: ten_minutes(),
            retries: three(),
            classes: Vec::new(),
            pod: PodRule::default(),
        }
    }
}

/// Another number of movers for nodes whose labels fit.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeRule {
    /// Which nodes.
    pub selector: LabelSelector,
    /// Movers at once on each.
    #[schemars(range(min = 0, max = 100))]
    pub movers: u32,
}

/// How claims of one StorageClass are backed up.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClassRule {
    /// The class of the claim that is backed up.
    pub storage_class: String,
    /// How a volume is fixed at a point in time: `Snapshot`, or `Clone` where the driver has no snapshots.
    #[serde(default)]
    pub copy_method: CopyMethod,
    /// The VolumeSnapshotClass to use; otherwise the driver's default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
    /// The class of the claim that is made from the snapshot, or of the clone; otherwise the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_storage_class: Option<String>,
    /// Its access mode; `ReadOnlyMany` only where the driver makes such claims from snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
}

/// How a volume is fixed at a point in time.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CopyMethod {
    /// By a VolumeSnapshot.
    #[default]
    Snapshot,
    /// By a clone of the claim, made beside it for a while. The chart must allow it: `clones: true`.
    Clone,
}

/// Access modes of backup claims.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// One node.
    ReadWriteOnce,
    /// One pod.
    ReadWriteOncePod,
    /// Many nodes, none writes.
    ReadOnlyMany,
    /// Many nodes.
    ReadWriteMany,
}

impl AccessMode {
    /// As claims write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
            Self::ReadOnlyMany => "ReadOnlyMany",
            Self::ReadWriteMany => "ReadWriteMany",
        }
    }
}

/// The parts of mover pods that may be chosen.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodRule {
    /// Requests and limits of the mover. Its memory limit should be a quarter above `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Memory that a mover may use for what is in flight, as `mover --memory` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Nodes that movers may run on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that movers bear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Priority class of movers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Further labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
