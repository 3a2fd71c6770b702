//! `Repository`: where backups are kept, with which key, and who may use it.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A deduplicating repository in S3, in restic's format.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "estiba.dev",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    shortname = "erepo",
    category = "estiba",
    status = "RepositoryStatus",
    derive = "PartialEq",
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.s3.bucket"),
    printcolumn(name = "Prefix", type_ = "string", json_path = ".spec.s3.prefix"),
    printcolumn(name = "Id", type_ = "string", json_path = ".status.id", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.s3) != has(self.velero)").message("say where it lies: s3, or velero"),
    validation = Rule::new("has(self.s3) == has(oldSelf.s3)").message("a repository does not move: make another one")
)]
pub struct RepositorySpec {
    /// Where it lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Location>,
    /// Or: beside Velero's backups, with Velero's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub velero: Option<VeleroLocation>,
    /// Secret in Estiba's namespace: `password`, and either `AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY`, or `credentials` (a
    /// file as AWS' own tools read it), or none of them, where movers have a web identity or Velero's credentials; `ca.crt` to
    /// trust a server's own authority.
    #[x_kube(validation = Rule::new("self.size() > 0").message("secret must be named"))]
    pub secret: String,
    /// Whether the first backup may create it.
    #[serde(default)]
    pub initialize: Initialize,
    /// Namespaces whose claims may be backed up into it.
    pub namespaces: Namespaces,
    /// How long what backups write can be neither removed nor replaced (S3 object lock); the bucket must be made for it. By default
    /// it is as the bucket itself says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
    /// What may be restored where. By default each namespace reads what it stored itself, and no other one does.
    #[serde(default)]
    pub restores: Restores,
}

/// How long, and how firmly, what is written is retained.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLock {
    /// Who may end it.
    pub mode: ObjectLockMode,
    /// For how long.
    #[schemars(range(min = 1, max = 3650))]
    pub days: u16,
}

/// Who may end that something is retained.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectLockMode {
    /// Whoever has `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

/// What may be restored where.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Restores {
    /// A namespace is its name: it may read what one of the same name has stored, also before it was deleted and made again,
    /// also from another cluster. Otherwise it is its uid, and reads only what it stored itself.
    pub by_name: bool,
    /// Further namespaces that may read another one's.
    pub allow: Vec<RestoreRule>,
}

/// Who else may read what a namespace stored.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRule {
    /// Name of the namespace whose data it is.
    pub from: String,
    /// Namespaces that may read it.
    pub into: Namespaces,
}

/// A place in S3.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a repository does not move: make another one"))]
#[serde(rename_all = "camelCase")]
pub struct S3Location {
    /// The bucket; it must exist.
    #[x_kube(validation = Rule::new("self.size() > 0").message("a bucket must be named"))]
    pub bucket: String,
    /// Folder in the bucket.
    #[serde(default)]
    pub prefix: String,
    /// URL of the server, where it is not AWS: `https://minio.example:9000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `https://server/bucket` instead of `https://bucket.server`; by default so where an endpoint is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Profile in the file of credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Nothing is written there: no backup is stored, and restores take no lock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A place beside Velero's backups: `plugins/estiba` under the prefix of a BackupStorageLocation.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a repository does not move: make another one"))]
#[serde(rename_all = "camelCase")]
pub struct VeleroLocation {
    /// Name of the BackupStorageLocation, in Velero's namespace.
    pub backup_storage_location: String,
}

/// Who creates a repository that is not there.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Initialize {
    /// The first backup, once; a repository that has been seen and is gone is never made again.
    #[default]
    IfMissing,
    /// Nobody.
    Never,
}

/// Which namespaces are meant: those named, and those whose labels fit.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector)").message("say which namespaces: names, or a selector; an empty selector means all"))]
#[serde(rename_all = "camelCase")]
pub struct Namespaces {
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// By their labels; an empty one fits all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// What was seen of it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The repository's own id, once seen: from then on no backup creates it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
