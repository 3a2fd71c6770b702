//! What a schedule makes, leaves out and removes.
#![allow(clippy::unwrap_used, clippy::panic)]

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use plugin::api::volume_backup::Urgency;
use plugin::api::{BackupSchedule, VolumeBackup};
use plugin::schedule::{Decision, decide};
use serde_json::{Value, json};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A namespace, in which time passes.
struct World {
    schedule: BackupSchedule,
    claims: Vec<PersistentVolumeClaim>,
    runs: Vec<VolumeBackup>,
    now: Timestamp,
}

impl World {
    fn new(spec: &Value) -> Self {
        let mut full = json!({"schedule": "0 3 * * *", "repository": "main"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let schedule = serde_json::from_value(json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "BackupSchedule",
            "metadata": {"name": "nightly", "namespace": "shop", "uid": "1", "creationTimestamp": "2026-11-20T12:00:00Z"}, "spec": full}))
        .unwrap();
        let mut world = Self { schedule, claims: Vec::new(), runs: Vec::new(), now: at("2026-11-20T12:00:00Z") };
        world.claim("data", "2026-11-01T00:00:00Z");
        world
    }

    fn claim(&mut self, name: &str, created: &str) {
        let claim =
            json!({"metadata": {"name": name, "creationTimestamp": created, "labels": {"app": name}}, "status": {"phase": "Bound"}});
        self.claims.push(serde_json::from_value(claim).unwrap());
    }

    /// One look, whose decision becomes what is there.
    fn look(&mut self) -> Decision {
        let decision = decide(&self.schedule, &self.claims, &self.runs, self.now);
        self.schedule.status = Some(decision.status.clone());
        for run in &decision.create {
            let mut run = run.clone();
            assert!(!self.runs.iter().any(|known| known.name_any() == run.name_any()), "made twice");
            run.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
            self.runs.push(run);
        }
        self.runs.retain(|run| !decision.delete.iter().any(|gone| gone.name_any() == run.name_any()));
        decision
    }

    /// Time passes until then; what is made meanwhile, and for which claims.
    fn until(&mut self, time: &str) -> Vec<(String, String, Urgency)> {
        let mut made = Vec::new();
        while self.now < at(time) {
            let again = self.look();
            made.extend(again.create.iter().map(|run| (self.now.to_string(), run.spec.source.claim.clone().unwrap(), run.spec.urgency)));
            self.now += SignedDuration::try_from(again.again).unwrap();
        }
        self.now = at(time);
        made
    }

    /// All runs end.
    fn end(&mut self, phase: &str) {
        for run in &mut self.runs {
            let taken = run.metadata.creation_timestamp.clone();
            let status = json!({"phase": phase, "cleaned": true, "snapshot": {"taken": taken}});
            run.status = run.status.take().or(Some(serde_json::from_value(status).unwrap()));
        }
    }
}

fn scheduled(time: &str, claim: &str) -> (String, String, Urgency) {
    (time.to_owned(), claim.to_owned(), Urgency::Scheduled)
}

#[test]
fn each_claim_once_each_time() {
    let mut world = World::new(&json!({}));
    world.claim("other", "2026-11-01T00:00:00Z");
    // Nothing is made for times before it was there.
    assert_eq!(world.until("2026-11-21T03:00:00Z"), []);
    let made = world.until("2026-11-21T12:00:00Z");
    assert_eq!(made, [scheduled("2026-11-21T03:00:00Z", "data"), scheduled("2026-11-21T03:00:00Z", "other")]);
    assert_eq!(world.runs[0].name_any(), "nightly-data-20261121-030000-d1cba3");
    world.end("Completed");
    // A claim that comes at noon has its turn at night.
    world.claim("late", "2026-11-21T12:00:00Z");
    let made = world.until("2026-11-22T12:00:00Z");
    assert_eq!(made.len(), 3, "{made:?}");
    assert!(made.iter().all(|(time, _, _)| time == "2026-11-22T03:00:00Z"));
}

#[test]
fn only_the_claims_that_fit() {
    let mut world = World::new(&json!({"claims": {"matchLabels": {"app": "other"}}}));
    assert_eq!(world.look().status.message, "no claim fits that has a volume");
    world.claim("other", "2026-11-01T00:00:00Z");
    assert_eq!(world.until("2026-11-22T00:00:00Z"), [scheduled("2026-11-21T03:00:00Z", "other")]);
}

#[test]
fn a_claim_that_is_busy_is_left_out_and_goes_earlier_the_next_time() {
    let mut world = World::new(&json!({}));
    assert_eq!(world.until("2026-11-22T12:00:00Z").len(), 1, "the first run has not ended");
    world.end("Failed");
    let made = world.until("2026-11-23T12:00:00Z");
    assert_eq!(made, [("2026-11-23T03:00:00Z".to_owned(), "data".to_owned(), Urgency::Overdue)]);
    world.end("Completed");
    assert_eq!(world.until("2026-11-24T12:00:00Z"), [scheduled("2026-11-24T03:00:00Z", "data")]);
}

#[test]
fn what_was_missed_is_made_up_for_once() {
    let mut world = World::new(&json!({"schedule": "0 * * * *"}));
    world.look();
    // No controller for two days.
    world.now = at("2026-11-22T12:30:00Z");
    assert_eq!(world.until("2026-11-22T12:59:00Z"), [scheduled("2026-11-22T12:30:00Z", "data")]);
}

#[test]
fn jitter_is_each_claims_own_and_stays() {
    let mut world = World::new(&json!({"jitterSeconds": 3600}));
    for i in 0..20 {
        world.claim(&format!("claim-{i}"), "2026-11-01T00:00:00Z");
    }
    let times = |made: Vec<(String, String, Urgency)>, midnight: &str| -> Vec<(i64, String)> {
        let mut times: Vec<_> =
            made.into_iter().map(|(time, claim, _)| (at(&time).duration_since(at(midnight)).as_secs(), claim)).collect();
        times.sort();
        times
    };
    let first = times(world.until("2026-11-22T00:00:00Z"), "2026-11-21T00:00:00Z");
    world.end("Completed");
    let second = times(world.until("2026-11-23T00:00:00Z"), "2026-11-22T00:00:00Z");
    assert_eq!(first.len(), 21);
    assert_eq!(first, second);
    assert!(first.iter().all(|(second, _)| (3 * 3600..=4 * 3600 + 1).contains(second)), "{first:?}");
    assert!(first.last().unwrap().0 - first[0].0 > 1800, "they are not spread: {first:?}");
}

#[test]
fn suspended_and_triggered() {
    let mut world = World::new(&json!({"suspend": true}));
    assert_eq!(world.until("2026-11-23T12:00:00Z"), []);
    assert_eq!(world.look().status.message, "it is suspended");
    world.schedule.spec.trigger = Some("now".to_owned());
    let decision = world.look();
    assert_eq!((decision.create.len(), decision.create[0].spec.urgency), (1, Urgency::Manual));
    assert_eq!(world.look().create, [], "a trigger runs once");
    world.end("Completed");
    // What was left out while it was suspended is not made up for.
    world.schedule.spec.suspend = false;
    assert_eq!(world.until("2026-11-24T12:00:00Z"), [scheduled("2026-11-24T03:00:00Z", "data")]);
}

#[test]
fn of_each_claim_the_newest_are_kept() {
    let mut world = World::new(&json!({"schedule": "0 * * * *", "history": {"completed": 2, "failed": 1}}));
    for hour in 13..=23 {
        world.until(&format!("2026-11-20T{hour}:30:00Z"));
        world.end(if hour % 2 == 0 { "Failed" } else { "Completed" });
    }
    world.look();
    let left: Vec<String> = world.runs.iter().map(|run| run.name_any()[13..28].to_owned()).collect();
    assert_eq!(left, ["20261120-210000", "20261120-220000", "20261120-230000"]);
}

#[test]
fn what_cannot_be_read_is_said() {
    for (spec, words) in [(json!({"schedule": "0 25 * * *"}), "cannot be read"), (json!({"timeZone": "Nowhere"}), "no time zone")] {
        let mut world = World::new(&spec);
        let decision = world.look();
        assert!(decision.status.message.contains(words), "{}", decision.status.message);
        let stalled = decision.status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
        assert_eq!((stalled.status.as_str(), decision.create.len()), ("True", 0));
    }
}
