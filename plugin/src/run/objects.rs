//! The objects that every run has: the request, and the mover pod that is a slot. No client required.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, SeccompProfile, Secret, SecretVolumeSource, SecurityContext,
    Volume, VolumeDevice, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::repository::{Initialize, ObjectLock, ObjectLockMode, Repository};
use crate::api::run::Attempt;
use crate::api::{MANAGED_LABEL, MoverPolicySpec, RUN_LABEL, SLOT_FINALIZER};
use crate::gate;

/// Label of a mover pod: which attempt of its run it is.
pub const ATTEMPT_LABEL: &str = "estiba.dev/attempt";
/// Label of a mover pod: the slot.
pub const SLOT_LABEL: &str = "estiba.dev/slot";
/// Label of a mover pod: `backup`, `restore` or `query`.
pub const WORK_LABEL: &str = "estiba.dev/work";
/// The container that moves.
pub const MOVER: &str = "mover";
/// The container that creates the repository before.
pub const INIT: &str = "init";
/// Set by the scheduler, or by us in its place: where a claim that waits for its consumer is to be bound.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation of a claim: the volume that was made for its run before the claim was.
pub const OWN_VOLUME: &str = "estiba.dev/volume";

/// What the volume is called in a mover's pod.
const VOLUME: &str = "volume";
/// Where the volume lies in a mover.
pub const VOLUME_PATH: &str = "/volume";
/// Where the request lies in a mover.
const REQUEST_PATH: &str = "/request";
/// Kubelet kills a mover this long after it asked it to end: more than the mover's own grace.
const TERMINATION_GRACE_SECS: i64 = 45;

/// What the controller knows of its own installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Estiba's namespace.
    pub namespace: String,
    /// Velero's, if it is served.
    pub velero: Option<String>,
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

/// Metadata of what a run owns.
#[must_use]
pub fn metadata(name: String, namespace: Option<&str>, uid: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: namespace.map(str::to_owned), labels: Some(labels(uid)), ..ObjectMeta::default() }
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
        (Some(_), Some(_)) if get("credentials").is_some() => return Err("one way to its credentials: it has two".to_owned()),
        (Some(id), Some(secret)) => {
            let mut text = [b"[default]\naws_access_key_id = ".as_slice(), &id, b"\naws_secret_access_key = ", &secret, b"\n"].concat();
            if let Some(token) = get("AWS_SESSION_TOKEN") {
                text.extend([b"aws_session_token = ".as_slice(), &token, b"\n"].concat());
            }
            data.insert("credentials".to_owned(), ByteString(text));
        }
        (None, None) => data.extend(get("credentials").map(|file| ("credentials".to_owned(), ByteString(file)))),
        (Some(_), None) => return Err("AWS_SECRET_ACCESS_KEY".to_owned()),
        (None, Some(_)) => return Err("AWS_ACCESS_KEY_ID".to_owned()),
    }
    if let Some(ca) = get("ca.crt") {
        data.insert("ca.crt".to_owned(), ByteString(ca));
    }
    let metadata = metadata(request_name(uid, attempt), Some(&installation.namespace), uid);
    Ok(Secret { metadata, data: Some(data), immutable: Some(true), ..Secret::default() })
}

/// What a mover does with its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `backup`, `restore` or `query`.
    pub work: &'static str,
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Whether the volume is a device.
    pub is_block: bool,
    /// Whether it is only read.
    pub is_read_only: bool,
    /// What it needs beyond being root without any.
    pub capabilities: &'static [&'static str],
    /// It stores in the repository, so it may create it, and retains what it writes.
    pub stores: bool,
}

/// What a mover pod is made of.
#[derive(Debug, Clone, Copy)]
pub struct PodParts<'a> {
    /// Of the run.
    pub uid: &'a str,
    /// What it does.
    pub job: &'a Job,
    /// The node, and the slot that is the pod's name.
    pub attempt: &'a Attempt,
    /// Where it stores or reads.
    pub repository: &'a Repository,
    /// The request, for what it holds.
    pub request: &'a Secret,
    /// What mover pods look like.
    pub policy: &'a MoverPolicySpec,
}

/// The mover: the pod is the slot.
#[must_use]
pub fn pod(installation: &Installation, parts: &PodParts<'_>) -> Pod {
    let PodParts { uid, job, attempt, policy, .. } = *parts;
    let mut all_labels = policy.pod.labels.clone();
    all_labels.extend(labels(uid));
    all_labels.insert(ATTEMPT_LABEL.to_owned(), attempt.number.to_string());
    all_labels.insert(SLOT_LABEL.to_owned(), attempt.slot.to_string());
    all_labels.insert(WORK_LABEL.to_owned(), job.work.to_owned());
    let here =
        NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![attempt.node.clone()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![here]), match_expressions: None };
    let pinned = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
        ..NodeAffinity::default()
    };
    let volume = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
    let claim = PersistentVolumeClaimVolumeSource { claim_name: name(uid), read_only: None };
    let secret = SecretVolumeSource {
        secret_name: Some(request_name(uid, attempt.number)),
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
            init_containers: wants_init(parts).then(|| vec![init_container(installation, parts)]),
            containers: vec![mover_container(installation, parts)],
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
                Volume { persistent_volume_claim: Some(claim), ..volume(VOLUME) },
                Volume { secret: Some(secret), ..volume("request") },
            ]),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// A mover that answers a question: it mounts no volume, takes no slot, and may run anywhere.
#[must_use]
pub fn query_pod(installation: &Installation, parts: &PodParts<'_>, deadline_secs: i64) -> Pod {
    let mut pod = pod(installation, parts);
    pod.metadata.name = Some(query_name(parts.uid));
    pod.metadata.finalizers = None;
    if let Some(labels) = &mut pod.metadata.labels {
        labels.retain(|key, _| key != SLOT_LABEL && key != ATTEMPT_LABEL);
    }
    let spec = pod.spec.get_or_insert_default();
    spec.affinity = None;
    spec.node_selector = Some(parts.policy.pod.node_selector.clone());
    spec.active_deadline_seconds = Some(deadline_secs);
    spec.volumes.iter_mut().for_each(|volumes| volumes.retain(|volume| volume.name != VOLUME));
    let mounts = spec.containers.iter_mut().filter_map(|container| container.volume_mounts.as_mut());
    mounts.for_each(|mounts| mounts.retain(|mount| mount.name != VOLUME));
    pod
}

/// Name of the mover that answers a question.
#[must_use]
pub fn query_name(uid: &str) -> String {
    format!("q-{uid}")
}

/// Only the first backup of a repository may create it, and only where that is wanted.
fn wants_init(parts: &PodParts<'_>) -> bool {
    let is_known = parts.repository.status.as_ref().is_some_and(|status| status.id.is_some());
    parts.job.stores && !is_known && parts.repository.spec.initialize == Initialize::IfMissing
}

fn init_container(installation: &Installation, parts: &PodParts<'_>) -> Container {
    let mut args = common_args(parts);
    args.extend(["init".to_owned(), "--if-missing".to_owned()]);
    Container { args: Some(args), volume_mounts: Some(vec![request_mount()]), ..container(INIT, installation, parts) }
}

fn mover_container(installation: &Installation, parts: &PodParts<'_>) -> Container {
    let job = parts.job;
    let mut args = common_args(parts);
    args.extend(job.args.iter().cloned());
    let mount = VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: VOLUME_PATH.to_owned(),
        read_only: job.is_read_only.then_some(true),
        ..VolumeMount::default()
    };
    let device = VolumeDevice { name: VOLUME.to_owned(), device_path: VOLUME_PATH.to_owned() };
    let mounts = if job.is_block { vec![request_mount()] } else { vec![mount, request_mount()] };
    Container {
        args: Some(args),
        volume_mounts: Some(mounts),
        volume_devices: job.is_block.then(|| vec![device]),
        // A device is its user's.
        security_context: Some(security(if job.is_block { &[] } else { job.capabilities })),
        ..container(MOVER, installation, parts)
    }
}

fn request_mount() -> VolumeMount {
    VolumeMount { name: "request".to_owned(), mount_path: REQUEST_PATH.to_owned(), read_only: Some(true), ..VolumeMount::default() }
}

fn container(name: &str, installation: &Installation, parts: &PodParts<'_>) -> Container {
    let env = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let has = |key: &str| parts.request.data.as_ref().is_some_and(|data| data.contains_key(key));
    let s3 = parts.repository.spec.s3.clone().unwrap_or_default();
    let mut environment = vec![env("MOVER_PASSWORD_FILE", format!("{REQUEST_PATH}/password"))];
    if has("credentials") {
        environment.push(env("AWS_SHARED_CREDENTIALS_FILE", format!("{REQUEST_PATH}/credentials")));
    }
    if has("ca.crt") {
        environment.push(env("AWS_CA_BUNDLE", format!("{REQUEST_PATH}/ca.crt")));
    }
    environment.extend(s3.endpoint.map(|endpoint| env("AWS_ENDPOINT_URL", endpoint)));
    environment.extend(s3.profile.map(|profile| env("AWS_PROFILE", profile)));
    let lock = parts.repository.spec.object_lock.as_ref().filter(|_| parts.job.stores);
    environment.extend(lock.map(|lock| env("MOVER_S3_RETAIN", retain(lock))));
    environment.extend(s3.region.map(|region| env("AWS_REGION", region)));
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

/// As the mover reads it.
fn retain(ObjectLock { mode, days }: &ObjectLock) -> String {
    match mode {
        ObjectLockMode::Governance => format!("governance:{days}d"),
        ObjectLockMode::Compliance => format!("compliance:{days}d"),
    }
}

fn common_args(parts: &PodParts<'_>) -> Vec<String> {
    let s3 = parts.repository.spec.s3.clone().unwrap_or_default();
    let prefix = s3.prefix.trim_matches('/');
    let location = if prefix.is_empty() { format!("s3://{}", s3.bucket) } else { format!("s3://{}/{prefix}", s3.bucket) };
    let mut args = ["--json", "--result-file", "/dev/termination-log", "--repository", &location, "--run"].map(str::to_owned).to_vec();
    args.push(run_text(parts.uid, parts.attempt.number));
    if let Some(is_path) = s3.path_style {
        args.extend(["--s3-addressing", if is_path { "path" } else { "host" }].map(str::to_owned));
    }
    if s3.read_only {
        args.push("--no-lock".to_owned());
    }
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
