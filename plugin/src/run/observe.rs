//! What every run needs to know: policy, repository, its claim, its movers; read fresh. Client required.

use contract::{ExitCode, Line, Status};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, Event, Namespace, Node, NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, LogParams};
use kube::core::SelectorExt;
use kube::{Api, ResourceExt};

use super::Run;
use super::objects::{self, Installation};
use super::pod::{FROM_OUTSIDE, MoverSaid, PodSeen, PodState, last_said, said_by};
use crate::api::repository::{Namespaces, S3Location};
use crate::api::run::{Attempt, Phase, Reason};
use crate::api::{MoverPolicySpec, RUN_FINALIZER, RUN_LABEL, Repository, RepositoryQuery, RunStatus};
use crate::cluster::{self, NodeState};
use crate::velero::LocationSeen;
use crate::{gate, reach};

/// Lines of a mover's log that are read, and kept if it fails.
const TAIL_LINES: i64 = 20;
/// The largest part of a log that is read.
const MAX_LOG_BYTES: i64 = 64 << 10;
/// What a provisioner writes on what it makes.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Complaints about one object that are looked through for the newest that matters.
const MAX_EVENTS: u32 = 20;

/// What was seen of a run, whatever its kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSeen {
    /// What counts now.
    pub policy: MoverPolicySpec,
    /// The run's namespace.
    pub namespace: Option<Namespace>,
    /// Where it stores, or reads.
    pub repository: Option<Repository>,
    /// The repository's Secret.
    pub keys: Option<Secret>,
    /// What only somebody else can give.
    pub missing: Option<Missing>,
    /// The claim that movers mount.
    pub claim: Option<PersistentVolumeClaim>,
    /// Why it is not bound.
    pub claim_problem: Option<String>,
    /// Whether its class waits for a node.
    pub binds_late: bool,
    /// Its volume; when the run is over, also what is left of one after its claim.
    pub volume: Option<PersistentVolume>,
    /// The claim's volume, if it was there before: not to be read, written or removed.
    pub foreign_volume: Option<PersistentVolume>,
    /// The volume cannot be reached from the attempt's node.
    pub is_elsewhere: bool,
    /// Attempts that could still start a mover.
    pub requests: Vec<u32>,
    /// Whether any mover pod of the run is left.
    pub has_pods: bool,
    /// The pod that is the attempt's slot.
    pub pod: PodSeen,
    /// Kubelet has said that the mover in it ended: it writes nothing any more.
    pub has_mover_ended: bool,
    /// Why it has not started, or cannot be heard.
    pub pod_problem: Option<String>,
    /// What the mover said last.
    pub progress: Option<Status>,
}

impl RunSeen {
    /// Notes what is missing; what was noted before is looked for first.
    pub fn lacks(&mut self, reason: Reason, message: String) {
        self.missing.get_or_insert(Missing { reason, message });
    }

    /// Uid of the run's namespace.
    #[must_use]
    pub fn namespace_uid(&self) -> String {
        self.namespace.as_ref().and_then(ResourceExt::uid).unwrap_or_default()
    }

    /// What the claim's volume requires of nodes.
    #[must_use]
    pub fn claim_topology(&self) -> Option<&NodeSelector> {
        self.volume.as_ref()?.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()
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

/// Reads what belongs to one run.
#[expect(missing_debug_implementations, reason = "a client has none")]
pub struct Reader<'a> {
    client: &'a kube::Client,
    installation: &'a Installation,
    uid: String,
    namespace: String,
    since: Option<Time>,
    status: RunStatus,
    is_over: bool,
    /// Its finalizer is there: until then nothing is made for it, so nothing needs to be known.
    is_held: bool,
}

impl<'a> Reader<'a> {
    /// For this run.
    pub fn new<K: Run>(client: &'a kube::Client, installation: &'a Installation, run: &K) -> Self {
        let status = run.run_status().cloned().unwrap_or_default();
        let is_over = status.phase.is_end() || run.meta().deletion_timestamp.is_some();
        let since = run.meta().creation_timestamp.clone();
        let is_held = run.finalizers().iter().any(|finalizer| finalizer == RUN_FINALIZER);
        let (uid, namespace) = (run.uid().unwrap_or_default(), run.namespace().unwrap_or_default());
        Self { client, installation, uid, namespace, since, status, is_over, is_held }
    }

    /// For a question of a namespace: it has a repository, and nothing else that runs have.
    #[must_use]
    pub fn of_query(client: &'a kube::Client, installation: &'a Installation, query: &RepositoryQuery) -> Self {
        let (uid, namespace) = (query.uid().unwrap_or_default(), query.namespace().unwrap_or_default());
        Self { client, installation, uid, namespace, since: None, status: RunStatus::default(), is_over: false, is_held: true }
    }

    /// Whose it is.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Objects of Estiba's namespace.
    pub fn ours<K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.installation.namespace)
    }

    /// Objects of the run's namespace.
    pub fn theirs<K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of another namespace.
    pub fn of<K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Whether it is a run of Velero's adapter: only those may name objects of other namespaces. Whoever may make runs where
    /// Velero's keys are may do all that Velero may.
    #[must_use]
    pub fn is_of_velero(&self) -> bool {
        self.installation.velero.as_ref() == Some(&self.namespace)
    }

    /// Objects of all namespaces, or of none.
    pub fn all<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Whether only what is left of it counts.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether there is nothing to know: not yet, or no more.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.status.cleaned || !(self.is_held || self.is_over)
    }

    /// What all runs need to know.
    ///
    /// # Errors
    /// Those of the API server: nothing is decided on half of the facts.
    pub async fn run(&self, repository: &str) -> kube::Result<RunSeen> {
        if self.is_idle() {
            return Ok(RunSeen::default());
        }
        let mut seen = RunSeen { policy: cluster::policy(self.client).await?, ..RunSeen::default() };
        if !self.is_over {
            self.repository(&mut seen, repository).await?;
        }
        // Nothing was made yet, so nothing of it is asked for: thousands may wait for what somebody must give.
        if self.is_over || !matches!(self.status.phase, Phase::Pending | Phase::Accepted) {
            self.claim(&mut seen).await?;
        }
        if self.status.attempts > 0 {
            self.movers(&mut seen).await?;
        }
        Ok(seen)
    }

    /// The Repository, its keys, and whether they are this namespace's to use.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn repository(&self, seen: &mut RunSeen, name: &str) -> kube::Result<()> {
        seen.namespace = self.all::<Namespace>().get_opt(&self.namespace).await?;
        let Some(repository) = self.all::<Repository>().get_opt(name).await? else {
            seen.lacks(Reason::RepositoryMissing, format!("there is no Repository {name}"));
            return Ok(());
        };
        if !seen.namespace.as_ref().is_some_and(|namespace| contains(&repository.spec.namespaces, namespace)) {
            let message = format!("Repository {name} does not let namespace {} in: see its spec.namespaces", self.namespace);
            seen.lacks(Reason::NamespaceNotAllowed, message);
            return Ok(());
        }
        let mut repository = repository;
        let secret = repository.spec.secret.clone();
        let mut keys = self.ours::<Secret>().get_opt(&secret).await?;
        if let (Some(beside), Some(own)) = (&repository.spec.velero, &keys) {
            match self.beside_velero(&beside.backup_storage_location, own).await? {
                Ok((place, all)) => (repository.spec.s3, keys) = (Some(place), Some(all)),
                Err(message) => seen.lacks(Reason::RepositoryMissing, message),
            }
        }
        let checked = keys.as_ref().map(|keys| objects::request(&self.uid, 0, self.installation, keys));
        let place = &self.installation.namespace;
        let hint = match &repository.spec.velero {
            Some(_) => "it needs password",
            None => "it needs password, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY",
        };
        match checked {
            None => seen.lacks(Reason::SecretMissing, format!("there is no Secret {secret} in namespace {place}; {hint}")),
            Some(Err(key)) => seen.lacks(Reason::SecretMissing, format!("Secret {secret} in namespace {place} has no {key}; {hint}")),
            Some(Ok(_)) => {}
        }
        seen.keys = keys;
        seen.repository = Some(repository);
        Ok(())
    }

    /// Where a repository beside Velero's backups is, and all its keys; or why it cannot be used.
    async fn beside_velero(&self, location: &str, own: &Secret) -> kube::Result<Result<(S3Location, Secret), String>> {
        let Some(velero) = &self.installation.velero else {
            return Ok(Err("Velero is not served here: name its namespace to the chart (velero.namespace)".to_owned()));
        };
        // Read at each attempt: whoever changes them there changes them here.
        let seen = LocationSeen::read(self.client, velero, location).await?;
        Ok(seen.resolve(location, own))
    }

    /// The claim that movers mount, and its volume.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn claim(&self, seen: &mut RunSeen) -> kube::Result<()> {
        let name = objects::name(&self.uid);
        let namespace = &self.installation.namespace;
        let is_of = |volume: &PersistentVolume| {
            let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            claim.is_some_and(|claim| claim.name.as_deref() == Some(&name) && claim.namespace.as_ref() == Some(namespace))
        };
        seen.claim = self.ours::<PersistentVolumeClaim>().get_opt(&name).await?;
        let Some(claim) = &seen.claim else {
            // The volume goes a moment after its claim, and nothing that it was made of may go before it.
            if let Some(volume) = self.status.claim_volume.as_ref().filter(|_| self.is_over) {
                let volume = self.all::<PersistentVolume>().get_opt(volume).await?;
                seen.volume = volume.filter(|volume| is_of(volume) && is_made_since(volume, self.since.as_ref()));
            }
            return Ok(());
        };
        let spec = claim.spec.clone().unwrap_or_default();
        // Where a mover may run is settled, once it does.
        let is_settled = self.status.phase == Phase::InProgress;
        if let Some(class) = spec.storage_class_name.as_ref().filter(|_| !is_settled) {
            seen.binds_late = self.binds_late(class).await?;
        }
        let Some(volume_name) = &spec.volume_name else {
            if self.status.attempt.is_some() {
                seen.claim_problem = self.last_warning(&self.ours(), claim.uid().unwrap_or_default()).await?;
            }
            return Ok(());
        };
        match self.all::<PersistentVolume>().get_opt(volume_name).await?.filter(is_of) {
            Some(volume) if is_made_since(&volume, self.since.as_ref()) => seen.volume = Some(volume),
            foreign => seen.foreign_volume = foreign,
        }
        if let (Some(selector), Some(attempt), false) = (seen.claim_topology(), &self.status.attempt, is_settled) {
            let node = self.all::<Node>().get_opt(&attempt.node).await?;
            seen.is_elsewhere = node.is_some_and(|node| !reach::selects(selector, &attempt.node, node.labels()));
        }
        Ok(())
    }

    /// Whether claims of a class wait for a node.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn binds_late(&self, class: &str) -> kube::Result<bool> {
        let class = self.all::<StorageClass>().get_opt(class).await?;
        Ok(class.and_then(|class| class.volume_binding_mode).as_deref() == Some("WaitForFirstConsumer"))
    }

    /// What was complained of last about an object.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn last_warning(&self, events: &Api<Event>, uid: String) -> kube::Result<Option<String>> {
        let fields = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning")).limit(MAX_EVENTS);
        let events = events.list(&fields).await?.items;
        // What keeps it from going on; kubelet warns of much else.
        let hinders = |event: &Event| {
            event.reason.as_deref().is_some_and(|reason| ["Fail", "BackOff", "Err"].iter().any(|word| reason.contains(word)))
        };
        let newest = events.into_iter().filter(hinders).max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(newest.and_then(|event| event.message))
    }

    async fn movers(&self, seen: &mut RunSeen) -> kube::Result<()> {
        let of_run = ListParams::default().labels(&format!("{RUN_LABEL}={}", self.uid));
        let requests = self.ours::<Secret>().list_metadata(&of_run).await?.items;
        let number = |secret: &str| secret.rsplit('-').next().and_then(|number| number.parse().ok());
        seen.requests = requests.iter().filter_map(|secret| number(&secret.name_any())).collect();
        seen.has_pods = !self.ours::<Pod>().list_metadata(&of_run).await?.items.is_empty();
        let Some(attempt) = &self.status.attempt else { return Ok(()) };
        let name = gate::pod_name(&attempt.node, attempt.slot);
        let Some(pod) = self.ours::<Pod>().get_opt(&name).await? else { return Ok(()) };
        let labelled = |key: &str| pod.labels().get(key).map(String::as_str);
        if labelled(RUN_LABEL) != Some(&self.uid) || labelled(objects::ATTEMPT_LABEL) != Some(&attempt.number.to_string()) {
            seen.pod = PodSeen::Another;
            return Ok(());
        }
        let node = cluster::node_state(self.client, &attempt.node).await?;
        let state = PodState::of(&pod);
        seen.pod_problem = state.problem.clone();
        seen.has_mover_ended = state.ended.is_some();
        if seen.pod_problem.is_none() && !state.is_running && state.ended.is_none() {
            seen.pod_problem = self.last_warning(&self.ours(), pod.uid().unwrap_or_default()).await?;
        }
        // What it said counts, whatever became of its node.
        let said = if let Some((container, ended)) = &state.ended {
            Some(self.said(&pod, attempt, container, ended).await?)
        } else if node == NodeState::Lost {
            Some(MoverSaid::Disrupted(format!("node {} is gone", attempt.node)))
        } else {
            state.never_starts.clone()
        };
        if said.is_none() && node == NodeState::NotReady {
            seen.pod_problem = Some(format!("node {} does not answer: the mover may be at work, or not", attempt.node));
        } else if let (None, Some(container)) = (&said, state.speaks) {
            let (progress, trouble) = self.heard(&name, container, attempt).await;
            seen.progress = progress.filter(|_| state.is_running);
            seen.pod_problem = trouble.or(seen.pod_problem.take());
        }
        seen.pod = PodSeen::Ours { said, is_running: state.is_running };
        Ok(())
    }

    async fn said(&self, pod: &Pod, attempt: &Attempt, container: &str, ended: &ContainerStateTerminated) -> kube::Result<MoverSaid> {
        let run = objects::run_text(&self.uid, attempt.number);
        let line = ended.message.as_deref().and_then(|message| last_said(message, &run));
        let code = ended.exit_code;
        let has_summary = code == 0 || code == ExitCode::Incomplete as i32;
        if let (true, Some(done @ (Line::BackupSummary(_) | Line::RestoreSummary(_)))) = (has_summary, &line) {
            return Ok(MoverSaid::Done(Box::new(done.clone())));
        }
        let is_interrupted = [ExitCode::Interrupted as i32, ExitCode::Resumable as i32, 137, 143].contains(&code);
        let is_evicted =
            pod.status.as_ref().and_then(|status| status.reason.as_deref()).is_some_and(|reason| FROM_OUTSIDE.contains(&reason));
        if is_interrupted && (is_evicted || pod.metadata.deletion_timestamp.is_some()) {
            return Ok(MoverSaid::Disrupted(format!("it was ended from outside, with exit code {code}")));
        }
        if let (true, Some(Line::Error(failure))) = (code == ExitCode::Locked as i32, &line) {
            return Ok(MoverSaid::Disrupted(failure.message.clone()));
        }
        let log_tail = self.log(&pod.name_any(), container).await;
        let is_final = matches!(&line, Some(Line::Error(failure)) if failure.is_final);
        let message = match (line, ended.reason.as_deref()) {
            (Some(Line::Error(failure)), _) => match failure.hint {
                Some(hint) => format!("{}; {hint}", failure.message),
                None => failure.message,
            },
            (_, Some("OOMKilled")) => "it was killed for its memory: raise its limit in the MoverPolicy, or lower its memory".to_owned(),
            _ => format!("exit code {code}, without a result"),
        };
        Ok(MoverSaid::Failed { message, log_tail, is_final })
    }

    /// The end of a log. It may be gone with its node, or out of reach for a while: that is not worth an error.
    async fn log(&self, pod: &str, container: &str) -> String {
        let parameters = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(TAIL_LINES),
            limit_bytes: Some(MAX_LOG_BYTES),
            ..LogParams::default()
        };
        self.ours::<Pod>().logs(pod, &parameters).await.unwrap_or_default()
    }

    /// How far it says it is, and what it tries again.
    async fn heard(&self, pod: &str, container: &str, attempt: &Attempt) -> (Option<Status>, Option<String>) {
        let log = self.log(pod, container).await;
        let run = objects::run_text(&self.uid, attempt.number);
        let newest: Vec<Line> = log.lines().rev().filter_map(|line| said_by(line, &run)).collect();
        let progress = newest.iter().find_map(|line| if let Line::Status(status) = line { Some(status.clone()) } else { None });
        let trouble = newest.iter().find_map(|line| match line {
            Line::Retry(retry) => Some(format!("the mover tries again: {}", retry.problem)),
            Line::Waiting(waiting) => Some(format!("the mover waits: {}", waiting.problem)),
            _ => None,
        });
        (progress, trouble)
    }
}

/// Whether volumes of a class take Secrets of their claim's namespace, or of its name: claims of ours have none there.
#[must_use]
pub fn takes_secrets_of_claims(class: &StorageClass) -> bool {
    class.parameters.iter().flatten().any(|(key, value)| key.contains("secret") && value.contains("${pvc."))
}

/// Made by a provisioner, after whatever it is for: not one that was free and fitted.
#[must_use]
pub fn is_made_since(volume: &PersistentVolume, since: Option<&Time>) -> bool {
    volume.annotations().contains_key(PROVISIONED_BY) && volume.metadata.creation_timestamp.as_ref() >= since
}

/// Whether these namespaces are meant to have this one among them.
#[must_use]
pub fn contains(namespaces: &Namespaces, namespace: &Namespace) -> bool {
    let is_named = namespaces.names.as_ref().is_some_and(|names| names.contains(&namespace.name_any()));
    let selector = namespaces.selector.clone().map(kube::core::Selector::try_from);
    is_named || selector.is_some_and(|selector| selector.is_ok_and(|selector| selector.matches(namespace.labels())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_claims() {
        let class = |value: &str| StorageClass {
            parameters: Some([("csi.storage.k8s.io/node-stage-secret-namespace".to_owned(), value.to_owned())].into()),
            ..StorageClass::default()
        };
        assert!(takes_secrets_of_claims(&class("${pvc.namespace}")));
        assert!(!takes_secrets_of_claims(&class("storage")) && !takes_secrets_of_claims(&StorageClass::default()));
    }

    #[test]
    fn only_what_was_made_for_a_run_is_its_own() {
        let volume = |annotation: &str, created: &str| -> PersistentVolume {
            let metadata = serde_json::json!({"annotations": {annotation: "csi"}, "creationTimestamp": created});
            serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap()
        };
        let since = Time("2026-11-20T12:00:00Z".parse().unwrap());
        assert!(is_made_since(&volume(PROVISIONED_BY, "2026-11-20T12:00:00Z"), Some(&since)));
        assert!(!is_made_since(&volume(PROVISIONED_BY, "2026-11-20T11:59:59Z"), Some(&since)), "it was there before");
        assert!(!is_made_since(&volume("by-hand", "2026-11-20T12:00:01Z"), Some(&since)), "somebody made it");
        assert!(!is_made_since(&PersistentVolume::default(), Some(&since)));
    }
}
