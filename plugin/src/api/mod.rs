//! The kinds of `estiba.dev/v1alpha1`: what users write, and what they read back.
//!
//! The custom resource definitions are made from these types by `make crds`; nobody edits them by hand.

pub mod backup_schedule;
pub mod conditions;
pub mod external;
pub mod mover_policy;
pub mod repository;
pub mod repository_query;
pub mod run;
pub mod volume_backup;
pub mod volume_restore;

use kube::core::crd::CustomResourceExt;

pub use self::backup_schedule::{BackupSchedule, BackupScheduleSpec};
pub use self::mover_policy::{MoverPolicy, MoverPolicySpec};
pub use self::repository::{Repository, RepositorySpec};
pub use self::repository_query::{RepositoryQuery, RepositoryQuerySpec};
pub use self::run::RunStatus;
pub use self::volume_backup::{VolumeBackup, VolumeBackupSpec, VolumeBackupStatus};
pub use self::volume_restore::{VolumeRestore, VolumeRestoreSpec, VolumeRestoreStatus};

/// Group of all kinds, and prefix of labels, annotations and finalizers.
pub const GROUP: &str = "estiba.dev";

/// Names of claims, snapshots and namespaces: what is made of them must name nothing else.
const NAME: &str = "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$";

/// Label of everything that belongs to one run: the uid of its object.
pub const RUN_LABEL: &str = "estiba.dev/run";
/// Label of everything that Estiba creates.
pub const MANAGED_LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "estiba");
/// Label of runs: Velero leaves them out of its backups. What a backup brings back of them is not run again.
pub const NOT_FOR_VELERO: (&str, &str) = ("velero.io/exclude-from-backup", "true");
/// Keeps a run's object until everything that was made for it is gone. To give up on that, remove it: what is left bears
/// the label of the run.
pub const RUN_FINALIZER: &str = "estiba.dev/cleanup";
/// Keeps a mover pod's name, and so its slot, until it is known that none of its containers runs.
pub const SLOT_FINALIZER: &str = "estiba.dev/slot";

/// All definitions, as they are installed.
#[must_use]
pub fn definitions() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> {
    let all =
        [BackupSchedule::crd(), MoverPolicy::crd(), Repository::crd(), RepositoryQuery::crd(), VolumeBackup::crd(), VolumeRestore::crd()];
    let known = |definition| {
        let mut json = serde_json::to_value(definition).expect("definitions always serialise");
        without_formats(&mut json);
        // They stay when the chart goes: all that users wrote would go with them.
        json["metadata"]["annotations"] = serde_json::json!({"helm.sh/resource-policy": "keep"});
        serde_json::from_value(json).expect("it was one")
    };
    all.into_iter().map(known).collect()
}

/// Rust's unsigned numbers have formats that Kubernetes does not know, and warns of; their bounds say as much.
fn without_formats(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(map) => {
            map.retain(|key, value| key != "format" || !value.as_str().is_some_and(|format| format.starts_with("uint")));
            map.values_mut().for_each(without_formats);
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(without_formats),
        _ => {}
    }
}
