//! A `RepositoryQuery`: a mover without a volume and without a slot lists what is stored; its log is the answer.
//!
//! ```text
//!  query ─► may its namespace ask that? ─► request, pod ─► the pod's log ─► status; pod and request go, later the query
//! ```

mod answer;

use std::time::Duration;

use futures::AsyncReadExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::api::repository_query::RepositoryQueryStatus;
use crate::api::run::{Attempt, Phase, Reason};
use crate::api::{RUN_FINALIZER, RUN_LABEL, RepositoryQuery};
use crate::cluster;
use crate::restore::Origin;
use crate::restore::origin::{self, Asked};
use crate::run::objects::{self, Installation, Job, MOVER, PodParts, WORK_LABEL};
use crate::run::observe::{Reader, RunSeen};
use crate::run::pod::{MoverSaid, PodState, last_said};
use crate::run::{apply_status, delete_uid, gone_is_fine, refusal};

/// Annotation of the pod: namespace and name of the query that it answers.
const QUERY_ANNOTATION: &str = "estiba.dev/query";
/// Questions that are answered at once, in the whole cluster.
const AT_ONCE: usize = 4;
/// How long an answer may take from the pod's start on.
const ANSWER_SECS: i64 = 600;
/// How long the pod may take until then.
const START: SignedDuration = SignedDuration::from_secs(120);
/// How long an answer is kept.
const KEPT: SignedDuration = SignedDuration::from_mins(10);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: i64 = 2 << 20;
/// What becomes of a question without its mover.
const MOVER_GONE: &str = "the mover that looked for the answer was ended, or its node is gone: ask again";
/// Between two looks at something that does not tell us.
const POLL: Duration = Duration::from_secs(2);
/// Between two looks whether it is a question's turn.
const WAIT: Duration = Duration::from_secs(5);

/// Looks at one query; the answer is when to look again.
///
/// # Errors
/// Those of the API server.
pub async fn reconcile(client: &Client, installation: &Installation, name: &str, namespace: &str) -> kube::Result<Option<Duration>> {
    let queries = Api::<RepositoryQuery>::namespaced(client.clone(), namespace);
    let Some(query) = queries.get_opt(name).await? else { return Ok(None) };
    let question = Question { client, installation, uid: query.uid().unwrap_or_default(), query: &query };
    let status = query.status.clone().unwrap_or_default();
    if query.metadata.deletion_timestamp.is_some() {
        end(client, installation, &question.uid).await?;
        question.hold(&queries, false).await?;
        return Ok(None);
    }
    if status.phase.is_end() {
        end(client, installation, &question.uid).await?;
        let since = status.phase_since.map_or(Timestamp::UNIX_EPOCH, |since| since.0);
        let left = KEPT - Timestamp::now().duration_since(since);
        if left.is_positive() {
            return Ok(Some(left.unsigned_abs()));
        }
        delete_uid(&queries, name, query.uid()).await?;
        return Ok(None);
    }
    if !query.finalizers().iter().any(|finalizer| finalizer == RUN_FINALIZER) {
        question.hold(&queries, true).await?;
        return Ok(Some(Duration::ZERO));
    }
    let next = question.look().await?;
    if status != next {
        // On top of exactly what was seen: another controller may have had an answer meanwhile.
        apply_status(&queries, &query, &next).await?;
    }
    Ok(Some(match next.phase {
        phase if phase.is_end() => Duration::ZERO,
        _ if next.reason == Some(Reason::WaitingForSlot) => WAIT,
        _ => POLL,
    }))
}

/// The namespace and the name of the query that a pod answers.
#[must_use]
pub fn asked_by(pod: &Pod) -> Option<(&str, &str)> {
    pod.annotations().get(QUERY_ANNOTATION)?.split_once('/')
}

/// Ends a mover whose question is no longer there.
///
/// # Errors
/// Those of the API server.
pub async fn keep(client: &Client, installation: &Installation, pod: &Pod) -> kube::Result<()> {
    let (Some((namespace, name)), Some(uid)) = (asked_by(pod), pod.labels().get(RUN_LABEL)) else { return Ok(()) };
    let query = Api::<RepositoryQuery>::namespaced(client.clone(), namespace).get_opt(name).await?;
    if query.is_some_and(|query| query.uid().as_ref() == Some(uid)) { Ok(()) } else { end(client, installation, uid).await }
}

/// No mover of this question is left, and none can start.
async fn end(client: &Client, installation: &Installation, uid: &str) -> kube::Result<()> {
    let secrets = Api::<Secret>::namespaced(client.clone(), &installation.namespace);
    delete_uid(&secrets, &objects::request_name(uid, 0), None).await?;
    let pods = Api::<Pod>::namespaced(client.clone(), &installation.namespace);
    delete_uid(&pods, &objects::query_name(uid), None).await
}

struct Question<'a> {
    client: &'a Client,
    installation: &'a Installation,
    uid: String,
    query: &'a RepositoryQuery,
}

impl Question<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.installation.namespace)
    }

    async fn hold(&self, queries: &Api<RepositoryQuery>, is_held: bool) -> kube::Result<()> {
        let mut finalizers = self.query.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != RUN_FINALIZER);
        finalizers.extend(is_held.then(|| RUN_FINALIZER.to_owned()));
        let patch = json!({"metadata": {"resourceVersion": self.query.resource_version(), "finalizers": finalizers}});
        gone_is_fine(queries.patch(&self.query.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
    }

    async fn look(&self) -> kube::Result<RepositoryQueryStatus> {
        if let Some(pod) = self.pods().get_opt(&objects::query_name(&self.uid)).await? {
            return self.hear(&pod).await;
        }
        if self.query.status.as_ref().is_some_and(|status| status.phase == Phase::InProgress) {
            return Ok(self.status(Phase::Failed, Reason::MoverFailed, "the mover that looked for the answer is gone: ask again"));
        }
        let of_queries = ListParams::default().labels(&format!("{WORK_LABEL}=query"));
        let others = self.pods().list_metadata(&of_queries).await?.items;
        if others.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count() >= AT_ONCE {
            return Ok(self.status(Phase::Pending, Reason::WaitingForSlot, &format!("{AT_ONCE} other questions are being answered")));
        }
        let reader = Reader::of_query(self.client, self.installation, self.query);
        let mut seen = RunSeen { policy: cluster::policy(self.client).await?, ..RunSeen::default() };
        reader.repository(&mut seen, &self.query.spec.repository).await?;
        let source = &self.query.spec.source;
        let asked =
            Asked { is_of_velero: false, backup: None, source, began: self.query.metadata.creation_timestamp.as_ref(), known: None };
        let origin = origin::find(&reader, self.installation, &mut seen, &asked).await?;
        if let Some(missing) = seen.missing {
            return Ok(self.status(Phase::Failed, missing.reason, &missing.message));
        }
        let (Some(repository), Some(keys)) = (&seen.repository, &seen.keys) else {
            return Ok(self.status(Phase::Failed, Reason::RepositoryMissing, "the Repository cannot be used"));
        };
        if origin.path.is_empty() && origin.tag.is_none() {
            let message = "this Repository goes by names (restores.byName): name a claim";
            return Ok(self.status(Phase::Failed, Reason::NamespaceNotAllowed, message));
        }
        let request = match objects::request(&self.uid, 0, self.installation, keys) {
            Ok(request) => request,
            Err(key) => return Ok(self.status(Phase::Failed, Reason::SecretMissing, &format!("the Repository's Secret has no {key}"))),
        };
        let job = job(self.query, &origin);
        let attempt = Attempt::default();
        let parts = PodParts { uid: &self.uid, job: &job, attempt: &attempt, repository, request: &request, policy: &seen.policy };
        let mut pod = objects::query_pod(self.installation, &parts, ANSWER_SECS + START.as_secs());
        let whose = format!("{}/{}", self.query.namespace().unwrap_or_default(), self.query.name_any());
        pod.annotations_mut().insert(QUERY_ANNOTATION.to_owned(), whose);
        let created = match create(&reader.ours::<Secret>(), &request).await? {
            Ok(()) => create(&self.pods(), &pod).await?,
            refused => refused,
        };
        if let Err(refusal) = created {
            return Ok(self.status(Phase::Failed, Reason::Refused, &refusal));
        }
        Ok(self.status(Phase::Pending, Reason::PodStarting, "the mover that looks for the answer is starting"))
    }

    async fn hear(&self, pod: &Pod) -> kube::Result<RepositoryQueryStatus> {
        let state = PodState::of(pod);
        if let Some((_, ended)) = state.ended {
            if ended.exit_code == 0 {
                return match self.answer(pod).await {
                    // Its node has fallen silent, and will not hand out the log any more.
                    Err(_) if is_late_or_leaving(pod) => Ok(self.status(Phase::Failed, Reason::MoverFailed, MOVER_GONE)),
                    answered => answered,
                };
            }
            let line = ended.message.as_deref().and_then(|message| last_said(message, &objects::run_text(&self.uid, 0)));
            let message = match line {
                Some(contract::Line::Error(failure)) => failure.message,
                _ => format!("exit code {}, without an answer", ended.exit_code),
            };
            return Ok(self.status(Phase::Failed, Reason::MoverFailed, &message));
        }
        if let Some(MoverSaid::Failed { message, .. } | MoverSaid::Disrupted(message)) = state.never_starts {
            return Ok(self.status(Phase::Failed, Reason::MoverFailed, &message));
        }
        if is_late_or_leaving(pod) {
            return Ok(self.status(Phase::Failed, Reason::MoverFailed, MOVER_GONE));
        }
        if state.is_running {
            return Ok(self.status(Phase::InProgress, Reason::Moving, "the mover is looking for the answer"));
        }
        let problem = state.problem.unwrap_or_else(|| "the mover that looks for the answer is starting".to_owned());
        Ok(self.status(if age(pod) > START { Phase::Failed } else { Phase::Pending }, Reason::PodStarting, &problem))
    }

    async fn answer(&self, pod: &Pod) -> kube::Result<RepositoryQueryStatus> {
        let spec = &self.query.spec;
        let parameters = LogParams { container: Some(MOVER.to_owned()), limit_bytes: Some(MAX_ANSWER_BYTES), ..LogParams::default() };
        let mut log = Vec::new();
        // It may be cut within a character.
        self.pods().log_stream(&pod.name_any(), &parameters).await?.read_to_end(&mut log).await.map_err(kube::Error::ReadEvents)?;
        let is_cut = log.len() >= usize::try_from(MAX_ANSWER_BYTES).unwrap_or(usize::MAX);
        if is_cut && spec.files.is_none() {
            // The newest are told last, and it is they that are missing.
            return Ok(self.status(Phase::Failed, Reason::MoverFailed, "the answer is too long: ask for fewer (limit)"));
        }
        let mut status = self.status(Phase::Completed, Reason::Done, "answered");
        answer::read(&String::from_utf8_lossy(&log), spec, is_cut, &mut status);
        Ok(status)
    }

    fn status(&self, phase: Phase, reason: Reason, message: &str) -> RepositoryQueryStatus {
        let before = self.query.status.clone().unwrap_or_default();
        let phase_since = before.phase_since.filter(|_| before.phase == phase).or_else(|| Some(Time(Timestamp::now())));
        RepositoryQueryStatus { phase, reason: Some(reason), message: message.to_owned(), phase_since, ..RepositoryQueryStatus::default() }
    }
}

fn age(pod: &Pod) -> SignedDuration {
    let since = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::now(), |since| since.0);
    Timestamp::now().duration_since(since)
}

fn is_late_or_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() || age(pod) > START + SignedDuration::from_secs(ANSWER_SECS)
}

/// What the mover does: one entry more than is wanted tells that there are more.
fn job(query: &RepositoryQuery, origin: &Origin) -> Job {
    let spec = &query.spec;
    let filters = origin.filters(spec.source.snapshot.is_some());
    let mut args = match &spec.files {
        None => ["snapshots", "--skip", &spec.skip.to_string(), "--limit", &(spec.limit + 1).to_string()].map(str::to_owned).to_vec(),
        Some(files) => {
            let path = format!("{}/{}", origin.path, files.path.trim_matches('/'));
            let snapshot = origin.snapshot_id.clone().unwrap_or_else(|| "latest".to_owned());
            let mut args = vec!["ls".to_owned(), snapshot, path.trim_end_matches('/').to_owned()];
            args.extend(["--skip".to_owned(), spec.skip.to_string(), "--limit".to_owned(), (spec.limit + 1).to_string()]);
            if !files.recursive {
                args.extend(["--depth", "1"].map(str::to_owned));
            }
            args
        }
    };
    args.extend(filters);
    Job { work: "query", args, is_block: false, is_read_only: true, capabilities: &[], stores: false }
}

/// The inner error is a refusal, in words.
async fn create<K>(objects: &Api<K>, object: &K) -> kube::Result<Result<(), String>>
where
    K: Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    match objects.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Ok(())),
        Err(error) => refusal(&error).map(|refusal| Err(refusal.to_owned())).ok_or(error),
        Ok(_) => Ok(Ok(())),
    }
}
