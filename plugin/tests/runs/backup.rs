//! The state machine of a backup against a small world that does what it says: every step, in order, and every way out.
use crate::backup_world::{World, failed, stored};
use crate::common::installation;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::NodeSelector;
use kube::ResourceExt;
use plugin::api::run::{Phase, Reason};
use plugin::api::volume_backup::{HandedOver, Source, SourceVolume};
use plugin::backup::decide;
use plugin::cluster::GateView;
use plugin::run::observe::Missing;
use plugin::run::pod::{MoverSaid, PodSeen};

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
    assert_eq!((world.status().phase, world.stored_as()), (Phase::Completed, "abc".to_owned()));
    assert_eq!(world.take_acts(), ["fence"]);
    world.pod_goes();
    world.settle();
    // Whoever removes the run waits for nobody.
    assert_eq!(world.take_acts(), ["delete claim", "delete copy", "let go"]);
    assert!(world.status().cleaned && world.contents().next().is_none());
}

#[test]
fn a_snapshot_of_somebody_else_stays_theirs() {
    let mut world = World::new(Source { volume_snapshot: Some("theirs".to_owned()), ..Source::default() });
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
            "delete copied content",
            "let go"
        ]
    );
    let theirs = world.seen.snapshot.unwrap().content.unwrap();
    assert_eq!(theirs.spec.deletion_policy, "Delete", "it was patched");
}

#[test]
fn a_snapshot_that_velero_hands_over_is_ours_to_remove() {
    let handed_over = HandedOver {
        namespace: "shop".to_owned(),
        volume_snapshot: "velero-data".to_owned(),
        claim: "data".to_owned(),
        storage_class: Some("fast".to_owned()),
        tags: vec!["velero-backup=b".to_owned()],
    };
    let source = || Source { handed_over: Some(handed_over.clone()), ..Source::default() };
    let mut world = World::new(source());
    world.settle();
    // Nobody makes it again.
    assert_eq!((world.status().phase, world.status().reason), (Phase::Failed, Some(Reason::SnapshotMissing)));

    let theirs = || {
        let mut taken = World::of_claim();
        taken.steps(2);
        taken.seen.snapshot
    };
    let mut world = World::new(source());
    world.seen.snapshot = theirs();
    world.seen.source_namespace = Some("uid-of-shop".to_owned());
    world.gate(true);
    world.settle();
    let up_to_the_mover = [&HANDED_OVER[..1], &HANDED_OVER[2..], &["claim", "request", "pod"]].concat();
    assert_eq!(world.take_acts(), up_to_the_mover);
    let args = world.mover_args.join(" ");
    for wanted in ["--as /shop/data ", "--tag namespace=uid-of-shop ", "--tag velero-backup=b ", "--source-id snapshot-1"] {
        assert!(format!("{args} ").contains(wanted), "{wanted} is not in {args}");
    }
    world.mover_says(stored());
    world.settle();
    world.pod_goes();
    world.settle();
    assert_eq!(world.take_acts(), ["fence", "delete claim", "delete copy", "let go"]);
    assert!(world.contents().next().is_none());

    // Stopped at any step, nothing is left.
    for steps in 0..12 {
        let mut world = World::new(source());
        world.seen.snapshot = theirs();
        world.steps(steps);
        world.seen.backup.spec.cancel = true;
        world.settle();
        world.pod_goes();
        world.settle();
        assert_eq!(world.status().phase, Phase::Canceled, "after {steps} steps");
        assert!(world.seen.snapshot.is_none() && world.contents().next().is_none(), "after {steps} steps: {:?}", world.acts);
    }
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
            assert_eq!(world.status().message, "waiting for the mover before to end: the mover on node failed: it broke");
            world.pod_goes();
        }
    }
    assert_eq!(waits, [5, 10, 20]);
    let status = world.status();
    assert_eq!((status.phase, status.reason), (Phase::Failed, Some(Reason::MoverFailed)));
    assert!(status.message.contains("it broke (after 4 attempts)"), "{}", status.message);
    world.pod_goes();
    world.settle();
    assert!(world.status().cleaned && world.contents().next().is_none() && world.seen.run.claim.is_none());
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
    world.seen.run.policy.retries = 0;
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
    while world.seen.run.claim.is_none() {
        world.step();
    }
    // It was bound where the slot is not.
    let of_one_node =
        serde_json::json!({"spec": {"nodeAffinity": {"required": only("elsewhere")}, "persistentVolumeReclaimPolicy": "Delete"}});
    world.seen.run.volume = Some(serde_json::from_value(of_one_node).unwrap());
    world.seen.run.is_elsewhere = true;
    world.gate(false);
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.attempt, status.failures), (Phase::Prepared, None, 0));
    assert_eq!(status.topology, Some(only("elsewhere")));
    world.seen.run.is_elsewhere = false;
    world.now += SignedDuration::from_secs(6);
    world.gate(true);
    world.settle();
    world.mover_says(MoverSaid::Disrupted("its node is gone".to_owned()));
    world.settle();
    world.pod_goes();
    world.now += SignedDuration::from_mins(20);
    world.take_acts();
    world.settle();
    assert_eq!(world.take_acts(), ["delete claim", "claim", "request", "pod"]);
    assert_eq!(world.status().topology, None);
}

#[test]
fn a_slot_is_not_held_for_what_does_not_come() {
    let nothing = Missing { reason: Reason::SecretMissing, message: "there is no Secret".to_owned() };
    let mut world = World::of_claim();
    world.gate(true);
    while world.status().attempt.is_none() {
        world.step();
    }
    world.seen.run.missing = Some(nothing);
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.attempt, status.failures, status.reason), (Phase::Prepared, None, 0, Some(Reason::SecretMissing)));
    // Whoever cannot use a slot asks for none; what comes is used.
    let asks_again = status.retry_after.unwrap().0;
    assert!(asks_again > world.now && asks_again <= world.now + SignedDuration::from_secs(30));
    world.seen.run.missing = None;
    world.now = asks_again;
    world.settle();
    assert_eq!(world.status().phase, Phase::InProgress);
    // The claim is never bound.
    let mut world = World::of_claim();
    world.gate(true);
    while world.seen.run.claim.is_none() {
        world.step();
    }
    world.seen.run.claim.as_mut().unwrap().status = None;
    world.seen.run.claim_problem = Some("no room".to_owned());
    world.settle();
    assert_eq!((world.status().phase, world.status().message.as_str()), (Phase::DatamoverDeploying, "no room"));
    world.now += SignedDuration::from_secs(601);
    world.step();
    assert_eq!((world.status().phase, world.status().attempt, world.status().failures), (Phase::Prepared, None, 1));
    assert!(world.status().message.contains("no room"), "{}", world.status().message);
}

#[test]
fn a_volume_that_its_class_would_keep_goes_with_the_run() {
    let mut world = World::of_claim();
    world.gate(true);
    world.settle();
    world.seen.run.volume = Some(serde_json::from_value(serde_json::json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).unwrap());
    world.mover_says(stored());
    world.settle();
    world.pod_goes();
    world.take_acts();
    world.settle();
    assert_eq!(world.take_acts(), ["give up volume", "delete claim", "delete copy", "let go"]);
    assert!(world.status().cleaned);
}

/// Kubernetes gives a claim any volume that is free and fits: what was there before is not ours to read or to remove.
#[test]
fn a_volume_that_was_there_before_is_left_alone() {
    let mut world = World::of_claim();
    world.gate(true);
    while world.seen.run.claim.is_none() {
        world.step();
    }
    let foreign = serde_json::json!({"metadata": {"name": "treasure"}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    world.seen.run.foreign_volume = Some(serde_json::from_value(foreign).unwrap());
    world.take_acts();
    world.settle();
    assert_eq!(world.take_acts(), ["keep volume", "delete claim", "delete copy", "let go"]);
    let status = world.status();
    assert_eq!((status.phase, status.reason), (Phase::Failed, Some(Reason::ClaimTaken)));
    assert!(status.message.contains("treasure"), "{}", status.message);
}

#[test]
fn what_is_known_of_the_snapshot_is_not_forgotten() {
    let mut world = World::of_claim();
    while world.seen.backup.status.as_ref().is_none_or(|status| status.snapshot.is_none()) {
        world.step();
    }
    // A controller died after recording it: the claim is not read again.
    (world.seen.copy, world.seen.volume) = (None, SourceVolume::default());
    world.settle();
    let snapshot = world.seen.backup.status.clone().unwrap().snapshot.unwrap();
    assert_eq!((snapshot.bytes, snapshot.storage_class.as_deref()), (1 << 20, Some("fast")));
}

#[test]
fn a_pod_is_at_work_only_when_its_mover_is() {
    let mut world = World::of_claim();
    world.gate(true);
    while !world.seen.run.has_pods {
        world.step();
    }
    world.seen.run.pod = PodSeen::Ours { said: None, is_running: false };
    world.settle();
    assert_eq!((world.status().phase, world.status().reason), (Phase::DatamoverDeploying, Some(Reason::PodStarting)));
    // The container before it runs for ever.
    world.now += SignedDuration::from_secs(601);
    world.settle();
    assert_eq!((world.status().phase, world.status().failures), (Phase::Prepared, 1));
}

#[test]
fn a_mover_that_cannot_be_heard_is_waited_for() {
    let mut world = World::of_claim();
    world.gate(true);
    world.settle();
    world.seen.run.pod_problem = Some("node a does not answer".to_owned());
    world.now += SignedDuration::from_hours(2);
    world.settle();
    assert_eq!((world.status().phase, world.status().message.as_str()), (Phase::InProgress, "node a does not answer"));
}

#[test]
fn a_slot_that_somebody_else_took_is_given_back() {
    let mut world = World::of_claim();
    world.gate(false);
    world.settle();
    world.gate(true);
    world.step();
    assert_eq!(world.status().attempt.unwrap().slot, 1);
    world.seen.run.pod = PodSeen::Another;
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
    world.seen.run.requests = vec![1];
    world.gate(true);
    world.step();
    assert_eq!((world.take_acts(), world.status().attempt), (vec!["fence"], None));
}

#[test]
fn cancelled_at_every_step_nothing_is_left() {
    let late_clone = || World { is_cloned_at_once: false, ..World::of_clone() };
    let worlds = [("snapshot", World::of_claim as fn() -> World), ("clone", World::of_clone), ("late clone", late_clone)];
    for (what, world) in worlds {
        for steps in 0..40 {
            let mut world = world();
            world.gate(true);
            world.steps(steps);
            world.seen.backup.spec.cancel = true;
            world.settle();
            world.pod_goes();
            world.settle();
            let status = world.status();
            assert_eq!((status.phase, status.cleaned), (Phase::Canceled, true), "{what}, after {steps} steps");
            let (run, clone) = (&world.seen.run, &world.seen.clone);
            assert_eq!((&run.claim, &run.volume, run.requests.len()), (&None, &None, 0), "{what}, after {steps} steps");
            assert_eq!((&world.seen.snapshot, &world.seen.copied_snapshot), (&None, &None), "{what}, after {steps} steps");
            assert!(world.contents().next().is_none(), "{what}, after {steps} steps");
            assert_eq!((&clone.claim, &clone.volume), (&None, &None), "{what}, after {steps} steps");
        }
    }
}

#[test]
fn a_clone_is_given_to_a_claim_of_ours() {
    for is_cloned_at_once in [true, false] {
        let mut world = World { is_cloned_at_once, ..World::of_clone() };
        world.gate(true);
        world.settle();
        let snapshot = world.seen.backup.status.clone().unwrap().snapshot.unwrap();
        assert_eq!((snapshot.content.as_str(), snapshot.handle.as_str()), ("pv", "v"));
        world.mover_says(stored());
        world.settle();
        world.pod_goes();
        world.settle();
        let mut expected = vec!["hold", "clone", "claim", "keep volume", "rebind", "delete clone", "request", "pod", "fence"];
        expected.extend(["give up volume", "delete claim", "let go"]);
        if !is_cloned_at_once {
            expected.insert(2, "select node");
        }
        assert_eq!(world.take_acts(), expected);
        assert_eq!((world.status().phase, world.status().cleaned), (Phase::Completed, true));
    }
}

#[test]
fn each_mover_of_a_clone_mounts_the_same_one() {
    let mut world = World::of_clone();
    world.gate(true);
    for _ in 0..2 {
        world.settle();
        world.mover_says(failed(false));
        world.settle();
        world.pod_goes();
        world.now += SignedDuration::from_mins(20);
    }
    world.settle();
    assert_eq!((world.status().phase, world.status().attempts), (Phase::InProgress, 3));
    assert_eq!(world.take_acts().iter().filter(|act| act.contains("claim")).count(), 1, "it was made again");
    // One that is gone cannot be had again.
    world.mover_says(failed(false));
    world.settle();
    world.pod_goes();
    world.seen.run.claim = None;
    world.seen.run.volume = None;
    world.settle();
    assert_eq!((world.status().phase, world.status().reason), (Phase::Failed, Some(Reason::SnapshotMissing)));
}

#[test]
fn a_clone_that_got_somebody_s_volume_leaves_it_alone() {
    let mut world = World { is_foreign: true, ..World::of_clone() };
    world.gate(true);
    world.settle();
    assert_eq!((world.status().phase, world.status().reason), (Phase::Failed, Some(Reason::ClaimTaken)));
    assert_eq!(world.take_acts(), ["hold", "clone", "keep volume", "leave what is somebody's", "let go"]);
}

/// Whoever owns its namespace may remove it at any moment.
#[test]
fn a_clone_that_somebody_removes_leaves_no_volume() {
    let mut ends = std::collections::BTreeSet::new();
    for steps in 3..10 {
        let mut world = World::of_clone();
        world.gate(true);
        world.steps(steps);
        world.clone_is_removed();
        world.settle();
        if world.status().phase == Phase::InProgress {
            world.mover_says(stored());
            world.settle();
        }
        world.pod_goes();
        world.settle();
        ends.insert(format!("{:?}", world.status().phase));
        assert!(world.status().cleaned, "after {steps} steps: {:?}", world.status());
        let kept = world.seen.clone.volume.as_ref().and_then(|volume| volume.spec.as_ref()?.persistent_volume_reclaim_policy.clone());
        assert_ne!(kept.as_deref(), Some("Retain"), "after {steps} steps");
        assert_eq!((&world.seen.run.claim, &world.seen.run.volume), (&None, &None), "after {steps} steps");
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), ["Completed", "Failed"]);
}

#[test]
fn what_is_missing_is_waited_for() {
    let mut world = World::of_claim();
    world.seen.run.missing = Some(Missing { reason: Reason::ClaimMissing, message: "there is no claim data".to_owned() });
    world.settle();
    assert_eq!((world.take_acts(), world.status().reason), (vec!["hold"], Some(Reason::ClaimMissing)));
    // The longer it lasts and the more wait, the more seldom they ask.
    let again = |seconds: i64, stalled: usize| {
        let gate = GateView { stalled, ..GateView::default() };
        decide(&world.seen, &gate, &installation(), world.now + SignedDuration::from_secs(seconds)).again.unwrap().as_secs()
    };
    assert_eq!([again(0, 1), again(80, 1), again(10_000, 1), again(0, 1000), again(10_000, 5000)], [2, 10, 30, 20, 100]);
    assert!(world.status().is_asked_for());
    world.seen.run.missing = None;
    world.gate(false);
    world.settle();
    assert_eq!(world.status().phase, Phase::Prepared);
}

/// What its volume was like is recorded before its snapshot is asked for: nothing asks for the claim afterwards.
#[test]
fn a_claim_may_go_while_its_data_is_taken() {
    for mut world in [World::of_claim(), World::of_clone()] {
        world.steps(2);
        assert_eq!(world.status().phase, Phase::Pending);
        // As it is read again.
        world.seen.volume = world.seen.backup.status.clone().unwrap().source.unwrap();
        world.seen.snapshot_class = None;
        world.settle();
        assert_eq!(world.status().phase, Phase::Prepared);
        let snapshot = world.seen.backup.status.clone().unwrap().snapshot.unwrap();
        assert_eq!((snapshot.bytes, snapshot.storage_class.as_deref()), (1 << 20, Some("fast")));
    }
}

#[test]
fn a_snapshot_that_never_becomes_ready_ends_the_run() {
    let mut world = World::of_claim();
    world.steps(2);
    world.seen.snapshot.as_mut().unwrap().object.status = None;
    world.settle();
    assert_eq!((world.status().phase, world.status().reason), (Phase::Accepted, Some(Reason::SnapshotNotReady)));
    let again = |world: &World| {
        let gate = GateView { stalled: 1000, ..GateView::default() };
        (decide(&world.seen, &gate, &installation(), world.now).again.unwrap().as_secs(), world.status().is_asked_for())
    };
    assert_eq!(again(&world), (2, false));
    world.seen.snapshot.as_mut().unwrap().error = Some("the pool is full".to_owned());
    world.settle();
    // Whoever counts among those that are looked at in turn waits for its turn.
    assert_eq!(again(&world), (20, true));
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
