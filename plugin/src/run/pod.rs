//! A mover pod, by kubelet's own word: whether it runs, how it ended. No client required.

use contract::{Line, Said};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::objects::{INIT, MOVER};

/// Why kubelet ended pods that did no wrong.
pub(super) const FROM_OUTSIDE: [&str; 5] = ["Evicted", "Preempting", "NodeShutdown", "Terminated", "NodeLost"];

/// The pod under the slot's name.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum PodSeen {
    /// Nobody.
    #[default]
    None,
    /// Another run, or another attempt.
    Another,
    /// This attempt.
    Ours {
        /// What it ended with, once kubelet has said so.
        said: Option<MoverSaid>,
        /// Whether the container that moves has started.
        is_running: bool,
    },
}

/// What a mover ended with.
#[derive(Debug, Clone, PartialEq)]
pub enum MoverSaid {
    /// Its summary.
    Done(Box<Line>),
    /// Why not.
    Failed {
        /// In its own words.
        message: String,
        /// The end of its log.
        log_tail: String,
        /// Whether another try would end the same way.
        is_final: bool,
    },
    /// It did no wrong: it was ended from outside, by a drain, an eviction, a node that is gone; or somebody else has locked the
    /// repository.
    Disrupted(String),
}

/// The last line that this run's attempt said.
pub(crate) fn last_said(text: &str, run: &str) -> Option<Line> {
    text.lines().rev().find_map(|line| said_by(line, run))
}

pub(super) fn said_by(line: &str, run: &str) -> Option<Line> {
    let said: Said = serde_json::from_str(line).ok()?;
    (said.run.as_deref() == Some(run)).then_some(said.line)
}

/// How far a pod is, by kubelet's own word.
pub(crate) struct PodState {
    /// The container that moves, not the one that creates the repository.
    pub(crate) is_running: bool,
    /// The container whose log tells how it goes.
    pub(super) speaks: Option<&'static str>,
    /// Which container decided it, and how.
    pub(crate) ended: Option<(String, ContainerStateTerminated)>,
    /// It ended without any container of it having started.
    pub(crate) never_starts: Option<MoverSaid>,
    /// What kubelet or the scheduler complains of.
    pub(crate) problem: Option<String>,
}

impl PodState {
    pub(crate) fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let of = |name: &str, all: &Option<Vec<ContainerStatus>>| {
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
        let is_running = mover.running.is_some();
        let is_over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        let never_starts = if ended.is_some() || is_running || init.running.as_ref().is_some() {
            None
        } else if pod.metadata.deletion_timestamp.is_some() {
            Some(MoverSaid::Disrupted("it was ended from outside before it started".to_owned()))
        } else if is_over {
            let message = [status.reason.clone(), status.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let is_disrupted = status.reason.as_deref().is_some_and(|reason| FROM_OUTSIDE.contains(&reason));
            // Kubelet did not take it: another try may meet the same.
            Some(if is_disrupted {
                MoverSaid::Disrupted(message)
            } else {
                MoverSaid::Failed { message, log_tail: String::new(), is_final: false }
            })
        } else {
            None
        };
        let speaks = if is_running { Some(MOVER) } else { init.running.map(|_| INIT) };
        Self { is_running, speaks, ended, never_starts, problem: unscheduled.or(waiting) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod with these states of the container before and of the one that moves.
    fn state(init: Value, mover: Value, pod: &Value) -> PodState {
        let container = |name: &str, state: Value| json!([{"name": name, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0}]);
        let mut status = json!({"initContainerStatuses": container(INIT, init), "containerStatuses": container(MOVER, mover)});
        status.as_object_mut().unwrap().extend(pod["status"].as_object().cloned().unwrap_or_default());
        PodState::of(&serde_json::from_value(json!({"metadata": pod["metadata"], "status": status})).unwrap())
    }

    #[test]
    fn how_far_a_pod_is() {
        let (running, waiting) = (json!({"running": {}}), json!({"waiting": {"reason": "PodInitializing"}}));
        let ended = |code: i32| json!({"terminated": {"exitCode": code, "startedAt": "2026-11-20T12:00:00Z"}});
        let nothing = || json!({"metadata": {}});
        // The container before it is not the mover, however long it runs.
        let first = state(running.clone(), waiting.clone(), &nothing());
        assert_eq!((first.is_running, first.speaks, first.ended, first.never_starts), (false, Some(INIT), None, None));
        let at_work = state(ended(0), running, &nothing());
        assert_eq!((at_work.is_running, at_work.speaks, at_work.ended), (true, Some(MOVER), None));
        assert_eq!(state(ended(0), ended(3), &nothing()).ended.unwrap().0, MOVER);
        // Kubelet has lost sight of it: nobody knows whether it ever ran.
        let lost = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
        assert_eq!(state(ended(0), lost, &nothing()).ended, None);
        assert_eq!(state(ended(10), waiting.clone(), &nothing()).ended.unwrap().0, INIT);
        // Between the two, and before.
        let between = state(ended(0), waiting.clone(), &nothing());
        assert_eq!((between.is_running, between.ended, between.never_starts, between.problem), (false, None, None, None));
        let no_image = state(ended(0), json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}), &nothing());
        assert_eq!(no_image.problem.unwrap(), "ErrImagePull: not found");
        let unscheduled = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node fits"}]}});
        assert_eq!(state(waiting.clone(), waiting, &unscheduled).problem.unwrap(), "no node fits");
    }

    #[test]
    fn pods_that_never_start_are_somebodys_doing_or_not() {
        let of = |pod: Value| state(json!({}), json!({}), &pod).never_starts;
        assert_eq!(of(json!({"metadata": {}})), None);
        assert!(matches!(of(json!({"metadata": {"deletionTimestamp": "2026-11-20T12:00:00Z"}})), Some(MoverSaid::Disrupted(_))));
        let failed = |reason: &str| of(json!({"status": {"phase": "Failed", "reason": reason, "message": "so"}}));
        assert_eq!(failed("Evicted"), Some(MoverSaid::Disrupted("Evicted: so".to_owned())));
        let refused = MoverSaid::Failed { message: "OutOfcpu: so".to_owned(), log_tail: String::new(), is_final: false };
        assert_eq!(failed("OutOfcpu"), Some(refused));
    }
}
