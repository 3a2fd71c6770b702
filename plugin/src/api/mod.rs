//! The kinds of `estiba.dev/v1alpha1`: what users write, and what they read back.
//!
//! The custom resource definitions are made from these types by `make crds`; nobody edits them by hand.

pub mod conditions;
pub mod external;
pub mod mover_policy;
pub mod repository;
pub mod volume_backup;

use kube::core::crd::CustomResourceExt;

pub use self::mover_policy::{MoverPolicy, MoverPolicySpec};
pub use self::repository::{Repository, RepositorySpec};
pub use self::volume_backup::{VolumeBackup, VolumeBackupSpec, VolumeBackupStatus};

/// Group of all kinds, and prefix of labels, annotations and finalizers.
pub const GROUP: &str = "estiba.dev";

/// Label of everything that belongs to one run: the uid of its object.
pub const RUN_LABEL: &str = "estiba.dev/run";
/// Label of everything that Estiba creates.
pub const MANAGED_LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "estiba");
/// Keeps a run's object until everything that was made for it is gone. To give up on that, remove it: the sweeper
/// finds what is left.
pub const RUN_FINALIZER: &str = "estiba.dev/cleanup";
/// Keeps a mover pod's name, and so its slot, until it is known that none of its containers runs.
pub const SLOT_FINALIZER: &str = "estiba.dev/slot";

/// All definitions, as they are installed.
#[must_use]
pub fn definitions() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> {
    vec![MoverPolicy::crd(), Repository::crd(), VolumeBackup::crd()]
}
