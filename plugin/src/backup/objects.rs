//! The objects of a backup: snapshots, their copies, the claim, and what its mover does. No client required.

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use crate::api::VolumeBackup;
use crate::api::external::{
    VolumeSnapshot, VolumeSnapshotContent, VolumeSnapshotContentSource, VolumeSnapshotContentSpec, VolumeSnapshotSource, VolumeSnapshotSpec,
};
use crate::api::mover_policy::{AccessMode, ClassRule};
use crate::api::volume_backup::{HandedOver, Source, SourceVolume, VolumeSnapshotSeen};
use crate::run::objects::{Installation, Job, OWN_VOLUME, VOLUME_PATH, metadata, name};

/// Label of a content whose node takes care of it itself.
const MANAGED_BY: &str = "snapshot.storage.kubernetes.io/managed-by";

/// Name of the snapshot, or clone, in the claim's namespace: another one than the copy's, for that may be Estiba's own.
#[must_use]
pub fn source_name(uid: &str) -> String {
    format!("{}-source", name(uid))
}

/// The snapshot of the claim, in its own namespace: it fixes the point in time.
#[must_use]
pub fn snapshot(uid: &str, namespace: &str, claim: &str, class: &str) -> VolumeSnapshot {
    let source = VolumeSnapshotSource { persistent_volume_claim_name: Some(claim.to_owned()), volume_snapshot_content_name: None };
    let spec = VolumeSnapshotSpec { source, volume_snapshot_class_name: Some(class.to_owned()) };
    VolumeSnapshot { metadata: metadata(source_name(uid), Some(namespace), uid), ..VolumeSnapshot::new("", spec) }
}

/// The same snapshot of the storage, for our namespace. `Retain`, until nothing else names it.
#[must_use]
pub fn content_copy(uid: &str, installation: &Installation, of: &VolumeSnapshotContent, handle: &str) -> VolumeSnapshotContent {
    // A class may keep its Secrets' names here, and the driver needs them to delete.
    const DELETION_SECRETS: [&str; 2] =
        ["snapshot.storage.kubernetes.io/deletion-secret-name", "snapshot.storage.kubernetes.io/deletion-secret-namespace"];
    let annotations = of.annotations().iter().filter(|(key, _)| DELETION_SECRETS.contains(&key.as_str()));
    let mut metadata = metadata(name(uid), None, uid);
    metadata.annotations = Some(annotations.map(|(key, value)| (key.clone(), value.clone())).collect());
    // Where each node has a snapshotter of its own, this is whose it is.
    if let Some(node) = of.labels().get(MANAGED_BY) {
        metadata.labels.get_or_insert_default().insert(MANAGED_BY.to_owned(), node.clone());
    }
    let spec = VolumeSnapshotContentSpec {
        volume_snapshot_ref: ObjectReference {
            api_version: Some("snapshot.storage.k8s.io/v1".to_owned()),
            kind: Some("VolumeSnapshot".to_owned()),
            name: Some(name(uid)),
            namespace: Some(installation.namespace.clone()),
            ..ObjectReference::default()
        },
        deletion_policy: "Retain".to_owned(),
        driver: of.spec.driver.clone(),
        volume_snapshot_class_name: of.spec.volume_snapshot_class_name.clone(),
        source: VolumeSnapshotContentSource { volume_handle: None, snapshot_handle: Some(handle.to_owned()) },
        source_volume_mode: of.spec.source_volume_mode.clone(),
    };
    VolumeSnapshotContent { metadata, ..VolumeSnapshotContent::new("", spec) }
}

/// The snapshot as our namespace sees it.
#[must_use]
pub fn snapshot_copy(uid: &str, installation: &Installation, class: Option<&str>) -> VolumeSnapshot {
    let source = VolumeSnapshotSource { persistent_volume_claim_name: None, volume_snapshot_content_name: Some(name(uid)) };
    let spec = VolumeSnapshotSpec { source, volume_snapshot_class_name: class.map(str::to_owned) };
    VolumeSnapshot { metadata: metadata(name(uid), Some(&installation.namespace), uid), ..VolumeSnapshot::new("", spec) }
}

/// The claim's clone, in its own namespace.
#[must_use]
pub fn clone(uid: &str, namespace: &str, of: &str, volume: &SourceVolume, rule: &ClassRule) -> PersistentVolumeClaim {
    let bytes = [("storage".to_owned(), Quantity(volume.bytes.to_string()))].into();
    PersistentVolumeClaim {
        metadata: metadata(source_name(uid), Some(namespace), uid),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![access_mode(rule)]),
            storage_class_name: rule.backup_storage_class.clone().or_else(|| volume.storage_class.clone()),
            volume_mode: Some(volume.volume_mode.clone()),
            resources: Some(VolumeResourceRequirements { requests: Some(bytes), limits: None }),
            data_source: Some(TypedLocalObjectReference { api_group: None, kind: "PersistentVolumeClaim".to_owned(), name: of.to_owned() }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn access_mode(rule: &ClassRule) -> String {
    rule.access_mode.map_or("ReadWriteOnce", AccessMode::as_str).to_owned()
}

/// The volume that the mover reads, made from the snapshot.
#[must_use]
pub fn claim(uid: &str, installation: &Installation, snapshot: &VolumeSnapshotSeen, rule: &ClassRule) -> PersistentVolumeClaim {
    let requests = [("storage".to_owned(), Quantity(snapshot.bytes.to_string()))].into();
    PersistentVolumeClaim {
        metadata: metadata(name(uid), Some(&installation.namespace), uid),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![access_mode(rule)]),
            storage_class_name: rule.backup_storage_class.clone().or_else(|| snapshot.storage_class.clone()),
            volume_mode: Some(snapshot.volume_mode.clone()),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            data_source: Some(TypedLocalObjectReference {
                api_group: Some("snapshot.storage.k8s.io".to_owned()),
                kind: "VolumeSnapshot".to_owned(),
                name: name(uid),
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The claim that the clone's volume is given to.
#[must_use]
pub fn claim_of_clone(uid: &str, installation: &Installation, cloned: &VolumeSnapshotSeen, rule: &ClassRule) -> PersistentVolumeClaim {
    let mut claim = claim(uid, installation, cloned, rule);
    claim.annotations_mut().insert(OWN_VOLUME.to_owned(), cloned.content.clone());
    let spec = claim.spec.get_or_insert_default();
    (spec.data_source, spec.volume_name) = (None, Some(cloned.content.clone()));
    claim
}

/// What a namespace calls its claim or snapshot in the repository.
#[must_use]
pub fn path(namespace: &str, source: &Source) -> String {
    match (&source.claim, &source.handed_over, &source.volume_snapshot) {
        (Some(claim), _, _) => format!("/{namespace}/{claim}"),
        (None, Some(HandedOver { namespace, claim, .. }), _) => format!("/{namespace}/{claim}"),
        // A claim may have the same name.
        (None, None, snapshot) => format!("/{namespace}/volumesnapshots/{}", snapshot.as_deref().unwrap_or_default()),
    }
}

/// Tag of all snapshots that a namespace made: a later one of the same name has another.
#[must_use]
pub fn namespace_tag(uid: &str) -> String {
    format!("namespace={uid}")
}

/// What the mover does.
#[must_use]
pub fn job(backup: &VolumeBackup, namespace_uid: &str, installation: &Installation, snapshot: &VolumeSnapshotSeen) -> Job {
    let is_block = snapshot.volume_mode == "Block";
    // A claim may be empty: that its volume is mounted is kubelet's promise.
    let mut args = ["backup", VOLUME_PATH, "--once", "--allow-empty", "--as"].map(str::to_owned).to_vec();
    args.push(path(&backup.namespace().unwrap_or_default(), &backup.spec.source));
    args.extend(["--host".to_owned(), installation.cluster.clone()]);
    args.extend(["--tag".to_owned(), format!("run={}", backup.uid().unwrap_or_default())]);
    let of_namespace = snapshot.namespace_uid.as_deref().unwrap_or(namespace_uid);
    args.extend(["--tag".to_owned(), namespace_tag(of_namespace)]);
    let further = backup.spec.source.handed_over.iter().flat_map(|source| &source.tags);
    args.extend(further.flat_map(|tag| ["--tag".to_owned(), tag.clone()]));
    if let Some(taken) = &snapshot.taken {
        args.extend(["--time".to_owned(), taken.0.to_string()]);
    }
    // One mover goes on where the one before was interrupted: what they read is the same to the last byte.
    args.extend(["--source-id".to_owned(), snapshot.handle.clone()]);
    if is_block {
        args.push("--block".to_owned());
    }
    // Files of any owner are read.
    Job { work: "backup", args, is_block, is_read_only: true, capabilities: &["DAC_OVERRIDE"], stores: true }
}
