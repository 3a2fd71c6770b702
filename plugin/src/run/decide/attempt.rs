//! From the slot to the mover's result, again and again if need be. Pure, one step at a time.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Act, Outcome, POLL, Pass, Plan, Step, act, going, is_bound, look_again};
use crate::api::run::{Attempt, Begun, Phase, Progress, Reason};
use crate::run::objects::{self, PodParts, SELECTED_NODE};
use crate::run::pod::{MoverSaid, PodSeen};

/// Between two looks at a mover's progress, as long as few are at work.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Looks at progress in a second, in the whole cluster: each is a dozen requests, a log and a status among them.
const PROGRESS_BUDGET: u32 = 25;
/// Between two looks at something that tells us when it changes, in case it did not.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After a slot that was not its own.
const AFTER_A_TAKEN_SLOT: SignedDuration = SignedDuration::from_secs(5);
/// After the first mover that failed; each further one doubles it, to the longest.
const FIRST_BACK_OFF: SignedDuration = SignedDuration::from_secs(5);
const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_mins(10);
/// In a volume in which so many have failed, another one would fail as well.
const FAILURES_IN_A_VOLUME: u32 = 2;
/// What a status keeps of a log.
const MAX_LOG_TAIL: usize = 4096;

impl Pass<'_> {
    /// In phase Prepared.
    pub fn wait_for_slot(&mut self, plan: &Plan) -> Step {
        if let Some(missing) = self.seen.missing.clone() {
            // Whoever cannot use a slot does not stand in the queue.
            self.status.no_node_since = None;
            let wait = self.patience();
            self.status.retry_after = Some(Time(self.now + wait));
            self.status.setback = Some(missing.message.clone());
            return self.wait(missing.reason, &missing.message, wait);
        }
        if let Some(after) = &self.status.retry_after
            && after.0 > self.now
        {
            let wait = after.0.duration_since(self.now);
            let setback = self.status.setback.as_deref().unwrap_or("something was missing");
            let message = format!("{setback}; a mover may start in {}", shown(wait));
            return self.wait(Reason::Retrying, &message, wait.unsigned_abs().min(LOOK_AGAIN));
        }
        // No attempt before the one before can no longer start, and is gone.
        if !self.seen.requests.is_empty() {
            return act(Act::Fence);
        }
        if self.seen.has_pods {
            let setback = self.status.setback.as_deref().unwrap_or("another one follows");
            return self.wait(Reason::Retrying, &format!("waiting for the mover before to end: {setback}"), POLL);
        }
        let asked_for = self.status.topology.clone();
        if let Some(step) = self.follow_claim(plan) {
            return step;
        }
        if self.status.topology != asked_for {
            // What the gate said was about another place.
            return look_again(Duration::ZERO);
        }
        if let Some(grant) = &self.gate.grant {
            self.status.attempts += 1;
            self.status.attempt = Some(Attempt { number: self.status.attempts, node: grant.node.clone(), slot: grant.slot });
            self.status.retry_after = None;
            self.enter(Phase::DatamoverDeploying, Reason::ClaimBinding, "a slot is its own; the claim is being bound");
            // Recorded before anything is done about it.
            return look_again(Duration::ZERO);
        }
        if self.gate.may_prepare && self.seen.claim.is_none() {
            return act(Act::CreateClaim(plan.claim.clone()));
        }
        let (reason, message) = match &self.gate.standing {
            Some(standing) if standing.has_node => {
                (Reason::WaitingForSlot, format!("place {} of {}: {}", standing.position, standing.of, standing.why))
            }
            Some(standing) => (Reason::NoNode, standing.why.clone()),
            None => (Reason::WaitingForSlot, "waiting for a slot".to_owned()),
        };
        self.wait(reason, &message, LOOK_AGAIN)
    }

    /// Where the claim is bound, the mover must go. One that waited for a node, and whose node may run no mover now, is made
    /// again: all of it can be had again.
    fn follow_claim(&mut self, plan: &Plan) -> Option<Step> {
        let Some(claim) = &self.seen.claim else {
            self.status.topology.clone_from(&plan.topology);
            self.status.renew_claim = false;
            (self.status.begun, self.status.no_node_since) = (None, None);
            return None;
        };
        let is_placed = claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SELECTED_NODE))
            || claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
        if let Some(topology) = self.seen.claim_topology() {
            self.status.topology = Some(topology.clone());
        } else if !is_placed || self.seen.volume.is_some() {
            // One that is there and asks for no node is reached from all that the plan allows.
            self.status.topology.clone_from(&plan.topology);
        }
        if !plan.is_renewable {
            self.status.renew_claim = false;
            return None;
        }
        let has_no_node = self.gate.standing.as_ref().is_some_and(|standing| !standing.has_node);
        self.status.no_node_since = self.status.no_node_since.take().filter(|_| has_no_node).or(has_no_node.then_some(Time(self.now)));
        // What is done in it is worth some patience.
        let patience = SignedDuration::from_secs(i64::from(self.seen.policy.start_timeout_seconds));
        let is_for_long = self.status.no_node_since.as_ref().is_some_and(|since| self.now.duration_since(since.0) >= patience);
        let is_given_up = if self.is_begun() { is_for_long } else { self.seen.binds_late };
        let is_stranded = has_no_node && is_given_up && self.status.topology != plan.topology;
        let is_going = claim.metadata.deletion_timestamp.is_some();
        (self.status.renew_claim || is_stranded || is_going).then(|| self.drop_claim()).flatten()
    }

    /// In phases DatamoverDeploying and InProgress.
    pub fn attempt(&mut self, plan: &Plan) -> Outcome {
        let Some(attempt) = self.status.attempt.clone() else {
            self.enter(Phase::Prepared, Reason::WaitingForSlot, "waiting for a slot");
            return Outcome::Step(self.wait_for_slot(plan));
        };
        Outcome::Step(match &self.seen.pod {
            PodSeen::None => self.deploy(&attempt, plan),
            PodSeen::Another if self.status.phase == Phase::InProgress => {
                self.retry(Reason::Retrying, "the mover's pod is gone, and left no result")
            }
            // The slot was given twice, and somebody was faster.
            PodSeen::Another => self.give_back(&format!("slot {} of {} was taken", attempt.slot, attempt.node)),
            PodSeen::Ours { said: Some(MoverSaid::Done(line)), .. } => return Outcome::Done((**line).clone()),
            PodSeen::Ours { said: Some(MoverSaid::Failed { message, log_tail, is_final }), .. } => {
                self.status.log_tail = Some(tail(log_tail));
                if *is_final {
                    self.fail(Reason::MoverFailed, message)
                } else {
                    self.retry(Reason::MoverFailed, &format!("the mover on {} failed: {message}", attempt.node))
                }
            }
            PodSeen::Ours { said: Some(MoverSaid::Disrupted(message)), .. } => {
                self.disrupted(&format!("the mover on {} did not finish: {message}", attempt.node))
            }
            PodSeen::Ours { said: None, is_running } => self.follow(*is_running),
        })
    }

    fn follow(&mut self, is_running: bool) -> Step {
        if is_running || self.status.phase == Phase::InProgress {
            self.enter(Phase::InProgress, Reason::Moving, "the mover is at work");
            self.show_progress();
            if let Some(problem) = &self.seen.pod_problem {
                self.status.message.clone_from(problem);
            }
            let movers = u32::try_from(self.gate.movers).unwrap_or(u32::MAX);
            return look_again(PROGRESS_EVERY.max(Duration::from_secs(1) / PROGRESS_BUDGET * movers));
        }
        let limit = self.seen.policy.start_timeout_seconds;
        if self.phase_lasts(limit) {
            let why = self.seen.pod_problem.clone().unwrap_or_else(|| "kubelet gives no reason".to_owned());
            return self.retry(Reason::PodStarting, &format!("the mover did not start within {limit} s: {why}"));
        }
        let message = self.seen.pod_problem.clone().unwrap_or_else(|| "the mover's pod is starting".to_owned());
        self.wait(Reason::PodStarting, &message, POLL)
    }

    /// The claim, bound on the node; the request; the pod: in this order, so that no pod waits.
    fn deploy(&mut self, attempt: &Attempt, plan: &Plan) -> Step {
        if self.status.phase == Phase::InProgress {
            return self.retry(Reason::Retrying, "the mover's pod is gone, and left no result");
        }
        // Whatever it is that does not come: others could use the slot.
        let limit = self.seen.policy.start_timeout_seconds;
        if self.phase_lasts(limit) {
            let (reason, message) = (self.status.reason.unwrap_or(Reason::ClaimBinding), self.status.message.clone());
            return self.retry(reason, &format!("the mover could not be started on {} within {limit} s: {message}", attempt.node));
        }
        if let Some(missing) = self.seen.missing.clone() {
            let step = self.give_back(&missing.message);
            self.status.reason = Some(missing.reason);
            return step;
        }
        let Some(claim) = &self.seen.claim else {
            return act(Act::CreateClaim(plan.claim.clone()));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return look_again(POLL);
        }
        if let Some(volume) = &self.seen.foreign_volume {
            // Kubernetes gives a claim any volume that is free and fits, whatever it is to be made of.
            let name = volume.metadata.name.clone().unwrap_or_default();
            let message = format!(
                "the mover's claim was bound to volume {name}, which was there before and is somebody's: it is left alone; a StorageClass for movers must have no free volumes (or bind late)"
            );
            return self.fail(Reason::ClaimTaken, &message);
        }
        if !is_bound(claim) {
            return self.bind(attempt, claim);
        }
        if self.seen.is_elsewhere {
            self.status.topology = self.seen.claim_topology().cloned();
            return self.give_back(&format!("the volume cannot be reached from {}", attempt.node));
        }
        let (Some(repository), Some(keys)) = (&self.seen.repository, &self.seen.keys) else {
            return look_again(POLL);
        };
        let request = match objects::request(&self.uid, attempt.number, self.installation, keys) {
            Ok(request) => request,
            Err(key) => return self.wait(Reason::SecretMissing, &format!("the Repository's Secret has no {key}"), POLL),
        };
        if self.seen.requests != [attempt.number] {
            return act(if self.seen.requests.is_empty() { Act::CreateRequest(request) } else { Act::Fence });
        }
        let (uid, job, policy) = (self.uid.as_str(), &plan.job, &self.seen.policy);
        act(Act::CreatePod(objects::pod(self.installation, &PodParts { uid, job, attempt, repository, request: &request, policy })))
    }

    fn bind(&mut self, attempt: &Attempt, claim: &PersistentVolumeClaim) -> Step {
        let selected = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
        if self.seen.binds_late && selected.is_none() {
            return act(Act::SelectNode(claim.clone(), attempt.node.clone()));
        }
        if self.seen.binds_late && selected != Some(&attempt.node) {
            // It may be half made elsewhere: a fresh one is had again.
            return act(Act::DeleteClaim(claim.clone()));
        }
        let message = self.seen.claim_problem.clone().unwrap_or_else(|| format!("the mover's claim is being bound on {}", attempt.node));
        self.wait(Reason::ClaimBinding, &message, POLL)
    }

    /// Not a failure: the slot was never really its own, or is of no use to it.
    fn give_back(&mut self, message: &str) -> Step {
        self.status.attempt = None;
        self.status.retry_after = Some(Time(self.now + AFTER_A_TAKEN_SLOT));
        self.status.setback = Some(message.to_owned());
        self.enter(Phase::Prepared, Reason::WaitingForSlot, &format!("{message}; waiting for another slot"));
        act(Act::Fence)
    }

    fn show_progress(&mut self) {
        let Some(said) = &self.seen.progress else { return };
        let share = said.total_bytes.filter(|total| *total > 0).map(|total| said.bytes_done.min(total) * 100 / total);
        let speed = format!("{:.1} MiB/s", said.bytes_per_second / f64::from(1 << 20));
        let mut progress = Progress {
            shown: share.map_or_else(|| speed.clone(), |share| format!("{share} %, {speed}")),
            eta: said.seconds_remaining.map(|seconds| shown(SignedDuration::from_secs(seconds.clamp(0.0, 1e9) as i64))),
            bytes_done: said.bytes_done,
            bytes_total: said.total_bytes,
            rate: said.bytes_per_second.max(0.0) as u64,
            at: self.status.progress.as_ref().and_then(|before| before.at.clone()),
        };
        if self.status.progress.as_ref() != Some(&progress) {
            progress.at = Some(Time(self.now));
        }
        self.status.progress = Some(progress);
    }

    /// The attempt is over without a result; another one follows, after a while that grows.
    pub fn retry(&mut self, reason: Reason, message: &str) -> Step {
        self.retry_in(reason, message, 1)
    }

    /// The same, and the other one begins with a fresh volume.
    pub fn retry_afresh(&mut self, reason: Reason, message: &str) -> Step {
        self.retry_in(reason, message, FAILURES_IN_A_VOLUME)
    }

    fn retry_in(&mut self, reason: Reason, message: &str, failures: u32) -> Step {
        if self.status.phase == Phase::Canceling {
            // No other one follows: what is left of this one ends, and with it the run.
            return self.end_movers().unwrap_or_else(going);
        }
        self.status.failures += 1;
        if self.status.failures > self.seen.policy.retries {
            return self.fail(reason, &format!("{message} (after {} attempts)", self.status.attempts));
        }
        self.begin_again(reason, message, failures)
    }

    /// Nobody's fault: it does not count, but it waits all the same.
    fn disrupted(&mut self, message: &str) -> Step {
        self.status.disruptions += 1;
        self.begin_again(Reason::Retrying, message, 0)
    }

    fn begin_again(&mut self, reason: Reason, message: &str, failures: u32) -> Step {
        let before = (self.status.failures + self.status.disruptions).saturating_sub(1);
        let back_off = FIRST_BACK_OFF * 2_i32.saturating_pow(before.min(10));
        self.status.retry_after = Some(Time(self.now + back_off.min(LONGEST_BACK_OFF)));
        let before = self.status.begun.as_ref().filter(|_| self.is_begun()).map_or(0, |begun| begun.failures);
        let failures = before + failures;
        // Two that write into one volume would spoil it: whoever may still be at work keeps his.
        let goes_on = self.is_resumable && self.seen.has_mover_ended && failures < FAILURES_IN_A_VOLUME;
        let claim = self.seen.claim.as_ref().filter(|_| goes_on).and_then(|claim| claim.metadata.uid.clone());
        self.status.begun = claim.map(|claim| Begun { claim, failures });
        self.status.renew_claim = self.status.begun.is_none();
        self.status.avoid = self.status.attempt.take().map(|attempt| attempt.node);
        self.status.progress = None;
        self.status.setback = Some(message.to_owned());
        self.enter(Phase::Prepared, reason, message);
        act(Act::Fence)
    }
}

/// `3m20s`.
fn shown(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

fn tail(text: &str) -> String {
    let start = text.len().saturating_sub(MAX_LOG_TAIL);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    text[start..].to_owned()
}
