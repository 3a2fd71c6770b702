//! `RepositoryQuery`: what a repository has of a claim, and what is in it, without restoring it.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::run::{Phase, Reason};
use super::volume_restore::StoredSource;

/// A question about what is stored. Without `files` the answer is a list of snapshots, the newest first; with it, what is in
/// one of them. The object goes by itself a while after its answer.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "estiba.dev",
    version = "v1alpha1",
    kind = "RepositoryQuery",
    plural = "repositoryqueries",
    namespaced,
    shortname = "rq",
    category = "estiba",
    status = "RepositoryQueryStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.source.claim"),
    printcolumn(name = "Waiting for", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("a question does not change: ask another one"),
    validation = Rule::new("!has(self.files) || has(self.source.claim)").message("files are of one claim: name it"),
    validation = Rule::new("has(self.files) || !has(self.source.snapshot)").message("a snapshot is named to list its files")
)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryQuerySpec {
    /// The Repository that is asked.
    pub repository: String,
    /// What was stored of a claim; without one, of all claims of the namespace.
    pub source: StoredSource,
    /// List what is in the newest snapshot that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesQuery>,
    /// Entries that are left out: those of the pages before.
    #[schemars(range(min = 0, max = 10_000_000))]
    #[serde(default)]
    pub skip: u32,
    /// Entries of the answer, at most.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "five_hundred")]
    pub limit: u32,
}

const fn five_hundred() -> u32 {
    500
}

/// Which files.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FilesQuery {
    /// A directory or file of the volume.
    #[schemars(length(min = 1, max = 4096))]
    #[serde(default = "root")]
    pub path: String,
    /// Everything below it, not only what is in it.
    #[serde(default)]
    pub recursive: bool,
}

fn root() -> String {
    "/".to_owned()
}

/// The answer.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RepositoryQueryStatus {
    /// Pending, InProgress, Completed or Failed.
    pub phase: Phase,
    /// What it waits for, or why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same in words.
    pub message: String,
    /// When the phase was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// The snapshot whose files these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotEntry>,
    /// Snapshots, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotEntry>,
    /// Files, each directory before what it holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
    /// There are more: ask again, and skip these.
    pub more: bool,
}

/// One snapshot.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: String,
    /// The point in time that it shows.
    pub time: String,
    /// What the repository calls it: `/namespace/claim`.
    pub path: String,
    /// The cluster that made it.
    pub cluster: String,
    /// Bytes of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// One file, directory or other entry.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct FileEntry {
    /// From the root of the volume; bytes that are not text are escaped.
    pub path: String,
    /// `file`, `dir`, `symlink` or another, as restic names them.
    #[serde(rename = "type")]
    pub kind: String,
    /// Permissions, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When its content was last changed.
    pub mtime: String,
}
