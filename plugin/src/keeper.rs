//! Keeps slots: a mover pod's name is free again only when its attempt is settled and none of its containers runs.
//! Client required.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Secret};
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::run::Phase;
use crate::api::{RUN_LABEL, SLOT_FINALIZER};
use crate::cluster::{self, Cluster, NodeState};
use crate::query;
use crate::run::objects::{self, ATTEMPT_LABEL, Installation};
use crate::run::{Run, delete_uid, gone_is_fine};

/// After its grace, a container that has not started cannot start any more: what it must mount is gone as well.
const NEVER_STARTED_FOR: SignedDuration = SignedDuration::from_secs(10);

/// What is to be done about a mover pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// It is at work, or its result is not recorded yet.
    Leave,
    /// It is to end.
    End,
    /// It may still run.
    Wait,
    /// Its slot is free.
    Free,
}

/// Looks at one mover pod. True: look again soon.
///
/// # Errors
/// Those of the API server.
pub async fn keep(client: &kube::Client, installation: &Installation, cluster: &Cluster, pod: &Pod) -> kube::Result<bool> {
    if pod.labels().get(objects::WORK_LABEL).is_some_and(|work| work == "query") {
        return query::keep(client, installation, pod).await.map(|()| false);
    }
    let uid = pod.labels().get(RUN_LABEL).cloned().unwrap_or_default();
    let number = pod.labels().get(ATTEMPT_LABEL).and_then(|number| number.parse().ok()).unwrap_or_default();
    let is_settled = !needs(client, &cluster.backups, &uid, number).await? && !needs(client, &cluster.restores, &uid, number).await?;
    let node = match pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
        Some(node) => cluster::node_state(client, node).await?,
        // Nowhere is nobody who could start it.
        None => NodeState::Ready,
    };
    match decide(pod, is_settled, node, Timestamp::now()) {
        // Its result is about to be recorded.
        Keep::Leave => Ok(is_over(pod)),
        Keep::Wait => Ok(true),
        Keep::End => {
            let secrets = Api::<Secret>::namespaced(client.clone(), &installation.namespace);
            delete_uid(&secrets, &objects::request_name(&uid, number), None).await?;
            delete_uid(&pods(client, installation), &pod.name_any(), pod.uid()).await?;
            Ok(true)
        }
        Keep::Free => {
            let left: Vec<_> = pod.finalizers().iter().filter(|finalizer| *finalizer != SLOT_FINALIZER).collect();
            let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": left}});
            gone_is_fine(pods(client, installation).patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))?;
            Ok(false)
        }
    }
}

/// Whether a run of this kind still needs the pod of that attempt.
async fn needs<K: Run>(client: &kube::Client, runs: &Store<K>, uid: &str, number: u32) -> kube::Result<bool> {
    let Some(cached) = cluster::refs(runs, |each| each == uid).pop() else { return Ok(false) };
    // A watch may be behind, and what it does not show yet may be at work.
    let now = Api::<K>::namespaced(client.clone(), &cached.namespace.unwrap_or_default()).get_opt(&cached.name).await?;
    Ok(now.is_some_and(|now| now.meta().uid.as_deref() == Some(uid) && !is_settled(&now, number)))
}

fn pods(client: &kube::Client, installation: &Installation) -> Api<Pod> {
    Api::namespaced(client.clone(), &installation.namespace)
}

/// Whether an attempt is over and what came of it is recorded.
fn is_settled<K: Run>(run: &K, number: u32) -> bool {
    let Some(status) = run.run_status() else { return true };
    let is_other = status.attempt.as_ref().is_none_or(|attempt| attempt.number != number);
    let is_done = status.phase.is_end() || matches!(status.phase, Phase::Canceling | Phase::Binding);
    is_other || is_done || run.meta().deletion_timestamp.is_some()
}

fn decide(pod: &Pod, is_settled: bool, node: NodeState, now: Timestamp) -> Keep {
    if !is_settled || !pod.finalizers().iter().any(|finalizer| finalizer == SLOT_FINALIZER) {
        return Keep::Leave;
    }
    let Some(deleted) = &pod.metadata.deletion_timestamp else { return Keep::End };
    if node == NodeState::Lost || is_over(pod) {
        return Keep::Free;
    }
    // What has not started by the end of its grace does not start any more; the time is that end. That it has not is known
    // only from a kubelet that speaks.
    let is_running = containers(pod).any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    let is_late = now.duration_since(deleted.0) > NEVER_STARTED_FOR;
    if !is_running && is_late && node == NodeState::Ready { Keep::Free } else { Keep::Wait }
}

/// Kubelet has said of every container that it ended. What others write into a pod's phase proves nothing.
fn is_over(pod: &Pod) -> bool {
    let all: Vec<_> = containers(pod).collect();
    !all.is_empty() && all.iter().all(|container| container.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(deleted: bool, states: &[&str]) -> Pod {
        let statuses: Vec<_> = states
            .iter()
            .map(|state| {
                let state = match *state {
                    "running" => json!({"running": {}}),
                    "ended" => json!({"terminated": {"exitCode": 0}}),
                    _ => json!({"waiting": {}}),
                };
                json!({"name": "mover", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0})
            })
            .collect();
        let mut pod: Pod = serde_json::from_value(
            json!({"metadata": {"finalizers": [SLOT_FINALIZER]}, "status": {"containerStatuses": statuses, "phase": "Failed"}}),
        )
        .unwrap();
        pod.metadata.deletion_timestamp = deleted.then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        pod
    }

    #[test]
    fn a_slot_is_free_when_kubelet_said_so_and_not_before() {
        let soon = Timestamp::from_second(5).unwrap();
        let late = Timestamp::from_second(11).unwrap();
        let cases = [
            ("at work", pod(false, &["running"]), false, NodeState::Ready, soon, Keep::Leave),
            ("ended, not recorded", pod(false, &["ended"]), false, NodeState::Ready, soon, Keep::Leave),
            ("ended and recorded", pod(false, &["ended"]), true, NodeState::Ready, soon, Keep::End),
            ("being deleted, not recorded", pod(true, &["ended"]), false, NodeState::Ready, late, Keep::Leave),
            // Phase Failed was written by somebody else: only the containers count.
            ("being deleted, runs", pod(true, &["running"]), true, NodeState::Ready, late, Keep::Wait),
            ("one of two runs", pod(true, &["ended", "running"]), true, NodeState::Ready, late, Keep::Wait),
            ("being deleted, ended", pod(true, &["ended", "ended"]), true, NodeState::Ready, soon, Keep::Free),
            ("never started, may yet", pod(true, &["waiting"]), true, NodeState::Ready, soon, Keep::Wait),
            ("never started, cannot any more", pod(true, &["waiting"]), true, NodeState::Ready, late, Keep::Free),
            ("one ended, the next never started", pod(true, &["ended", "waiting"]), true, NodeState::Ready, late, Keep::Free),
            ("one ended, the next may start", pod(true, &["ended", "waiting"]), true, NodeState::Ready, soon, Keep::Wait),
            ("nobody knows it", pod(true, &[]), true, NodeState::Ready, late, Keep::Free),
            ("never started, as far as one can see", pod(true, &["waiting"]), true, NodeState::NotReady, late, Keep::Wait),
            ("ended, then its node fell silent", pod(true, &["ended"]), true, NodeState::NotReady, late, Keep::Free),
            ("its node is gone", pod(true, &["running"]), true, NodeState::Lost, soon, Keep::Free),
            ("its node is gone, not recorded", pod(true, &["running"]), false, NodeState::Lost, soon, Keep::Leave),
        ];
        for (what, pod, is_settled, node, now, expected) in cases {
            assert_eq!(decide(&pod, is_settled, node, now), expected, "{what}");
        }
    }
}
