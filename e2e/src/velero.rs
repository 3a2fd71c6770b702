//! Velero's server on this machine, and its command line.

use serde_json::Value;

use crate::cluster::{Cluster, wait_for};
use crate::program::{Program, Ran, restic, tool};

/// Where Velero is.
pub const VELERO: &str = "velero";
/// The repository beside its backups.
const REPOSITORY: &str = "s3:http://10.244.0.1:19000/velero/cluster/plugins/estiba";

/// The server; it ends when this is dropped, and all that it was asked for goes before.
#[derive(Debug)]
pub struct Velero {
    cluster: &'static Cluster,
}

impl Velero {
    /// Starts it.
    pub fn start(cluster: &'static Cluster) -> Self {
        cluster.script(&["velero-start"]);
        Self { cluster }
    }

    /// Ends it at once, and starts it again.
    pub fn restart(&self) {
        self.cluster.script(&["velero-stop", "KILL"]);
        self.cluster.script(&["velero-start"]);
    }

    /// `velero`, as an administrator; it must succeed.
    pub fn ok(&self, args: &[&str]) -> Ran {
        let home = self.cluster.state.to_str().unwrap();
        Program::new(tool("velero")).env("KUBECONFIG", self.cluster.state.join("kubeconfig")).env("HOME", home).ok(args)
    }

    /// The server ends, and all backups that it knew are gone, save what is in its bucket.
    pub fn forget_cluster(&self) {
        self.cluster.script(&["velero-stop"]);
        self.cluster.kubectl().ok(&["delete", "backups.velero.io", "--all", "--namespace", VELERO, "--timeout", "100s"]);
        let runs = || self.cluster.list(&["vb,vr,datauploads.velero.io", "--namespace", VELERO]);
        wait_for("all runs to go", || runs().is_empty());
    }

    /// Whether it knows one.
    pub fn is_there(&self, kind: &str, name: &str) -> bool {
        self.cluster.kubectl().run(&["get", &format!("{kind}.velero.io"), name, "--namespace", VELERO]).code == 0
    }

    /// Asks for a backup of a namespace.
    pub fn back_up(&self, name: &str, namespace: &str, args: &[&str]) {
        let wanted = ["backup", "create", name, "--include-namespaces", namespace, "--snapshot-move-data", "--data-mover", "estiba"];
        self.ok(&[&wanted, args].concat());
    }

    /// Asks for a restore of a backup.
    pub fn restore(&self, name: &str, backup: &str, args: &[&str]) {
        self.ok(&[&["restore", "create", name, "--from-backup", backup], args].concat());
    }

    /// Waits until a `backup` or `restore` has ended in this phase.
    pub fn ends(&self, kind: &str, name: &str, phase: &str) {
        let ended = |phase: &str| ["Completed", "PartiallyFailed", "Failed", "FailedValidation"].contains(&phase);
        let mut last = Value::Null;
        wait_for(&format!("the end of {kind} {name}"), || {
            last = self.get(kind, name)["status"].clone();
            last["phase"].as_str().is_some_and(ended)
        });
        assert!(last["phase"] == phase, "{last:#}\n{}", self.ok(&[kind, "describe", name, "--details"]).stdout);
    }

    /// Waits until a `backup` or `restore` is in this phase.
    pub fn reaches(&self, kind: &str, name: &str, phase: &str) {
        wait_for(&format!("{kind} {name} to be {phase}"), || self.get(kind, name)["status"]["phase"] == phase);
    }

    /// One of its objects.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.cluster.get(&[&format!("{kind}.velero.io"), name, "--namespace", VELERO])
    }

    /// What it asked of data movers, for one backup or restore: `dataupload` with `backup-name=NAME`, for instance.
    pub fn transfers(&self, kind: &str, of: &str) -> Vec<Value> {
        self.cluster.list(&[&format!("{kind}.velero.io"), "--namespace", VELERO, "--selector", &format!("velero.io/{of}")])
    }

    /// What the repository has of a backup, as stock restic lists it.
    pub fn stored(&self, backup: &str) -> Vec<Value> {
        let tag = format!("velero-backup-uid={}", self.get("backup", backup)["metadata"]["uid"].as_str().unwrap());
        serde_json::from_str(&self.restic().ok(&["snapshots", "--tag", &tag, "--json"]).stdout).unwrap()
    }

    /// Stock restic on the repository beside its backups.
    pub fn restic(&self) -> Program {
        restic("restic-new", REPOSITORY).env("AWS_ACCESS_KEY_ID", "estiba-test").env("AWS_SECRET_ACCESS_KEY", "estiba-secret")
    }
}

impl Drop for Velero {
    fn drop(&mut self) {
        let all = |kind: &str| self.cluster.list(&[&format!("{kind}.velero.io"), "--namespace", VELERO]).is_empty();
        let cleared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for kind in ["restore", "backup"] {
                self.ok(&[kind, "delete", "--all", "--confirm"]);
            }
            wait_for("Velero to forget all", || ["restore", "backup", "dataupload", "datadownload"].iter().all(|kind| all(kind)));
        }));
        self.cluster.script(&["velero-stop"]);
        if let (Err(panic), false) = (cleared, std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}
