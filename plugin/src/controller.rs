//! The controller: watches in, one run at a time out.
//!
//! ```text
//!  watches ──► Cluster (what the gate sees) ──► runs that have a slot now ─┐
//!     └──────► the run that an object belongs to ─────────────────────────┴─► observe, decide, record, act
//!     └──────► mover pods ──► keeper (when is a slot free again)
//! ```
//! What it must know is in the API server; what it remembers spares requests. Client required.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Config, Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};

use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::repository::RepositoryStatus;
use crate::api::run::{Phase, Reason};
use crate::api::{
    BackupSchedule, MANAGED_LABEL, MoverPolicy, RUN_LABEL, RepositoryQuery, RunStatus, VolumeBackup, VolumeRestore, conditions,
};
use crate::cluster::{self, Cluster};
use crate::keeper;
use crate::query;
use crate::run::decide::asked_in_turn;
use crate::run::objects::Installation;
use crate::run::observe::RunSeen;
use crate::run::pod::{MoverSaid, PodSeen};
use crate::run::{self, Act, Run};
use crate::schedule;
use crate::velero;
use crate::velero::api::{DataDownload, DataUpload};

/// After an error of the API server; each further one doubles it, to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// After an object that the API server will not have.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// Slots are looked at again after this, in case a change was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Runs of a kind that are looked at in one moment: so many requests wait at the API server, not more.
const AT_ONCE: u16 = 32;
/// Between two looks at a pod that is to end.
const KEEP_AGAIN: Duration = Duration::from_secs(2);

struct Context {
    client: Client,
    installation: Installation,
    cluster: Arc<Cluster>,
    /// One at a time asks for a slot, and records what it got, before the next one asks.
    turn: tokio::sync::Mutex<()>,
    failures: Mutex<HashMap<String, u32>>,
    /// Whether the watches have shown all there is: before, nothing is decided.
    ready: tokio::sync::watch::Receiver<bool>,
    /// Steps until this process ends in the middle of everything, for tests.
    steps: Option<AtomicU32>,
}

impl Context {
    /// Waits until the watches have shown all there is. False: they never will.
    async fn is_ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }

    /// Nothing went wrong until there was nothing more to do.
    fn looked_at(&self, uid: &Option<String>, action: Action) -> Action {
        self.failures.lock().expect("no holder panics").remove(uid.as_deref().unwrap_or_default());
        action
    }

    /// Something was recorded or changed.
    fn step(&self) {
        if self.steps.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) <= 1) {
            std::process::abort();
        }
    }
}

/// Works until `stop` comes, or a watch ends for good. `steps` is for tests: after so many changes the process is aborted.
pub async fn run(client: Client, installation: Installation, steps: Option<u32>, stop: impl Future<Output = ()>) {
    let ours = |client: &Client| Api::<Pod>::namespaced(client.clone(), &installation.namespace);
    let (wake_tx, wake_rx) = tokio::sync::mpsc::channel::<()>(1);
    let (backups_tx, backups_rx) = mpsc::unbounded();
    let (restores_tx, restores_rx) = mpsc::unbounded();
    let (ready_tx, ready_rx) = tokio::sync::watch::channel(false);

    // Stores of its own: only one may wait for a store to be ready, and Controller waits for its own.
    let (backups, backups_writer) = reflector::store();
    let (restores, restores_writer) = reflector::store();
    let (pods, pods_writer) = reflector::store();
    let (nodes, nodes_writer) = reflector::store();
    let (csi_nodes, csi_nodes_writer) = reflector::store();
    let (attachments, attachments_writer) = reflector::store();
    let (policies, policies_writer) = reflector::store();
    let cluster = Arc::new(Cluster { backups, restores, pods, nodes, csi_nodes, attachments, policies, recorded: Mutex::default() });
    let everything = watcher::Config::default;
    let watches = [
        keep_store(Api::<VolumeBackup>::all(client.clone()), everything(), backups_writer, wake_tx.clone()),
        keep_store(Api::<VolumeRestore>::all(client.clone()), everything(), restores_writer, wake_tx.clone()),
        keep_store(ours(&client), managed(), pods_writer, wake_tx.clone()),
        keep_store(Api::<Node>::all(client.clone()), everything(), nodes_writer, wake_tx.clone()),
        keep_store(Api::<CSINode>::all(client.clone()), everything(), csi_nodes_writer, wake_tx.clone()),
        keep_store(Api::<VolumeAttachment>::all(client.clone()), everything(), attachments_writer, wake_tx.clone()),
        keep_store(Api::<MoverPolicy>::all(client.clone()), everything(), policies_writer, wake_tx),
    ];
    let context = Arc::new(Context {
        client: client.clone(),
        installation: installation.clone(),
        cluster: cluster.clone(),
        turn: tokio::sync::Mutex::default(),
        failures: Mutex::default(),
        ready: ready_rx,
        steps: steps.map(AtomicU32::new),
    });
    let of_snapshots = cluster.clone();
    let of_contents = cluster.clone();
    let backups = controller::<VolumeBackup>(&context, |cluster| &cluster.backups)
        .watches(Api::<VolumeSnapshot>::all(client.clone()), managed(), move |snapshot| run_of(&of_snapshots.backups, &snapshot))
        .watches(Api::<VolumeSnapshotContent>::all(client.clone()), managed(), move |content| run_of(&of_contents.backups, &content))
        .reconcile_on(backups_rx)
        .run(reconcile, on_error, context.clone());
    let restores = controller::<VolumeRestore>(&context, |cluster| &cluster.restores).reconcile_on(restores_rx).run(
        reconcile,
        on_error,
        context.clone(),
    );
    let of_schedules = watcher(Api::<VolumeBackup>::all(client.clone()), everything().labels(schedule::SCHEDULE_LABEL));
    let scheduled = news(of_schedules.default_backoff(), |status, _| (status.phase.is_end(), status.cleaned));
    let schedules = Controller::new(Api::<BackupSchedule>::all(client.clone()), watcher::Config::default()).owns_stream(scheduled).run(
        keep_time,
        try_again,
        context.clone(),
    );
    let queries = Controller::new(Api::<RepositoryQuery>::all(client.clone()), watcher::Config::default())
        // One at a time: they count the others before they begin.
        .with_config(Config::default().concurrency(1))
        .watches(ours(&client), managed(), |pod| query_of(&pod))
        .run(answer, try_again, context.clone());
    let velero = velero(&context);
    let keeper = Controller::new(ours(&client), managed()).run(keep, try_again, context.clone());
    let waker = wake(cluster.clone(), ready_tx, wake_rx, &backups_tx, &restores_tx);
    tokio::select! {
        () = backups.for_each(done) => tracing::error!("backups are no longer watched"),
        () = restores.for_each(done) => tracing::error!("restores are no longer watched"),
        () = schedules.for_each(done) => tracing::error!("schedules are no longer watched"),
        () = queries.for_each(done) => tracing::error!("queries are no longer watched"),
        () = velero => tracing::error!("Velero is no longer watched"),
        () = keeper.for_each(done) => tracing::error!("mover pods are no longer watched"),
        () = waker => tracing::error!("slots are no longer given"),
        _ = futures::future::select_all(watches) => tracing::error!("a watch ended"),
        () = stop => {}
    }
}

/// What Velero asks for, where it is served.
async fn velero(context: &Arc<Context>) {
    match context.installation.velero.clone() {
        Some(namespace) => {
            tokio::select! {
                () = transfers::<DataUpload>(context, &namespace) => {}
                () = transfers::<DataDownload>(context, &namespace) => {}
            }
        }
        None => futures::future::pending().await,
    }
}

async fn transfers<T: velero::Read>(context: &Arc<Context>, namespace: &str) {
    let client = || context.client.clone();
    let runs = watcher(Api::<T::Run>::namespaced(client(), namespace), watcher::Config::default()).default_backoff();
    // All that is told of a run is told of what it was made for.
    let runs = runs.filter_map(|event| {
        let run = event.map(|event| match event {
            watcher::Event::Apply(run) | watcher::Event::InitApply(run) | watcher::Event::Delete(run) => Some(run),
            watcher::Event::Init | watcher::Event::InitDone => None,
        });
        futures::future::ready(run.transpose())
    });
    Controller::new(Api::<T>::namespaced(client(), namespace), watcher::Config::default())
        .with_config(Config::default().concurrency(AT_ONCE))
        .owns_stream(runs)
        .run(transfer::<T>, try_again, context.clone())
        .for_each(done)
        .await;
}

async fn transfer<T: velero::Read>(transfer: Arc<T>, context: Arc<Context>) -> kube::Result<Action> {
    let (name, namespace) = (transfer.name_any(), transfer.namespace().unwrap_or_default());
    let again = velero::reconcile::<T>(&context.client, &name, &namespace).await?;
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

fn done<T>(_: T) -> futures::future::Ready<()> {
    futures::future::ready(())
}

fn managed() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={}", MANAGED_LABEL.0, MANAGED_LABEL.1))
}

/// Runs of one kind, woken by what was made for them.
fn controller<K: Run>(context: &Context, store: impl Fn(&Cluster) -> &Store<K> + Copy + Send + Sync + 'static) -> Controller<K> {
    let client = || context.client.clone();
    let namespace = &context.installation.namespace;
    let (of_claims, of_pods) = (context.cluster.clone(), context.cluster.clone());
    let (runs, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client()), watcher::Config::default()).default_backoff().reflect(writer);
    // Statuses are our own, and only another phase is looked at again.
    let changes = news(events, |status, meta| (meta.generation, meta.deletion_timestamp.is_some(), status.phase, status.cleaned));
    Controller::for_stream(changes, runs)
        .with_config(Config::default().concurrency(AT_ONCE))
        .watches(Api::<PersistentVolumeClaim>::namespaced(client(), namespace), managed(), move |claim| run_of(store(&of_claims), &claim))
        .watches(Api::<Pod>::namespaced(client(), namespace), managed(), move |pod| run_of(store(&of_pods), &pod))
}

/// Those changes of runs that are worth a look: the first of each, its removal, and those of what counts.
fn news<K: Run, C: PartialEq + Copy>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    what_counts: fn(&RunStatus, &ObjectMeta) -> C,
) -> impl Stream<Item = watcher::Result<K>> {
    let mut known = HashMap::new();
    let mut is_news = move |event: watcher::Event<K>| match event {
        watcher::Event::Apply(run) | watcher::Event::InitApply(run) => {
            let counts = what_counts(run.run_status().unwrap_or(&RunStatus::default()), run.meta());
            (known.insert(run.uid(), counts) != Some(counts)).then_some(run)
        }
        watcher::Event::Delete(run) => {
            known.remove(&run.uid());
            Some(run)
        }
        watcher::Event::Init => {
            known.clear();
            None
        }
        watcher::Event::InitDone => None,
    };
    events.filter_map(move |event| futures::future::ready(event.map(&mut is_news).transpose()))
}

/// The run that an object was made for.
fn run_of<K: Run>(runs: &Store<K>, object: &impl ResourceExt) -> Option<ObjectRef<K>> {
    let uid = object.labels().get(RUN_LABEL)?;
    cluster::refs(runs, |each| each == uid).pop()
}

/// The question that a mover answers.
fn query_of(pod: &Pod) -> Option<ObjectRef<RepositoryQuery>> {
    let (namespace, name) = query::asked_by(pod)?;
    Some(ObjectRef::new(name).within(namespace))
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
    backups: &mpsc::UnboundedSender<ObjectRef<VolumeBackup>>,
    restores: &mpsc::UnboundedSender<ObjectRef<VolumeRestore>>,
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
        let (next_backups, next_restores) = cluster.next();
        let is_sent = next_backups.into_iter().all(|run| backups.unbounded_send(run).is_ok())
            && next_restores.into_iter().all(|run| restores.unbounded_send(run).is_ok());
        if !is_sent {
            return;
        }
    }
}

async fn keep(pod: Arc<Pod>, context: Arc<Context>) -> kube::Result<Action> {
    if !context.is_ready().await {
        return Ok(Action::requeue(KEEP_AGAIN));
    }
    let again = keeper::keep(&context.client, &context.installation, &context.cluster, &pod).await?;
    Ok(if again { Action::requeue(KEEP_AGAIN) } else { Action::requeue(LOOK_AGAIN) })
}

async fn keep_time(schedule: Arc<BackupSchedule>, context: Arc<Context>) -> kube::Result<Action> {
    let (name, namespace) = (schedule.name_any(), schedule.namespace().unwrap_or_default());
    let again = schedule::reconcile(&context.client, &name, &namespace).await?;
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

async fn answer(query: Arc<RepositoryQuery>, context: Arc<Context>) -> kube::Result<Action> {
    let (name, namespace) = (query.name_any(), query.namespace().unwrap_or_default());
    let again = query::reconcile(&context.client, &context.installation, &name, &namespace).await?;
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that Controller asks for")]
fn try_again<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &kube::Error, _: Arc<Context>) -> Action {
    tracing::warn!(%error, kind = %K::kind(&()), name = object.name_any(), "will try again");
    Action::requeue(KEEP_AGAIN)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that Controller asks for")]
fn on_error<K: Run>(run: Arc<K>, error: &kube::Error, context: Arc<Context>) -> Action {
    // Somebody wrote in between: what is there now is looked at.
    if matches!(error, kube::Error::Api(status) if status.is_conflict()) {
        return Action::requeue(FIRST_RETRY);
    }
    tracing::warn!(%error, kind = %K::kind(&()), run = run.name_any(), "will try again");
    let mut failures = context.failures.lock().expect("no holder panics");
    let count = failures.entry(run.uid().unwrap_or_default()).or_default();
    *count += 1;
    Action::requeue(LONGEST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow((*count - 1).min(7))))
}

async fn reconcile<K: Run>(run: Arc<K>, context: Arc<Context>) -> kube::Result<Action> {
    if !context.is_ready().await {
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    let runs: Api<K> = Api::namespaced(context.client.clone(), &run.namespace().unwrap_or_default());
    // Each pass is about what is there now: a watch may be behind.
    while let Some(current) = runs.get_opt(&run.name_any()).await? {
        let seen = current.clone().observe(&context.client, &context.installation).await?;
        let asks = current.run_status().is_some_and(|status| status.phase == Phase::Prepared);
        let turn = if asks { Some(context.turn.lock().await) } else { None };
        let gate = context.cluster.view(&current);
        let decision = K::decide(&seen, &gate, &context.installation, Timestamp::now());
        // Before the run is over: then nobody looks at its Repository any more.
        know_repository(&context, seen.as_ref()).await?;
        // Before its finalizer is there, nothing is known that is worth a write.
        let is_new = matches!(decision.act, Some(Act::AddFinalizer));
        let recorded = if is_new { current } else { record(&context, &runs, &current, &decision.status).await? };
        drop(turn);
        match (decision.act, decision.again) {
            (Some(act), _) => {
                let phase = recorded.run_status().map(|status| status.phase);
                tracing::info!(kind = %K::kind(&()), run = run.name_any(), ?phase, act = act.name(), "acting");
                if let Err(error) = run::act(&context.client, &context.installation, &recorded, act).await {
                    return refused(&runs, &recorded, decision.status, REFUSED_RETRY.max(asked_in_turn(&gate)), error).await;
                }
                context.step();
            }
            (None, Some(Duration::ZERO)) => {}
            (None, Some(after)) => return Ok(context.looked_at(&run.uid(), Action::requeue(after))),
            (None, None) => return Ok(context.looked_at(&run.uid(), Action::await_change())),
        }
    }
    Ok(context.looked_at(&run.uid(), Action::await_change()))
}

/// Writes the status, if it changed, on top of exactly what was seen.
async fn record<K: Run>(context: &Context, runs: &Api<K>, run: &K, status: &K::Status) -> kube::Result<K> {
    if run.status() == Some(status) {
        return Ok(run.clone());
    }
    let recorded = run::apply_status(runs, run, status).await?;
    let before = run.run_status().and_then(|before| before.attempt.as_ref());
    if let Some(attempt) = recorded.run_status().and_then(|status| status.attempt.as_ref()).filter(|attempt| Some(*attempt) != before) {
        context.cluster.record(&run.uid().unwrap_or_default(), attempt);
    }
    context.step();
    Ok(recorded)
}

/// A repository that a mover has stored into is there, and is not to be created again.
async fn know_repository(context: &Context, seen: &RunSeen) -> kube::Result<()> {
    let Some(repository) = &seen.repository else { return Ok(()) };
    let PodSeen::Ours { said: Some(MoverSaid::Done(line)), .. } = &seen.pod else { return Ok(()) };
    let contract::Line::BackupSummary(summary) = line.as_ref() else { return Ok(()) };
    if repository.status.as_ref().is_some_and(|known| known.id.is_some()) {
        return Ok(());
    }
    let status = RepositoryStatus { id: Some(summary.repository_id.clone()) };
    run::apply_status(&Api::all(context.client.clone()), repository, &status).await.map(drop)
}

/// What the API server will not have is said in the status.
async fn refused<K: Run>(runs: &Api<K>, run: &K, mut status: K::Status, again: Duration, error: kube::Error) -> kube::Result<Action> {
    let Some(message) = run::refusal(&error) else { return Err(error) };
    let of_run = K::run_status_mut(&mut status);
    of_run.reason = Some(Reason::Refused);
    of_run.message = message.to_owned();
    conditions::set(of_run, Timestamp::now());
    if run.status() != Some(&status) {
        run::apply_status(runs, run, &status).await?;
    }
    Ok(Action::requeue(again))
}
