//! The objects of a run, as they are created. No client required.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, SeccompProfile,
    Secret, SecretVolumeSource, SecurityContext, TypedLocalObjectReference, Volume, VolumeDevice, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use crate::api::external::{
    VolumeSnapshot, VolumeSnapshotContent, VolumeSnapshotContentSource, VolumeSnapshotContentSpec, VolumeSnapshotSource, VolumeSnapshotSpec,
};
use crate::api::repository::{Initialize, Repository};
use crate::api::volume_backup::{Attempt, VolumeBackup, VolumeSnapshotSeen};
use crate::api::{MANAGED_LABEL, MoverPolicySpec, RUN_LABEL, SLOT_FINALIZER};
use crate::gate;

/// Label of a mover pod: which attempt of its run it is.
pub const ATTEMPT_LABEL: &str = "estiba.dev/attempt";
/// Label of a mover pod: the slot.
pub const SLOT_LABEL: &str = "estiba.dev/slot";
/// Label of a mover pod: `backup` or `restore`.
pub const WORK_LABEL: &str = "estiba.dev/work";
/// The container that moves.
pub const MOVER: &str = "mover";
/// The container that creates the repository before.
pub const INIT: &str = "init";
/// Set by the scheduler, or by us in its place: where a claim that waits for its consumer is to be bound.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Where the data lies in a mover.
const SOURCE_PATH: &str = "/source";
/// Where the request lies in a mover.
const REQUEST_PATH: &str = "/request";
/// Kubelet kills a mover this long after it asked it to end: more than the mover's own grace.
const TERMINATION_GRACE_SECS: i64 = 45;

/// What the controller knows of its own installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Estiba's namespace.
    pub namespace: String,
    /// Image of movers.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// ServiceAccount of movers; they get no token.
    pub service_account: String,
    /// Owner of mover pods, so that `kubectl drain` takes them for managed.
    pub owner: OwnerReference,
    /// Host that snapshots name.
    pub cluster: String,
}

/// Name of what a run owns.
#[must_use]
pub fn name(uid: &str) -> String {
    format!("estiba-{uid}")
}

/// Name of the request that the pod of an attempt must mount.
#[must_use]
pub fn request_name(uid: &str, attempt: u32) -> String {
    format!("estiba-{uid}-{attempt}")
}

/// Whose a mover's lines are.
#[must_use]
pub fn run_text(uid: &str, attempt: u32) -> String {
    format!("{uid}/{attempt}")
}

fn labels(uid: &str) -> BTreeMap<String, String> {
    [(RUN_LABEL.to_owned(), uid.to_owned()), (MANAGED_LABEL.0.to_owned(), MANAGED_LABEL.1.to_owned())].into()
}

fn metadata(name: String, namespace: Option<&str>, uid: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: namespace.map(str::to_owned), labels: Some(labels(uid)), ..ObjectMeta::default() }
}

/// The snapshot of the claim, in its own namespace: it fixes the point in time.
#[must_use]
pub fn snapshot(uid: &str, namespace: &str, claim: &str, class: &str) -> VolumeSnapshot {
    let source = VolumeSnapshotSource { persistent_volume_claim_name: Some(claim.to_owned()), volume_snapshot_content_name: None };
    let spec = VolumeSnapshotSpec { source, volume_snapshot_class_name: Some(class.to_owned()) };
    VolumeSnapshot { metadata: metadata(name(uid), Some(namespace), uid), ..VolumeSnapshot::new("", spec) }
}

/// The same snapshot of the storage, for our namespace. `Retain`, until nothing else names it.
#[must_use]
pub fn content_copy(uid: &str, installation: &Installation, of: &VolumeSnapshotContent, handle: &str) -> VolumeSnapshotContent {
    // A class may keep its Secrets' names here, and the driver needs them to delete.
    const DELETION_SECRETS: [&str; 2] =
        ["snapshot.storage.kubernetes.io/deletion-secret-name", "snapshot.storage.kubernetes.io/deletion-secret-namespace"];
    let annotations = of.annotations().iter().filter(|(key, _)| DELETION_SECRETS.contains(&key.as_str()));
    let metadata = ObjectMeta {
        annotations: Some(annotations.map(|(key, value)| (key.clone(), value.clone())).collect()),
        ..metadata(name(uid), None, uid)
    };
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

/// What a backup claim is made like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimShape {
    /// Its class.
    pub storage_class: Option<String>,
    /// Its access mode.
    pub access_mode: String,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// Its size.
    pub bytes: i64,
}

/// The volume that the mover reads, made from the snapshot.
#[must_use]
pub fn claim(uid: &str, installation: &Installation, shape: &ClaimShape) -> PersistentVolumeClaim {
    let requests = [("storage".to_owned(), Quantity(shape.bytes.to_string()))].into();
    PersistentVolumeClaim {
        metadata: metadata(name(uid), Some(&installation.namespace), uid),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![shape.access_mode.clone()]),
            storage_class_name: shape.storage_class.clone(),
            volume_mode: Some(shape.volume_mode.clone()),
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

/// What the mover of an attempt must mount. Without it, a pod that comes late cannot start.
///
/// # Errors
/// The key that the Repository's Secret lacks.
pub fn request(uid: &str, attempt: u32, installation: &Installation, keys: &Secret) -> Result<Secret, String> {
    let given = keys.data.clone().unwrap_or_default();
    let get = |key: &str| given.get(key).map(|value| value.0.clone()).filter(|value| !value.is_empty());
    let mut data = BTreeMap::new();
    data.insert("password".to_owned(), ByteString(get("password").ok_or("password")?));
    match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let mut text = [b"[default]\naws_access_key_id = ".as_slice(), &id, b"\naws_secret_access_key = ", &secret, b"\n"].concat();
            if let Some(token) = get("AWS_SESSION_TOKEN") {
                text.extend([b"aws_session_token = ".as_slice(), &token, b"\n"].concat());
            }
            data.insert("credentials".to_owned(), ByteString(text));
        }
        (None, None) => {}
        (Some(_), None) => return Err("AWS_SECRET_ACCESS_KEY".to_owned()),
        (None, Some(_)) => return Err("AWS_ACCESS_KEY_ID".to_owned()),
    }
    if let Some(ca) = get("ca.crt") {
        data.insert("ca.crt".to_owned(), ByteString(ca));
    }
    let metadata = metadata(request_name(uid, attempt), Some(&installation.namespace), uid);
    Ok(Secret { metadata, data: Some(data), immutable: Some(true), ..Secret::default() })
}

/// What a mover pod is made of.
#[derive(Debug, Clone, Copy)]
pub struct PodParts<'a> {
    /// The run.
    pub backup: &'a VolumeBackup,
    /// Its attempt: the node, and the slot that is the pod's name.
    pub attempt: &'a Attempt,
    /// Where it stores.
    pub repository: &'a Repository,
    /// The request, for what it holds.
    pub request: &'a Secret,
    /// The snapshot of the volume.
    pub snapshot: &'a VolumeSnapshotSeen,
    /// `Filesystem` or `Block`.
    pub volume_mode: &'a str,
    /// What mover pods look like.
    pub policy: &'a MoverPolicySpec,
}

/// The mover: the pod is the slot.
#[must_use]
pub fn pod(installation: &Installation, parts: &PodParts<'_>) -> Pod {
    let PodParts { backup, attempt, policy, .. } = *parts;
    let uid = backup.uid().unwrap_or_default();
    let mut all_labels = policy.pod.labels.clone();
    all_labels.extend(labels(&uid));
    all_labels.insert(ATTEMPT_LABEL.to_owned(), attempt.number.to_string());
    all_labels.insert(SLOT_LABEL.to_owned(), attempt.slot.to_string());
    all_labels.insert(WORK_LABEL.to_owned(), "backup".to_owned());
    let here =
        NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![attempt.node.clone()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![here]), match_expressions: None };
    let pinned = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
        ..NodeAffinity::default()
    };
    let volume = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
    let source = PersistentVolumeClaimVolumeSource { claim_name: name(&uid), read_only: None };
    let secret = SecretVolumeSource {
        secret_name: Some(request_name(&uid, attempt.number)),
        default_mode: Some(0o400),
        ..SecretVolumeSource::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(gate::pod_name(&attempt.node, attempt.slot)),
            namespace: Some(installation.namespace.clone()),
            labels: Some(all_labels),
            annotations: Some(policy.pod.annotations.clone()),
            finalizers: Some(vec![SLOT_FINALIZER.to_owned()]),
            owner_references: Some(vec![installation.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            affinity: Some(Affinity { node_affinity: Some(pinned), ..Affinity::default() }),
            automount_service_account_token: Some(false),
            init_containers: wants_init(parts.repository).then(|| vec![init_container(installation, parts, &uid)]),
            containers: vec![mover_container(installation, parts, &uid)],
            enable_service_links: Some(false),
            priority_class_name: policy.pod.priority_class_name.clone(),
            restart_policy: Some("Never".to_owned()),
            security_context: Some(PodSecurityContext {
                run_as_user: Some(0),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            service_account_name: Some(installation.service_account.clone()),
            termination_grace_period_seconds: Some(TERMINATION_GRACE_SECS),
            tolerations: Some(policy.pod.tolerations.clone()),
            volumes: Some(vec![
                Volume { persistent_volume_claim: Some(source), ..volume("source") },
                Volume { secret: Some(secret), ..volume("request") },
            ]),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// Only the first backup of a repository may create it, and only where that is wanted.
fn wants_init(repository: &Repository) -> bool {
    let is_known = repository.status.as_ref().is_some_and(|status| status.id.is_some());
    !is_known && repository.spec.initialize == Initialize::IfMissing
}

fn init_container(installation: &Installation, parts: &PodParts<'_>, uid: &str) -> Container {
    let mut args = common_args(parts, uid);
    args.extend(["init".to_owned(), "--if-missing".to_owned()]);
    Container { args: Some(args), volume_mounts: Some(vec![request_mount()]), ..container(INIT, installation, parts) }
}

fn mover_container(installation: &Installation, parts: &PodParts<'_>, uid: &str) -> Container {
    let backup = parts.backup;
    let is_block = parts.volume_mode == "Block";
    let namespace = backup.namespace().unwrap_or_default();
    let source = &backup.spec.source;
    let claim = source.claim.as_deref().or(source.volume_snapshot.as_deref()).unwrap_or_default();
    let mut args = common_args(parts, uid);
    args.extend(["backup", SOURCE_PATH, "--once", "--as"].map(str::to_owned));
    args.push(format!("/{namespace}/{claim}"));
    args.extend(["--host".to_owned(), installation.cluster.clone(), "--tag".to_owned(), format!("run={uid}")]);
    if let Some(taken) = &parts.snapshot.taken {
        args.extend(["--time".to_owned(), taken.0.to_string()]);
    }
    if is_block {
        args.push("--block".to_owned());
    }
    let source_mount =
        VolumeMount { name: "source".to_owned(), mount_path: SOURCE_PATH.to_owned(), read_only: Some(true), ..VolumeMount::default() };
    let device = VolumeDevice { name: "source".to_owned(), device_path: SOURCE_PATH.to_owned() };
    let mounts = if is_block { vec![request_mount()] } else { vec![source_mount, request_mount()] };
    Container {
        args: Some(args),
        volume_mounts: Some(mounts),
        volume_devices: is_block.then(|| vec![device]),
        // Files of any owner are read; a device is its user's.
        security_context: Some(security(if is_block { &[] } else { &["DAC_OVERRIDE"] })),
        ..container(MOVER, installation, parts)
    }
}

fn request_mount() -> VolumeMount {
    VolumeMount { name: "request".to_owned(), mount_path: REQUEST_PATH.to_owned(), read_only: Some(true), ..VolumeMount::default() }
}

fn container(name: &str, installation: &Installation, parts: &PodParts<'_>) -> Container {
    let env = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let has = |key: &str| parts.request.data.as_ref().is_some_and(|data| data.contains_key(key));
    let s3 = &parts.repository.spec.s3;
    let mut environment = vec![env("MOVER_PASSWORD_FILE", format!("{REQUEST_PATH}/password"))];
    if has("credentials") {
        environment.push(env("AWS_SHARED_CREDENTIALS_FILE", format!("{REQUEST_PATH}/credentials")));
    }
    if has("ca.crt") {
        environment.push(env("AWS_CA_BUNDLE", format!("{REQUEST_PATH}/ca.crt")));
    }
    environment.extend(s3.endpoint.clone().map(|endpoint| env("AWS_ENDPOINT_URL", endpoint)));
    environment.extend(s3.region.clone().map(|region| env("AWS_REGION", region)));
    Container {
        name: name.to_owned(),
        image: Some(installation.image.clone()),
        image_pull_policy: Some(installation.image_pull_policy.clone()),
        env: Some(environment),
        resources: parts.policy.pod.resources.clone(),
        security_context: Some(security(&[])),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn common_args(parts: &PodParts<'_>, uid: &str) -> Vec<String> {
    let s3 = &parts.repository.spec.s3;
    let prefix = s3.prefix.trim_matches('/');
    let location = if prefix.is_empty() { format!("s3://{}", s3.bucket) } else { format!("s3://{}/{prefix}", s3.bucket) };
    let mut args = ["--json", "--result-file", "/dev/termination-log", "--repository", &location, "--run"].map(str::to_owned).to_vec();
    args.push(run_text(uid, parts.attempt.number));
    if let Some(memory) = &parts.policy.pod.memory {
        args.extend(["--memory".to_owned(), memory.clone()]);
    }
    args
}

fn security(capabilities: &[&str]) -> SecurityContext {
    let add = capabilities.iter().map(|&name| name.to_owned()).collect();
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { add: Some(add), drop: Some(vec!["ALL".to_owned()]) }),
        ..SecurityContext::default()
    }
}
