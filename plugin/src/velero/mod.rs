//! Velero's data mover: its DataUploads and DataDownloads, done by runs of ours.
//!
//! ```text
//!  DataUpload ───► VolumeBackup (the snapshot is handed over) ─┐
//!  DataDownload ─► VolumeRestore (into the claim it names) ────┴─► phases, progress, messages ─► its status
//!  BackupStorageLocation ─► Repository beside its backups, under plugins/estiba
//! ```
//! What is done, and when, the runs decide: here is no second state. A run has the name of what it is made for, and goes with
//! it; both are in Velero's namespace.

pub mod api;
mod location;
mod reconcile;
mod snapshot_id;
mod transfer;

pub use self::location::{LocationSeen, repository_name};
pub use self::reconcile::{Read, reconcile};
pub use self::snapshot_id::SnapshotId;
pub use self::transfer::{Act, Decision, Job, Seen, Transfer, decide};

/// What backups name: `spec.datamover`, `velero backup create --data-mover`.
pub const DATA_MOVER: &str = "estiba";
/// Secret with the password of repositories beside Velero's backups, in Estiba's namespace. It is nobody's to invent: a second
/// cluster needs the same.
pub const SECRET: &str = "estiba-velero";
/// What the selector of a claim asks of its volume, so that nobody else gives it one.
pub const DYNAMIC_VOLUME: &str = "velero.io/dynamic-pv-restore";
