//! The state machine of a backup against a small world that does what it says: every step, in order, and every way out.
#![allow(clippy::unwrap_used, clippy::panic)]

use contract::BackupSummary;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolumeClaimStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt;
use plugin::api::external::{VolumeSnapshotContent, VolumeSnapshotContentSpec, VolumeSnapshotContentStatus, VolumeSnapshotStatus};
use plugin::api::mover_policy::ClassRule;
use plugin::api::volume_backup::{Phase, Reason, Source, VolumeBackupStatus};
use plugin::api::{MoverPolicySpec, Repository, RepositorySpec, VolumeBackup, VolumeBackupSpec};
use plugin::backup::objects::Installation;
use plugin::backup::{Act, Missing, MoverSaid, PodSeen, Seen, SnapshotSeen, SourceVolume, decide};
use plugin::cluster::GateView;
use plugin::gate::{Grant, Standing};

const HANDLE: &str = "snapshot-1";

fn installation() -> Installation {
    Installation {
        namespace: "estiba".to_owned(),
        image: "image".to_owned(),
        image_pull_policy: "Never".to_owned(),
        service_account: "estiba-mover".to_owned(),
        owner: OwnerReference::default(),
        cluster: "test".to_owned(),
    }
}

/// What the cluster holds for one run; acts change it as the real one would, at once.
struct World {
    seen: Seen,
    now: Timestamp,
    acts: Vec<&'static str>,
}

impl World {
    fn new(source: Source) -> Self {
        let spec = VolumeBackupSpec { repository: "main".to_owned(), source, urgency: Default::default(), cancel: false };
        let mut backup = VolumeBackup::new("run", spec);
        backup.metadata.namespace = Some("shop".to_owned());
        backup.metadata.uid = Some("uid".to_owned());
        let repository: RepositorySpec =
            serde_json::from_value(serde_json::json!({"s3": {"bucket": "b"}, "secret": "s", "namespaces": {"names": ["shop"]}})).unwrap();
        let keys = Secret { data: Some([("password".to_owned(), ByteString(b"x".to_vec()))].into()), ..Secret::default() };
        let seen = Seen {
            backup,
            policy: MoverPolicySpec::default(),
            repository: Some(Repository::new("main", repository)),
            keys: Some(keys),
            missing: None,
            volume: SourceVolume {
                storage_class: Some("fast".to_owned()),
                mode: "Filesystem".to_owned(),
                bytes: 1 << 20,
                driver: "csi".to_owned(),
                topology: None,
            },
            snapshot_class: Some("class".to_owned()),
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
            gate: GateView::default(),
        };
        Self { seen, now: Timestamp::UNIX_EPOCH, acts: Vec::new() }
    }

    fn of_claim() -> Self {
        Self::new(Source { claim: Some("data".to_owned()), volume_snapshot: None })
    }

    fn status(&self) -> VolumeBackupStatus {
        self.seen.backup.status.clone().unwrap_or_default()
    }

    /// Slots are free, or not.
    fn gate(&mut self, is_open: bool) {
        let grant = Grant { uid: "uid".to_owned(), node: "node".to_owned(), slot: 1 };
        let standing = Standing { position: 2, of: 3, why: "node runs 1 of 1".to_owned(), has_node: true };
        self.seen.gate = GateView { grant: is_open.then_some(grant), standing: (!is_open).then_some(standing), may_prepare: false };
    }

    /// One pass. False: nothing was done, and nothing will be until something changes.
    fn step(&mut self) -> bool {
        let decision = decide(&self.seen, &installation(), self.now);
        let changed = self.seen.backup.status.as_ref() != Some(&decision.status);
        self.seen.backup.status = Some(decision.status);
        let did = decision.act.is_some();
        if let Some(act) = decision.act {
            self.act(act);
        }
        let owners = self.contents().filter(|content| content.spec.deletion_policy == "Delete").count();
        assert!(owners <= 1, "two objects would delete the storage's snapshot");
        did || changed
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                return;
            }
        }
        panic!("it never settles: {:?}", self.acts);
    }

    fn contents(&self) -> impl Iterator<Item = &VolumeSnapshotContent> {
        let of_snapshot = self.seen.snapshot.as_ref().and_then(|snapshot| snapshot.content.as_ref());
        of_snapshot.into_iter().chain(&self.seen.original_content).chain(&self.seen.copy)
    }

    fn act(&mut self, act: Act) {
        let seen = &mut self.seen;
        let name = match act {
            Act::AddFinalizer => {
                seen.backup.finalizers_mut().push(plugin::api::RUN_FINALIZER.to_owned());
                "hold"
            }
            Act::RemoveFinalizer => {
                seen.backup.finalizers_mut().clear();
                "let go"
            }
            Act::CreateSnapshot(mut snapshot) => {
                snapshot.status = Some(VolumeSnapshotStatus {
                    ready_to_use: Some(true),
                    bound_volume_snapshot_content_name: Some("original".to_owned()),
                    creation_time: Some(Time(self.now)),
                    ..VolumeSnapshotStatus::default()
                });
                if snapshot.namespace().as_deref() == Some("shop") {
                    seen.snapshot = Some(SnapshotSeen { object: snapshot, content: Some(original()), error: None });
                    "snapshot"
                } else {
                    seen.copied_snapshot = Some(snapshot);
                    "copy snapshot"
                }
            }
            Act::CreateContent(content) => {
                seen.copy = Some(content);
                "copy content"
            }
            Act::SetDeletionPolicy { content, policy } => {
                let of_snapshot = seen.snapshot.as_mut().and_then(|snapshot| snapshot.content.as_mut());
                let all = of_snapshot.into_iter().chain(&mut seen.original_content).chain(&mut seen.copy);
                for found in all.filter(|found| found.name_any() == content) {
                    policy.clone_into(&mut found.spec.deletion_policy);
                }
                if policy == "Retain" { "retain original" } else { "own copy" }
            }
            Act::DeleteSnapshot(snapshot) if snapshot.namespace().as_deref() == Some("shop") => {
                let content = seen.snapshot.take().unwrap().content;
                seen.original_content = content.filter(|content| content.spec.deletion_policy == "Retain");
                "delete snapshot"
            }
            Act::DeleteSnapshot(_) => {
                seen.copied_snapshot = None;
                seen.copy = seen.copy.take().filter(|copy| copy.spec.deletion_policy == "Retain");
                "delete copy"
            }
            Act::DeleteContent(content) if content.name_any() == "original" => {
                seen.original_content = None;
                "delete content"
            }
            Act::DeleteContent(_) => {
                seen.copy = None;
                "delete copied content"
            }
            Act::CreateClaim(mut claim) => {
                claim.status =
                    Some(PersistentVolumeClaimStatus { phase: Some("Bound".to_owned()), ..PersistentVolumeClaimStatus::default() });
                seen.claim = Some(claim);
                "claim"
            }
            Act::SelectNode(_) => "select node",
            Act::DeleteClaim(_) => {
                seen.claim = None;
                "delete claim"
            }
            Act::CreateRequest(request) => {
                seen.requests = vec![request.name_any().rsplit('-').next().unwrap().parse().unwrap()];
                "request"
            }
            Act::CreatePod(_) => {
                seen.pod = PodSeen::Ours { said: None, is_running: true };
                seen.has_pods = true;
                "pod"
            }
            Act::Fence => {
                seen.requests.clear();
                "fence"
            }
        };
        self.acts.push(name);
    }

    /// The mover says something, and ends.
    fn mover_says(&mut self, said: MoverSaid) {
        self.seen.pod = PodSeen::Ours { said: Some(said), is_running: false };
    }

    /// The keeper has let the slot go.
    fn pod_goes(&mut self) {
        self.seen.pod = PodSeen::None;
        self.seen.has_pods = false;
    }

    fn take_acts(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.acts)
    }
}

fn original() -> VolumeSnapshotContent {
    let spec = VolumeSnapshotContentSpec {
        driver: "csi".to_owned(),
        deletion_policy: "Delete".to_owned(),
        ..VolumeSnapshotContentSpec::default()
    };
    let status = VolumeSnapshotContentStatus { snapshot_handle: Some(HANDLE.to_owned()), ..VolumeSnapshotContentStatus::default() };
    VolumeSnapshotContent { status: Some(status), ..VolumeSnapshotContent::new("original", spec) }
}

fn stored() -> MoverSaid {
    MoverSaid::Stored(Box::new(BackupSummary { snapshot_id: Some("abc".to_owned()), ..BackupSummary::default() }))
}

fn failed(is_final: bool) -> MoverSaid {
    MoverSaid::Failed { message: "it broke".to_owned(), log_tail: "the end".to_owned(), is_final }
}

const HANDED_OVER: [&str; 8] =
    ["hold", "snapshot", "copy content", "copy snapshot", "retain original", "delete snapshot", "delete content", "own copy"];

#[test]
fn the_whole_way() {
    let mut world = World::of_claim();
    world.gate(false);
    world.settle();
    assert_eq!(world.take_acts(), HANDED_OVER);
    let status = world.status();
    assert_eq!((status.phase, status.reason), (Phase::Prepared, Some(Reason::WaitingForSlot)));
    assert_eq!(status.message, "place 2 of 3: node runs 1 of 1");
    world.gate(true);
    world.settle();
    assert_eq!(world.take_acts(), ["claim", "request", "pod"]);
    assert_eq!(world.status().phase, Phase::InProgress);
    world.mover_says(stored());
    world.settle();
    assert_eq!((world.status().phase, world.status().result.unwrap().snapshot_id), (Phase::Completed, "abc".to_owned()));
    assert_eq!(world.take_acts(), ["fence"]);
    world.pod_goes();
    world.settle();
    assert_eq!(world.take_acts(), ["delete claim", "delete copy"]);
    assert!(world.status().cleaned && world.contents().next().is_none());
    world.seen.backup.metadata.deletion_timestamp = Some(Time(world.now));
    world.settle();
    assert_eq!(world.take_acts(), ["let go"]);
}

#[test]
fn a_snapshot_of_somebody_else_stays_theirs() {
    let mut world = World::new(Source { claim: None, volume_snapshot: Some("theirs".to_owned()) });
    world.settle();
    assert_eq!(world.status().reason, Some(Reason::SnapshotMissing));
    let mut taken = World::of_claim();
    taken.step();
    taken.step();
    world.seen.snapshot = taken.seen.snapshot;
    world.gate(true);
    world.settle();
    world.mover_says(stored());
    world.settle();
    world.pod_goes();
    world.settle();
    assert_eq!(
        world.take_acts(),
        [
            "hold",
            "copy content",
            "copy snapshot",
            "claim",
            "request",
            "pod",
            "fence",
            "delete claim",
            "delete copy",
            "delete copied content"
        ]
    );
    let theirs = world.seen.snapshot.unwrap().content.unwrap();
    assert_eq!(theirs.spec.deletion_policy, "Delete", "it was patched");
}

#[test]
fn a_mover_that_fails_is_followed_by_another_until_it_is_enough() {
    let mut world = World::of_claim();
    world.gate(true);
    let mut waits = Vec::new();
    for attempt in 1..=4 {
        world.settle();
        assert_eq!((world.status().phase, world.status().attempts), (Phase::InProgress, attempt), "{:?}", world.status());
        world.mover_says(failed(false));
        world.settle();
        assert_eq!(world.status().log_tail.as_deref(), Some("the end"));
        if attempt < 4 {
            // The pod is still there: nothing follows, however long it takes.
            let status = world.status();
            assert_eq!((status.phase, status.attempt), (Phase::Prepared, None));
            waits.push(status.retry_after.unwrap().0.duration_since(world.now).as_secs());
            world.now += SignedDuration::from_mins(20);
            world.settle();
            assert_eq!(world.status().message, "waiting for the mover before to end");
            world.pod_goes();
        }
    }
    assert_eq!(waits, [5, 10, 20]);
    let status = world.status();
    assert_eq!((status.phase, status.reason), (Phase::Failed, Some(Reason::MoverFailed)));
    assert!(status.message.contains("it broke (after 4 attempts)"), "{}", status.message);
    world.pod_goes();
    world.settle();
    assert!(world.status().cleaned && world.contents().next().is_none() && world.seen.claim.is_none());
}

#[test]
fn what_another_mover_would_not_mend_ends_at_once() {
    let mut world = World::of_claim();
    world.gate(true);
    world.settle();
    world.mover_says(failed(true));
    world.settle();
    assert_eq!((world.status().phase, world.status().message.as_str()), (Phase::Failed, "it broke"));
}

#[test]
fn a_mover_ended_from_outside_does_not_count() {
    let mut world = World::of_claim();
    world.gate(true);
    for _ in 0..10 {
        world.settle();
        world.mover_says(MoverSaid::Disrupted("drained".to_owned()));
        world.settle();
        world.pod_goes();
        world.now += SignedDuration::from_mins(20);
    }
    world.settle();
    assert_eq!((world.status().phase, world.status().attempts), (Phase::InProgress, 11));
}

#[test]
fn a_mover_follows_the_claim_and_a_second_one_gets_a_fresh_claim() {
    let only = |node: &str| -> NodeSelector {
        serde_json::from_value(
            serde_json::json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}),
        )
        .unwrap()
    };
    let mut world = World::of_claim();
    world.gate(true);
    while world.seen.claim.is_none() {
        world.step();
    }
    // It was bound where the slot is not.
    (world.seen.claim_topology, world.seen.is_reached) = (Some(only("elsewhere")), false);
    world.gate(false);
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.attempt, status.failures), (Phase::Prepared, None, 0));
    assert_eq!(status.topology, Some(only("elsewhere")));
    world.seen.is_reached = true;
    world.gate(true);
    world.settle();
    world.mover_says(MoverSaid::Disrupted("its node is gone".to_owned()));
    world.settle();
    world.pod_goes();
    world.now += SignedDuration::from_mins(20);
    world.take_acts();
    world.seen.claim_topology = None;
    world.settle();
    assert_eq!(world.take_acts(), ["delete claim", "claim", "request", "pod"]);
    assert_eq!(world.status().topology, None);
}

#[test]
fn a_slot_is_not_held_for_what_does_not_come() {
    let mut world = World::of_claim();
    world.gate(true);
    while world.status().attempt.is_none() {
        world.step();
    }
    world.seen.missing = Some(Missing { reason: Reason::SecretMissing, message: "there is no Secret".to_owned() });
    world.settle();
    assert_eq!(world.status().phase, Phase::DatamoverDeploying);
    world.now += SignedDuration::from_secs(601);
    world.step();
    assert_eq!((world.status().phase, world.status().attempt), (Phase::Prepared, None));
    assert!(world.status().message.contains("there is no Secret"), "{}", world.status().message);
}

#[test]
fn a_slot_that_somebody_else_took_is_given_back() {
    let mut world = World::of_claim();
    world.gate(false);
    world.settle();
    world.gate(true);
    world.step();
    assert_eq!(world.status().attempt.unwrap().slot, 1);
    world.seen.pod = PodSeen::Another;
    world.gate(false);
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.attempt, status.failures), (Phase::Prepared, None, 0));
}

#[test]
fn no_attempt_while_one_before_could_still_start() {
    let mut world = World::of_claim();
    world.gate(false);
    world.settle();
    world.take_acts();
    // A controller died between recording and fencing.
    world.seen.requests = vec![1];
    world.gate(true);
    world.step();
    assert_eq!((world.take_acts(), world.status().attempt), (vec!["fence"], None));
}

#[test]
fn cancelled_at_every_step_nothing_is_left() {
    for steps in 0..40 {
        let mut world = World::of_claim();
        world.gate(true);
        world.steps(steps);
        world.seen.backup.spec.cancel = true;
        world.settle();
        world.pod_goes();
        world.settle();
        assert_eq!((world.status().phase, world.status().cleaned), (Phase::Canceled, true), "after {steps} steps");
        assert!(world.contents().next().is_none() && world.seen.claim.is_none() && world.seen.requests.is_empty(), "after {steps} steps");
        assert!(world.seen.snapshot.is_none() && world.seen.copied_snapshot.is_none(), "after {steps} steps");
    }
}

#[test]
fn what_is_missing_is_waited_for() {
    let mut world = World::of_claim();
    world.seen.missing = Some(Missing { reason: Reason::ClaimMissing, message: "there is no claim data".to_owned() });
    world.settle();
    assert_eq!((world.take_acts(), world.status().reason), (vec!["hold"], Some(Reason::ClaimMissing)));
    world.seen.missing = None;
    world.gate(false);
    world.settle();
    assert_eq!(world.status().phase, Phase::Prepared);
}

#[test]
fn a_snapshot_that_never_becomes_ready_ends_the_run() {
    let mut world = World::of_claim();
    world.steps(2);
    world.seen.snapshot.as_mut().unwrap().object.status = None;
    world.settle();
    assert_eq!((world.status().phase, world.status().reason), (Phase::Accepted, Some(Reason::SnapshotNotReady)));
    world.seen.snapshot.as_mut().unwrap().error = Some("the pool is full".to_owned());
    world.now += SignedDuration::from_secs(601);
    world.settle();
    assert_eq!(world.status().message, "the snapshot could not be used within 600 s: the pool is full");
    assert!(world.status().cleaned && world.seen.snapshot.is_none());
}

#[test]
fn what_a_restore_brought_back_is_not_run_again() {
    let mut world = World::of_claim();
    world.seen.backup.labels_mut().insert("velero.io/restore-name".to_owned(), "r".to_owned());
    world.settle();
    assert_eq!((world.take_acts(), world.status().reason), (vec![], Some(Reason::Skipped)));
}
