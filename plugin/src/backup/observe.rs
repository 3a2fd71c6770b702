//! Everything that a decision about a run needs, read fresh. Client required.

use contract::{BackupSummary, ExitCode, Line, Said, Status};
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, Event, Namespace, Node, NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, LogParams};
use kube::core::SelectorExt;
use kube::{Api, ResourceExt};

use super::objects::{self, INIT, Installation, MOVER};
use crate::api::external::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use crate::api::mover_policy::{ClassRule, MoverPolicySpec};
use crate::api::repository::Namespaces;
use crate::api::volume_backup::{Attempt, Phase, Reason, VolumeBackup};
use crate::api::{RUN_LABEL, Repository};
use crate::cluster::{self, GateView};
use crate::{gate, reach};

/// Lines of a failed mover's log that are kept.
const TAIL_LINES: i64 = 20;
/// The largest part of a log that is read.
const MAX_LOG_BYTES: i64 = 64 << 10;
/// Of a class, when several could be meant.
const DEFAULT_SNAPSHOT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// What was seen of a run and of what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The run.
    pub backup: VolumeBackup,
    /// What counts now.
    pub policy: MoverPolicySpec,
    /// Where it stores.
    pub repository: Option<Repository>,
    /// The repository's Secret.
    pub keys: Option<Secret>,
    /// What only somebody else can give.
    pub missing: Option<Missing>,
    /// The claim's volume, before there is a snapshot.
    pub volume: SourceVolume,
    /// The class for its snapshot.
    pub snapshot_class: Option<String>,
    /// How claims of its class are backed up.
    pub class_rule: ClassRule,
    /// The snapshot in the run's namespace.
    pub snapshot: Option<SnapshotSeen>,
    /// The content that our own snapshot had, while it is still there.
    pub original_content: Option<VolumeSnapshotContent>,
    /// The storage's snapshot, for our namespace.
    pub copy: Option<VolumeSnapshotContent>,
    /// The snapshot in our namespace.
    pub copied_snapshot: Option<VolumeSnapshot>,
    /// The backup claim.
    pub claim: Option<PersistentVolumeClaim>,
    /// Why it is not bound.
    pub claim_problem: Option<String>,
    /// Whether its class waits for a node.
    pub binds_late: bool,
    /// Whether its volume is still there, with or without it.
    pub has_volume: bool,
    /// What the claim's volume requires of nodes.
    pub claim_topology: Option<NodeSelector>,
    /// Whether the attempt's node is one of those.
    pub is_reached: bool,
    /// Attempts that could still start a mover.
    pub requests: Vec<u32>,
    /// Whether any mover pod of the run is left.
    pub has_pods: bool,
    /// The pod that is the attempt's slot.
    pub pod: PodSeen,
    /// Why it has not started.
    pub pod_problem: Option<String>,
    /// What the mover said last.
    pub progress: Option<Status>,
    /// What the gate says.
    pub gate: GateView,
}

impl Seen {
    /// The repository's id, from a mover that has stored something.
    #[must_use]
    pub fn repository_id(&self) -> Option<String> {
        match &self.pod {
            PodSeen::Ours { said: Some(MoverSaid::Stored(summary)), .. } => Some(summary.repository_id.clone()),
            PodSeen::Ours { .. } | PodSeen::None | PodSeen::Another => None,
        }
    }
}

/// What only somebody else can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// The volume that is backed up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceVolume {
    /// Its class.
    pub storage_class: Option<String>,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// Its size.
    pub bytes: i64,
    /// Its driver.
    pub driver: String,
    /// Where it can be reached.
    pub topology: Option<NodeSelector>,
}

/// A snapshot and its content.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotSeen {
    /// In the namespace.
    pub object: VolumeSnapshot,
    /// Of the storage.
    pub content: Option<VolumeSnapshotContent>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The pod under the slot's name.
#[derive(Debug, Clone, PartialEq)]
pub enum PodSeen {
    /// Nobody.
    None,
    /// Another run, or another attempt.
    Another,
    /// This attempt.
    Ours {
        /// What it ended with, once kubelet has said so.
        said: Option<MoverSaid>,
        /// Whether its container has started.
        is_running: bool,
    },
}

/// What a mover ended with.
#[derive(Debug, Clone, PartialEq)]
pub enum MoverSaid {
    /// The snapshot is in the repository.
    Stored(Box<BackupSummary>),
    /// Why not.
    Failed {
        /// In its own words.
        message: String,
        /// The end of its log.
        log_tail: String,
        /// Whether another try would end the same way.
        is_final: bool,
    },
    /// It was ended from outside: a drain, an eviction, a node that is gone.
    Disrupted(String),
}

/// Reads what belongs to a run. `view` is what the gate says of it.
///
/// # Errors
/// Those of the API server: nothing is decided on half of the facts.
pub async fn observe(client: &kube::Client, installation: &Installation, backup: VolumeBackup, view: GateView) -> kube::Result<Seen> {
    let reader = Reader { client, installation, backup: &backup, uid: backup.uid().unwrap_or_default() };
    let status = backup.status.clone().unwrap_or_default();
    let is_over = status.phase.is_end() || backup.metadata.deletion_timestamp.is_some();
    let policy = cluster::policy(client).await?;
    let mut seen = Seen {
        policy,
        repository: None,
        keys: None,
        missing: None,
        volume: SourceVolume::default(),
        snapshot_class: None,
        class_rule: ClassRule::default(),
        snapshot: None,
        original_content: None,
        copy: None,
        copied_snapshot: None,
        claim: None,
        claim_problem: None,
        binds_late: false,
        has_volume: false,
        claim_topology: None,
        is_reached: true,
        requests: Vec::new(),
        has_pods: false,
        pod: PodSeen::None,
        pod_problem: None,
        progress: None,
        gate: view,
        backup: backup.clone(),
    };
    if status.cleaned {
        return Ok(seen);
    }
    if !is_over {
        reader.repository(&mut seen).await?;
    }
    if matches!(status.phase, Phase::Pending | Phase::Accepted) && !is_over && seen.missing.is_none() && status.snapshot.is_none() {
        reader.source(&mut seen).await?;
    }
    let storage_class = status.snapshot.as_ref().map_or(&seen.volume.storage_class, |snapshot| &snapshot.storage_class);
    if let Some(rule) = seen.policy.classes.iter().find(|rule| Some(&rule.storage_class) == storage_class.as_ref()) {
        seen.class_rule = rule.clone();
    }
    reader.snapshots(&mut seen).await?;
    reader.claim(&mut seen, status.attempt.as_ref()).await?;
    reader.movers(&mut seen, status.attempt.as_ref()).await?;
    Ok(seen)
}

struct Reader<'a> {
    client: &'a kube::Client,
    installation: &'a Installation,
    backup: &'a VolumeBackup,
    uid: String,
}

impl Reader<'_> {
    fn ours<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.installation.namespace)
    }

    fn theirs<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.backup.namespace().unwrap_or_default())
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    async fn repository(&self, seen: &mut Seen) -> kube::Result<()> {
        let name = &self.backup.spec.repository;
        let mut lacks = |reason, message: String| seen.missing = Some(Missing { reason, message });
        let Some(repository) = self.all::<Repository>().get_opt(name).await? else {
            lacks(Reason::RepositoryMissing, format!("there is no Repository {name}"));
            return Ok(());
        };
        let namespace = self.backup.namespace().unwrap_or_default();
        if !self.is_allowed(&repository.spec.namespaces, &namespace).await? {
            lacks(Reason::NamespaceNotAllowed, format!("Repository {name} does not let namespace {namespace} in: see its spec.namespaces"));
            return Ok(());
        }
        let secret = &repository.spec.secret;
        let keys = self.ours::<Secret>().get_opt(secret).await?;
        let checked = keys.as_ref().map(|keys| objects::request(&self.uid, 0, self.installation, keys));
        let (place, hint) = (&self.installation.namespace, "it needs password, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY");
        match checked {
            None => lacks(Reason::SecretMissing, format!("there is no Secret {secret} in namespace {place}; {hint}")),
            Some(Err(key)) => lacks(Reason::SecretMissing, format!("Secret {secret} in namespace {place} has no {key}; {hint}")),
            Some(Ok(_)) => {}
        }
        seen.keys = keys;
        seen.repository = Some(repository);
        Ok(())
    }

    async fn is_allowed(&self, namespaces: &Namespaces, namespace: &str) -> kube::Result<bool> {
        if namespaces.names.as_ref().is_some_and(|names| names.iter().any(|name| name == namespace)) {
            return Ok(true);
        }
        let Some(selector) = &namespaces.selector else { return Ok(false) };
        let Ok(selector) = kube::core::Selector::try_from(selector.clone()) else { return Ok(false) };
        let found = self.all::<Namespace>().get_opt(namespace).await?;
        Ok(found.is_some_and(|found| selector.matches(found.labels())))
    }

    /// The claim, its volume, and the class for its snapshot; or the snapshot that was named.
    async fn source(&self, seen: &mut Seen) -> kube::Result<()> {
        let Some(name) = &self.backup.spec.source.claim else { return Ok(()) };
        let mut lacks = |reason, message: String| seen.missing = Some(Missing { reason, message });
        let Some(claim) = self.theirs::<PersistentVolumeClaim>().get_opt(name).await? else {
            lacks(Reason::ClaimMissing, format!("there is no claim {name}"));
            return Ok(());
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let (true, Some(volume_name)) = (is_bound, &spec.volume_name) else {
            lacks(Reason::ClaimNotBound, format!("claim {name} is not bound to a volume"));
            return Ok(());
        };
        let Some(volume) = self.all::<PersistentVolume>().get_opt(volume_name).await? else {
            lacks(Reason::ClaimNotBound, format!("the volume {volume_name} of claim {name} is gone"));
            return Ok(());
        };
        let volume_spec = volume.spec.unwrap_or_default();
        let Some(csi) = volume_spec.csi else {
            lacks(Reason::NotCsi, format!("the volume of claim {name} is not of a CSI driver: it has no snapshots"));
            return Ok(());
        };
        let wanted = seen.policy.classes.iter().find(|rule| Some(&rule.storage_class) == spec.storage_class_name.as_ref());
        match self.snapshot_class(&csi.driver, wanted.and_then(|rule| rule.snapshot_class.as_deref())).await? {
            Ok(class) => seen.snapshot_class = Some(class),
            Err(message) => lacks(Reason::NoSnapshotClass, message),
        }
        let size = volume_spec.capacity.and_then(|capacity| capacity.get("storage").cloned());
        seen.volume = SourceVolume {
            storage_class: spec.storage_class_name,
            mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            bytes: size.and_then(|size| cluster::bytes(&size.0)).unwrap_or_default(),
            driver: csi.driver,
            topology: volume_spec.node_affinity.and_then(|affinity| affinity.required),
        };
        Ok(())
    }

    async fn snapshot_class(&self, driver: &str, wanted: Option<&str>) -> kube::Result<Result<String, String>> {
        let classes = self.all::<VolumeSnapshotClass>().list(&ListParams::default()).await?.items;
        let of_driver: Vec<_> = classes.iter().filter(|class| class.spec.driver == driver).collect();
        if let Some(wanted) = wanted {
            let found = of_driver.iter().any(|class| class.name_any() == wanted);
            return Ok(if found {
                Ok(wanted.to_owned())
            } else {
                Err(format!("there is no VolumeSnapshotClass {wanted} for driver {driver}"))
            });
        }
        let is_default = |class: &VolumeSnapshotClass| class.annotations().get(DEFAULT_SNAPSHOT_CLASS).is_some_and(|value| value == "true");
        let defaults: Vec<_> = of_driver.iter().filter(|class| is_default(class)).collect();
        Ok(match (defaults.as_slice(), of_driver.as_slice()) {
            ([one], _) => Ok(one.name_any()),
            ([], [one]) => Ok(one.name_any()),
            (_, []) => Err(format!("driver {driver} has no VolumeSnapshotClass: without snapshots it cannot be backed up")),
            ([], several) => Err(format!(
                "driver {driver} has {} VolumeSnapshotClasses and none is the default: annotate one with {DEFAULT_SNAPSHOT_CLASS}, or name one in the MoverPolicy",
                several.len()
            )),
            (several, _) => Err(format!("driver {driver} has {} default VolumeSnapshotClasses: only one can be", several.len())),
        })
    }

    async fn snapshots(&self, seen: &mut Seen) -> kube::Result<()> {
        let name = objects::name(&self.uid);
        let contents = self.all::<VolumeSnapshotContent>();
        seen.copy = contents.get_opt(&name).await?;
        seen.copied_snapshot = self.ours::<VolumeSnapshot>().get_opt(&name).await?;
        let source = &self.backup.spec.source;
        let wanted = source.volume_snapshot.as_deref().unwrap_or(&name);
        let snapshot = self.theirs::<VolumeSnapshot>().get_opt(wanted).await?;
        if let Some(object) = snapshot {
            let status = object.status.clone().unwrap_or_default();
            let content = match &status.bound_volume_snapshot_content_name {
                Some(content) => contents.get_opt(content).await?,
                None => None,
            };
            let of_content = content.as_ref().and_then(|content| content.status.clone()).and_then(|status| status.error);
            let error = status.error.or(of_content).and_then(|error| error.message);
            seen.snapshot = Some(SnapshotSeen { object, content, error });
        } else if let Some(known) =
            self.backup.status.as_ref().and_then(|status| status.snapshot.as_ref()).filter(|_| source.claim.is_some())
        {
            seen.original_content = contents.get_opt(&known.content).await?;
        }
        if source.volume_snapshot.is_some() && seen.volume.bytes == 0 {
            self.shape_of_snapshot(seen).await?;
        }
        Ok(())
    }

    /// A snapshot that somebody else made does not say of which class its claim was.
    async fn shape_of_snapshot(&self, seen: &mut Seen) -> kube::Result<()> {
        let Some(content) = seen.snapshot.as_ref().and_then(|snapshot| snapshot.content.as_ref()) else { return Ok(()) };
        let source = seen.snapshot.as_ref().and_then(|snapshot| snapshot.object.spec.source.persistent_volume_claim_name.clone());
        let claim = match source {
            Some(name) => self.theirs::<PersistentVolumeClaim>().get_opt(&name).await?,
            None => None,
        };
        let of_claim = claim.and_then(|claim| claim.spec).and_then(|spec| spec.storage_class_name);
        let class = match of_claim {
            Some(class) => Some(class),
            None => {
                let classes = self.all::<StorageClass>().list(&ListParams::default()).await?.items;
                classes.into_iter().find(|class| class.provisioner == content.spec.driver).map(|class| class.name_any())
            }
        };
        seen.volume = SourceVolume {
            storage_class: class,
            mode: content.spec.source_volume_mode.clone().unwrap_or_else(|| "Filesystem".to_owned()),
            bytes: 0,
            driver: content.spec.driver.clone(),
            topology: None,
        };
        Ok(())
    }

    async fn claim(&self, seen: &mut Seen, attempt: Option<&Attempt>) -> kube::Result<()> {
        let name = objects::name(&self.uid);
        seen.claim = self.ours::<PersistentVolumeClaim>().get_opt(&name).await?;
        let Some(claim) = &seen.claim else {
            // The volume goes a moment after its claim, and the snapshot may not go before it.
            if self.backup.status.as_ref().is_some_and(|status| status.phase.is_end()) {
                let volumes = self.all::<PersistentVolume>().list(&ListParams::default()).await?.items;
                let is_of = |volume: &PersistentVolume| {
                    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                    claim.is_some_and(|claim| {
                        claim.name.as_deref() == Some(&name) && claim.namespace.as_deref() == Some(&self.installation.namespace)
                    })
                };
                seen.has_volume = volumes.iter().any(is_of);
            }
            return Ok(());
        };
        let spec = claim.spec.clone().unwrap_or_default();
        if let Some(class) = &spec.storage_class_name {
            let class = self.all::<StorageClass>().get_opt(class).await?;
            seen.binds_late = class.and_then(|class| class.volume_binding_mode).as_deref() == Some("WaitForFirstConsumer");
        }
        let Some(volume_name) = &spec.volume_name else {
            if attempt.is_some() {
                seen.claim_problem = self.last_warning(claim.uid().unwrap_or_default()).await?;
            }
            return Ok(());
        };
        let volume = self.all::<PersistentVolume>().get_opt(volume_name).await?;
        seen.claim_topology = volume.and_then(|volume| volume.spec?.node_affinity?.required);
        if let (Some(selector), Some(attempt)) = (&seen.claim_topology, attempt) {
            let node = self.all::<Node>().get_opt(&attempt.node).await?;
            seen.is_reached = node.is_none_or(|node| reach::selects(selector, &attempt.node, node.labels()));
        }
        Ok(())
    }

    /// What was complained of last about one of our objects.
    async fn last_warning(&self, uid: String) -> kube::Result<Option<String>> {
        let fields = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning")).limit(20);
        let events = self.ours::<Event>().list(&fields).await?.items;
        // What keeps it from going on; kubelet warns of much else.
        let hinders = |event: &Event| {
            event.reason.as_deref().is_some_and(|reason| ["Fail", "BackOff", "Err"].iter().any(|word| reason.contains(word)))
        };
        let newest = events.into_iter().filter(hinders).max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(newest.and_then(|event| event.message))
    }

    async fn movers(&self, seen: &mut Seen, attempt: Option<&Attempt>) -> kube::Result<()> {
        let of_run = ListParams::default().labels(&format!("{RUN_LABEL}={}", self.uid));
        let requests = self.ours::<Secret>().list_metadata(&of_run).await?.items;
        let number = |secret: &str| secret.rsplit('-').next().and_then(|number| number.parse().ok());
        seen.requests = requests.iter().filter_map(|secret| number(&secret.name_any())).collect();
        seen.has_pods = !self.ours::<Pod>().list_metadata(&of_run).await?.items.is_empty();
        let Some(attempt) = attempt else { return Ok(()) };
        let pods = self.ours::<Pod>();
        let name = gate::pod_name(&attempt.node, attempt.slot);
        let Some(pod) = pods.get_opt(&name).await? else { return Ok(()) };
        let labelled = |key: &str| pod.labels().get(key).map(String::as_str);
        if labelled(RUN_LABEL) != Some(&self.uid) || labelled(objects::ATTEMPT_LABEL) != Some(&attempt.number.to_string()) {
            seen.pod = PodSeen::Another;
            return Ok(());
        }
        let is_gone = cluster::is_lost(self.client, &attempt.node).await?;
        let state = PodState::of(&pod);
        seen.pod_problem = state.problem.clone();
        if seen.pod_problem.is_none() && !state.is_running && state.ended.is_none() {
            seen.pod_problem = self.last_warning(pod.uid().unwrap_or_default()).await?;
        }
        let said = if is_gone {
            Some(MoverSaid::Disrupted(format!("node {} is gone", attempt.node)))
        } else if let Some((container, ended)) = &state.ended {
            Some(self.said(&pod, attempt, container, ended).await?)
        } else {
            state.never_starts.clone()
        };
        if said.is_none() && state.is_running {
            seen.progress = self.progress(&name, attempt).await?;
        }
        seen.pod = PodSeen::Ours { said, is_running: state.is_running };
        Ok(())
    }

    async fn said(&self, pod: &Pod, attempt: &Attempt, container: &str, ended: &ContainerStateTerminated) -> kube::Result<MoverSaid> {
        let run = objects::run_text(&self.uid, attempt.number);
        let line = ended.message.as_deref().and_then(|message| last_said(message, &run));
        let code = ended.exit_code;
        if let (true, Some(Line::BackupSummary(summary))) = (code == 0 || code == ExitCode::Incomplete as i32, line.clone()) {
            return Ok(MoverSaid::Stored(Box::new(summary)));
        }
        let is_interrupted = [ExitCode::Interrupted as i32, ExitCode::Resumable as i32, 137, 143].contains(&code);
        if is_interrupted && pod.metadata.deletion_timestamp.is_some() {
            return Ok(MoverSaid::Disrupted(format!("exit code {code}")));
        }
        let parameters = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(TAIL_LINES),
            limit_bytes: Some(MAX_LOG_BYTES),
            ..LogParams::default()
        };
        // Its log may be gone with its node: the code says enough.
        let log_tail = self.ours::<Pod>().logs(&pod.name_any(), &parameters).await.unwrap_or_default();
        let message = match (line, ended.reason.as_deref()) {
            (Some(Line::Error(failure)), _) => match failure.hint {
                Some(hint) => format!("{}; {hint}", failure.message),
                None => failure.message,
            },
            (_, Some("OOMKilled")) => "it was killed for its memory: raise its limit in the MoverPolicy, or lower its memory".to_owned(),
            _ => format!("exit code {code}, without a result"),
        };
        let is_final = [ExitCode::NoRepository as i32, ExitCode::WrongPassword as i32].contains(&code);
        Ok(MoverSaid::Failed { message, log_tail, is_final })
    }

    async fn progress(&self, pod: &str, attempt: &Attempt) -> kube::Result<Option<Status>> {
        let parameters =
            LogParams { container: Some(MOVER.to_owned()), tail_lines: Some(3), limit_bytes: Some(MAX_LOG_BYTES), ..LogParams::default() };
        // Kubelet may be out of reach for a while: progress is not worth an error.
        let Ok(log) = self.ours::<Pod>().logs(pod, &parameters).await else { return Ok(None) };
        let run = objects::run_text(&self.uid, attempt.number);
        let newest = log.lines().rev().filter_map(|line| said_by(line, &run));
        Ok(newest.filter_map(|line| if let Line::Status(status) = line { Some(status) } else { None }).next())
    }
}

/// The last line that this run's attempt said.
fn last_said(text: &str, run: &str) -> Option<Line> {
    text.lines().rev().find_map(|line| said_by(line, run))
}

fn said_by(line: &str, run: &str) -> Option<Line> {
    let said: Said = serde_json::from_str(line).ok()?;
    (said.run.as_deref() == Some(run)).then_some(said.line)
}

/// How far a pod is, by kubelet's own word.
struct PodState {
    is_running: bool,
    /// Which container decided it, and how.
    ended: Option<(String, ContainerStateTerminated)>,
    /// It ended without any container of it having started.
    never_starts: Option<MoverSaid>,
    problem: Option<String>,
}

impl PodState {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let of = |name: &str, all: &Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
            all.as_ref().and_then(|all| all.iter().find(|container| container.name == name)).and_then(|container| container.state.clone())
        };
        let mover = of(MOVER, &status.container_statuses).unwrap_or_default();
        let init = of(INIT, &status.init_container_statuses).unwrap_or_default();
        let init_failed = init.terminated.filter(|ended| ended.exit_code != 0).map(|ended| (INIT.to_owned(), ended));
        let ended = mover.terminated.map(|ended| (MOVER.to_owned(), ended)).filter(|(_, ended)| ended.started_at.is_some()).or(init_failed);
        let unscheduled = status.conditions.as_ref().and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
                .and_then(|condition| condition.message.clone())
        });
        let waiting = mover.waiting.or(init.waiting).and_then(|waiting| {
            let reason = waiting.reason.filter(|reason| reason != "ContainerCreating" && reason != "PodInitializing");
            reason.map(|reason| format!("{reason}: {}", waiting.message.unwrap_or_default()))
        });
        let is_running = mover.running.is_some() || init.running.is_some();
        let is_over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        let never_starts = if ended.is_some() || is_running {
            None
        } else if pod.metadata.deletion_timestamp.is_some() {
            Some(MoverSaid::Disrupted("it was deleted before it started".to_owned()))
        } else if is_over {
            let text = [status.reason.clone(), status.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ");
            Some(MoverSaid::Disrupted(text))
        } else {
            None
        };
        Self { is_running, ended, never_starts, problem: unscheduled.or(waiting) }
    }
}
