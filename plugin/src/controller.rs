//! The controller: watches in, one run at a time out.
//!
//! ```text
//!  watches ──► Cluster (what the gate sees) ──► runs that have a slot now ─┐
//!     └──────► the run that an object belongs to ─────────────────────────┴─► observe, decide, record, act
//!     └──────► mover pods ──► keeper (when is a slot free again)
//! ```
//! It has no memory: what it must know is in the API server. Client required.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::repository::RepositoryStatus;
use crate::api::volume_backup::{Phase, Reason, VolumeBackup, VolumeBackupStatus};
use crate::api::{MANAGED_LABEL, MoverPolicy, Repository};
use crate::backup::objects::Installation;
use crate::backup::{self, Seen};
use crate::cluster::Cluster;
use crate::keeper;

/// Who writes statuses.
const MANAGER: &str = "estiba-controller";
/// After an error of the API server; each further one doubles it, to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// After an object that the API server will not have.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// Slots are looked at again after this, in case a change was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between two looks at a pod that is to end.
const KEEP_AGAIN: Duration = Duration::from_secs(2);

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server's own words.
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

struct Context {
    client: Client,
    installation: Installation,
    cluster: Arc<Cluster>,
    /// One at a time asks for a slot, and records what it got, before the next one asks.
    turn: tokio::sync::Mutex<()>,
    failures: Mutex<HashMap<String, u32>>,
    /// Whether the watches have shown all there is: before, nothing is decided.
    ready: tokio::sync::watch::Receiver<bool>,
}

impl Context {
    /// Waits until the watches have shown all there is. False: they never will.
    async fn is_ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }
}

/// Works until `stop` comes, or a watch ends for good.
pub async fn run(client: Client, installation: Installation, stop: impl Future<Output = ()>) {
    let ours = |client: &Client| Api::<Pod>::namespaced(client.clone(), &installation.namespace);
    let managed = || watcher::Config::default().labels(&format!("{}={}", MANAGED_LABEL.0, MANAGED_LABEL.1));
    let (wake_tx, wake_rx) = tokio::sync::mpsc::channel::<()>(1);
    let (next_tx, next_rx) = mpsc::unbounded();
    let (ready_tx, ready_rx) = tokio::sync::watch::channel(false);

    let backups = Controller::new(Api::<VolumeBackup>::all(client.clone()), watcher::Config::default());
    // A store of its own: only one may wait for a store to be ready, and Controller waits for its own.
    let (all_backups, backups_writer) = reflector::store();
    let (pods, pods_writer) = reflector::store();
    let (nodes, nodes_writer) = reflector::store();
    let (csi_nodes, csi_nodes_writer) = reflector::store();
    let (attachments, attachments_writer) = reflector::store();
    let (policies, policies_writer) = reflector::store();
    let cluster = Arc::new(Cluster { backups: all_backups, pods, nodes, csi_nodes, attachments, policies, recorded: Mutex::default() });
    let watches = [
        keep_store(Api::<VolumeBackup>::all(client.clone()), watcher::Config::default(), backups_writer, wake_tx.clone()),
        keep_store(ours(&client), managed(), pods_writer, wake_tx.clone()),
        keep_store(Api::<Node>::all(client.clone()), watcher::Config::default(), nodes_writer, wake_tx.clone()),
        keep_store(Api::<CSINode>::all(client.clone()), watcher::Config::default(), csi_nodes_writer, wake_tx.clone()),
        keep_store(Api::<VolumeAttachment>::all(client.clone()), watcher::Config::default(), attachments_writer, wake_tx.clone()),
        keep_store(Api::<MoverPolicy>::all(client.clone()), watcher::Config::default(), policies_writer, wake_tx.clone()),
    ];
    let context = Arc::new(Context {
        client: client.clone(),
        installation: installation.clone(),
        cluster: cluster.clone(),
        turn: tokio::sync::Mutex::default(),
        failures: Mutex::default(),
        ready: ready_rx,
    });
    let mapper = |cluster: &Arc<Cluster>| cluster.clone();
    let (of_claims, of_pods, of_snapshots, of_contents) = (mapper(&cluster), mapper(&cluster), mapper(&cluster), mapper(&cluster));
    let runs = backups
        .watches(Api::<PersistentVolumeClaim>::namespaced(client.clone(), &installation.namespace), managed(), move |claim| {
            of_claims.run_of(&claim)
        })
        .watches(ours(&client), managed(), move |pod| of_pods.run_of(&pod))
        .watches(Api::<VolumeSnapshot>::all(client.clone()), managed(), move |snapshot| of_snapshots.run_of(&snapshot))
        .watches(Api::<VolumeSnapshotContent>::all(client.clone()), managed(), move |content| of_contents.run_of(&content))
        .reconcile_on(next_rx)
        .run(reconcile, on_error, context.clone())
        .for_each(|_| {
            // What became of a run may free a slot, or want one.
            let _ = wake_tx.try_send(());
            futures::future::ready(())
        });
    let keeper =
        Controller::new(ours(&client), managed()).run(keep, on_keep_error, context.clone()).for_each(|_| futures::future::ready(()));
    let waker = wake(cluster.clone(), ready_tx, wake_rx, next_tx);
    tokio::select! {
        () = runs => tracing::error!("the runs are no longer watched"),
        () = keeper => tracing::error!("mover pods are no longer watched"),
        () = waker => tracing::error!("slots are no longer given"),
        _ = futures::future::select_all(watches) => tracing::error!("a watch ended"),
        () = stop => {}
    }
}

/// Keeps a store current; says so when it changes.
fn keep_store<K>(
    api: Api<K>,
    config: watcher::Config,
    writer: reflector::store::Writer<K>,
    wake: tokio::sync::mpsc::Sender<()>,
) -> tokio::task::JoinHandle<()>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    tokio::spawn(reflector(writer, watcher(api, config)).default_backoff().for_each(move |_| {
        // One that waits to be seen is enough.
        let _ = wake.try_send(());
        futures::future::ready(())
    }))
}

/// Wakes the runs that have a slot now.
async fn wake(
    cluster: Arc<Cluster>,
    ready: tokio::sync::watch::Sender<bool>,
    mut changed: tokio::sync::mpsc::Receiver<()>,
    next: mpsc::UnboundedSender<ObjectRef<VolumeBackup>>,
) {
    // The only one that waits for the stores: a second waiter would take the wake-up from the first.
    if cluster.wait_until_ready().await.is_err() || ready.send(true).is_err() {
        return;
    }
    loop {
        // A change that was missed is made up for.
        if let Ok(None) = tokio::time::timeout(LOOK_AGAIN, changed.recv()).await {
            return;
        }
        tokio::time::sleep(SETTLE).await;
        for run in cluster.next() {
            if next.unbounded_send(run).is_err() {
                return;
            }
        }
    }
}

async fn keep(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, Error> {
    if !context.is_ready().await {
        return Ok(Action::requeue(KEEP_AGAIN));
    }
    let backups = context.cluster.backups.state();
    let again = keeper::keep(&context.client, &context.installation, &backups, &pod).await?;
    Ok(if again { Action::requeue(KEEP_AGAIN) } else { Action::requeue(LOOK_AGAIN) })
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that Controller asks for")]
fn on_keep_error(pod: Arc<Pod>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(%error, pod = pod.name_any(), "will try again");
    Action::requeue(KEEP_AGAIN)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that Controller asks for")]
fn on_error(backup: Arc<VolumeBackup>, error: &Error, context: Arc<Context>) -> Action {
    let Error::Kube(error) = error;
    // Somebody wrote in between: what is there now is looked at.
    if matches!(error, kube::Error::Api(status) if status.is_conflict()) {
        return Action::requeue(FIRST_RETRY);
    }
    tracing::warn!(%error, backup = backup.name_any(), "will try again");
    let mut failures = context.failures.lock().expect("no holder panics");
    let count = failures.entry(backup.uid().unwrap_or_default()).or_default();
    *count += 1;
    Action::requeue(LONGEST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow((*count - 1).min(7))))
}

async fn reconcile(backup: Arc<VolumeBackup>, context: Arc<Context>) -> Result<Action, Error> {
    if !context.is_ready().await {
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    let backups: Api<VolumeBackup> = Api::namespaced(context.client.clone(), &backup.namespace().unwrap_or_default());
    // Each pass is about what is there now: a watch may be behind.
    while let Some(current) = backups.get_opt(&backup.name_any()).await? {
        let asks = current.status.as_ref().is_some_and(|status| status.phase == Phase::Prepared);
        let turn = if asks { Some(context.turn.lock().await) } else { None };
        let view = context.cluster.view(&current);
        let seen = backup::observe(&context.client, &context.installation, current, view).await?;
        let decision = backup::decide(&seen, &context.installation, Timestamp::now());
        let recorded = record(&context, &backups, &seen, &decision.status).await?;
        drop(turn);
        context.failures.lock().expect("no holder panics").remove(&backup.uid().unwrap_or_default());
        match (decision.act, decision.again) {
            (Some(act), _) => {
                let kind = format!("{act:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
                tracing::info!(backup = backup.name_any(), phase = ?decision.status.phase, act = kind, "acting");
                if let Err(error) = backup::act(&context.client, &context.installation, &recorded, act).await {
                    return refused(&backups, &recorded, decision.status, error).await;
                }
            }
            (None, Some(Duration::ZERO)) => {}
            (None, Some(after)) => return Ok(Action::requeue(after)),
            (None, None) => return Ok(Action::await_change()),
        }
    }
    Ok(Action::await_change())
}

/// Writes the status, if it changed, on top of exactly what was seen.
async fn record(context: &Context, backups: &Api<VolumeBackup>, seen: &Seen, status: &VolumeBackupStatus) -> Result<VolumeBackup, Error> {
    let backup = &seen.backup;
    if backup.status.as_ref() == Some(status) {
        return Ok(backup.clone());
    }
    let recorded = apply(backups, backup, status).await?;
    let before = backup.status.as_ref().and_then(|before| before.attempt.as_ref());
    if let Some(attempt) = status.attempt.as_ref().filter(|attempt| Some(*attempt) != before) {
        context.cluster.record(&backup.uid().unwrap_or_default(), attempt);
    }
    if status.phase == Phase::Completed
        && let Some(repository) =
            seen.repository.as_ref().filter(|repository| repository.status.as_ref().is_none_or(|known| known.id.is_none()))
        && let Some(id) = seen.repository_id()
    {
        let status = json!({"status": RepositoryStatus { id: Some(id) }});
        let repositories = Api::<Repository>::all(context.client.clone());
        repositories.patch_status(&repository.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    Ok(recorded)
}

async fn apply(backups: &Api<VolumeBackup>, backup: &VolumeBackup, status: &VolumeBackupStatus) -> Result<VolumeBackup, Error> {
    let patch = json!({
        "apiVersion": VolumeBackup::api_version(&()),
        "kind": VolumeBackup::kind(&()),
        "metadata": {"resourceVersion": backup.resource_version()},
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    Ok(backups.patch_status(&backup.name_any(), &parameters, &Patch::Apply(patch)).await?)
}

/// What the API server will not have is said in the status: a quota, an admission rule, a field.
async fn refused(
    backups: &Api<VolumeBackup>,
    backup: &VolumeBackup,
    mut status: VolumeBackupStatus,
    error: kube::Error,
) -> Result<Action, Error> {
    let kube::Error::Api(answer) = &error else { return Err(error.into()) };
    if !(answer.is_forbidden() || answer.is_invalid()) {
        return Err(error.into());
    }
    status.reason = Some(Reason::Refused);
    status.message.clone_from(&answer.message);
    crate::api::conditions::set(&mut status, Timestamp::now());
    if backup.status.as_ref() != Some(&status) {
        apply(backups, backup, &status).await?;
    }
    Ok(Action::requeue(REFUSED_RETRY))
}
