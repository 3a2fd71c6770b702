//! The state machine of a restore against a small world that does what it says: every step, in order, and every way out.
use crate::common::{installation, nothing_yet};
use contract::{Line, RestoreSummary, Status};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use plugin::api::run::{Phase, Reason};
use plugin::api::volume_restore::{RestoreSource, StoredSource};
use plugin::api::{VolumeRestore, VolumeRestoreSpec, VolumeRestoreStatus};
use plugin::cluster::GateView;
use plugin::gate::{Grant, Standing};
use plugin::restore::{Origin, Seen, decide};
use plugin::run::Act;
use plugin::run::observe::Missing;
use plugin::run::pod::{MoverSaid, PodSeen};
use serde_json::{Value, json};

fn of<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// What the cluster holds for one run; acts change it as the real one would, at once.
struct World {
    seen: Seen,
    gate: GateView,
    now: Timestamp,
    acts: Vec<&'static str>,
    /// Whether the last mover was told that another one was there before it.
    goes_on: bool,
    /// The volume, whosever it is.
    volume: Option<PersistentVolume>,
}

impl World {
    fn new() -> Self {
        let stored = StoredSource { claim: Some("data".to_owned()), ..StoredSource::default() };
        let source = RestoreSource { backup: None, stored };
        let spec = VolumeRestoreSpec {
            repository: "main".to_owned(),
            source,
            claim: "again".to_owned(),
            accept_incomplete: false,
            claim_namespace: None,
            cancel: false,
        };
        let mut restore = VolumeRestore::new("run", spec);
        restore.metadata.namespace = Some("shop".to_owned());
        restore.metadata.uid = Some("uid".to_owned());
        let run = nothing_yet();
        let target: PersistentVolumeClaim = of(json!({"metadata": {"name": "again", "namespace": "shop", "uid": "target"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "keep"},
            "status": {"phase": "Pending"}}));
        let class: StorageClass = of(json!({"metadata": {"name": "keep"}, "provisioner": "csi"}));
        let origin = Origin { path: "/shop/data".to_owned(), tag: Some("namespace=1".to_owned()), ..Origin::default() };
        let seen = Seen { restore, run, target: Some(target), class: Some(class), selected_node: None, origin, filled: None };
        let grant = Grant { uid: "uid".to_owned(), node: "node".to_owned(), slot: 1 };
        let gate = GateView { grant: Some(grant), ..GateView::default() };
        Self { seen, gate, now: Timestamp::UNIX_EPOCH, acts: Vec::new(), goes_on: false, volume: None }
    }

    fn status(&self) -> VolumeRestoreStatus {
        self.seen.restore.status.clone().unwrap_or_default()
    }

    fn phase(&self) -> Phase {
        self.status().run.phase
    }

    /// One pass. False: nothing was done, and nothing will be until something changes.
    fn step(&mut self) -> bool {
        self.look();
        let decision = decide(&self.seen, &self.gate, &installation(), self.now);
        let changed = self.seen.restore.status.as_ref() != Some(&decision.status);
        self.seen.restore.status = Some(decision.status);
        let did = decision.act.is_some();
        if let Some(act) = decision.act {
            self.act(act);
        }
        did || changed
    }

    /// What the reader of the real cluster would see.
    fn look(&mut self) {
        let owner = |volume: &PersistentVolume| volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.clone().unwrap();
        self.seen.run.volume = self.volume.clone().filter(|volume| owner(volume) == "ours");
        self.seen.filled = self.volume.clone().filter(|_| self.status().run.claim_volume.is_some());
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                return;
            }
        }
        panic!("it never settles: {:?}", self.acts);
    }

    fn act(&mut self, act: Act) {
        let run = &mut self.seen.run;
        let name = match act {
            Act::AddFinalizer => {
                self.seen.restore.finalizers_mut().push(plugin::api::RUN_FINALIZER.to_owned());
                "hold"
            }
            Act::RemoveFinalizer => {
                self.seen.restore.finalizers_mut().clear();
                "let go"
            }
            Act::CreateClaim(claim) => {
                let spec = claim.spec.unwrap();
                assert_eq!((spec.storage_class_name.as_deref(), spec.data_source_ref), (Some("keep"), None));
                run.claim = Some(of(json!({"metadata": {"name": "estiba-uid", "uid": "ours"}, "spec": {"volumeName": "pv"},
                    "status": {"phase": "Bound"}})));
                self.volume = Some(of(json!({"metadata": {"name": "pv"},
                    "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"uid": "ours"}}})));
                "claim"
            }
            Act::GiveUpVolume(_) => {
                self.volume.as_mut().unwrap().spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Delete".to_owned());
                "give up volume"
            }
            Act::DeleteClaim(_) => {
                run.claim = None;
                let spec = self.volume.as_ref().unwrap().spec.clone().unwrap();
                if spec.claim_ref.unwrap().uid.as_deref() == Some("ours") {
                    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"), "it would stay");
                    self.volume = None;
                }
                "delete claim"
            }
            Act::CreateRequest(request) => {
                run.requests = vec![request.name_any().rsplit('-').next().unwrap().parse().unwrap()];
                "request"
            }
            Act::CreatePod(pod) => {
                let mover = &pod.spec.unwrap().containers[0];
                let args = mover.args.clone().unwrap().join(" ");
                assert!(!mover.env.iter().flatten().any(|variable| variable.name == "MOVER_S3_RETAIN"), "it stores nothing");
                let wanted = self.seen.restore.status.as_ref().unwrap().snapshot_id.as_deref().unwrap_or("latest");
                assert!(args.contains(&format!("restore {wanted}:/shop/data /volume --path /shop/data --tag namespace=1")), "{args}");
                self.goes_on = args.ends_with("--overwrite if-changed");
                run.pod = PodSeen::Ours { said: None, is_running: true };
                run.has_pods = true;
                "pod"
            }
            Act::Fence => {
                run.requests.clear();
                "fence"
            }
            Act::Rebind(_, claim) => {
                assert!(!run.has_pods && run.requests.is_empty(), "a mover could still write");
                let volume = self.volume.as_mut().unwrap().spec.as_mut().unwrap();
                volume.claim_ref.as_mut().unwrap().uid = claim.metadata.uid;
                "rebind"
            }
            other => panic!("not of a restore: {other:?}"),
        };
        self.acts.push(name);
    }

    /// Kubernetes binds the claim to the volume that is its own by now; a volume whose claim is gone goes the way of its class.
    fn binder_runs(&mut self) {
        let owner = self.volume.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref()?.uid.clone());
        if owner.as_deref() == Some("target") {
            let target = self.seen.target.as_mut().unwrap();
            if target.metadata.uid.as_deref() != Some("target") {
                self.volume = None;
                return;
            }
            target.spec.as_mut().unwrap().volume_name = Some("pv".to_owned());
            target.status.as_mut().unwrap().phase = Some("Bound".to_owned());
        }
    }

    /// So many steps of the whole way, with whatever others do meanwhile.
    fn go_on(&mut self, steps: usize) {
        for step in 0..steps {
            if self.phase() == Phase::InProgress {
                self.mover_says(restored(0));
            }
            if self.phase() == Phase::Binding && step % 2 == 0 {
                self.pod_goes();
            }
            self.step();
            if step % 3 == 0 {
                self.binder_runs();
            }
        }
    }

    /// What it comes to in the end.
    fn come_to_rest(&mut self) {
        for _ in 0..5 {
            self.settle();
            self.pod_goes();
            self.binder_runs();
        }
    }

    fn mover_says(&mut self, said: MoverSaid) {
        self.seen.run.pod = PodSeen::Ours { said: Some(said), is_running: false };
        self.seen.run.has_mover_ended = true;
    }

    /// The mover says what it restores.
    fn is_at_work(&mut self) {
        self.seen.run.progress = Some(Status { snapshot_id: Some("abc".to_owned()), ..Status::default() });
        self.settle();
        assert_eq!((self.phase(), self.status().snapshot_id.as_deref()), (Phase::InProgress, Some("abc")));
        self.take_acts();
    }

    /// The mover's end, and the next one's beginning.
    fn next_mover(&mut self) {
        self.settle();
        self.pod_goes();
        self.seen.run.progress = None;
        self.now += SignedDuration::from_mins(10);
        self.settle();
        assert_eq!(self.phase(), Phase::InProgress);
    }

    fn pod_goes(&mut self) {
        self.seen.run.pod = PodSeen::None;
        self.seen.run.has_pods = false;
        self.seen.run.has_mover_ended = false;
    }

    fn take_acts(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.acts)
    }

    /// Nothing of ours is left, and the claim is either whole or empty.
    fn assert_clean(&self, when: &str) {
        assert!(self.status().run.cleaned, "{when}: {:?}", self.status());
        assert!(self.seen.run.claim.is_none() && self.seen.run.requests.is_empty() && !self.seen.run.has_pods, "{when}");
        let is_bound = self.seen.target.as_ref().unwrap().status.as_ref().unwrap().phase.as_deref() == Some("Bound");
        assert_eq!(self.volume.is_some(), is_bound, "{when}: a volume that nobody has, or a claim that has none");
        assert!(is_bound || self.phase() != Phase::Completed, "{when}: done, and nothing is there");
    }
}

fn restored(errors: u64) -> MoverSaid {
    let summary: RestoreSummary = of(json!({"snapshot_id": "abc", "files_restored": 2, "files_skipped": 0, "dirs_restored": 1,
        "others_restored": 0, "bytes_restored": 10, "bytes_to_fetch": 10, "pack_requests": 1, "bytes_verified": 0, "errors": errors,
        "owners_not_set": 0, "seconds": 1.0, "dry_run": false, "requests": contract::Requests::default()}));
    MoverSaid::Done(Box::new(Line::RestoreSummary(summary)))
}

#[test]
fn the_whole_way() {
    let mut world = World::new();
    world.settle();
    assert_eq!((world.take_acts(), world.phase()), (vec!["hold", "claim", "request", "pod"], Phase::InProgress));
    world.mover_says(restored(0));
    world.settle();
    // Nothing is bound while a mover could still write.
    assert_eq!((world.take_acts(), world.phase()), (vec!["fence"], Phase::Binding));
    world.pod_goes();
    world.settle();
    assert_eq!((world.take_acts(), world.status().run.message.as_str()), (vec!["rebind"], "the claim is being bound to its volume"));
    world.binder_runs();
    world.settle();
    assert_eq!((world.take_acts(), world.phase()), (vec!["delete claim", "let go"], Phase::Completed));
    world.assert_clean("at the end");
    // The class keeps its volumes, as whoever made the claim expects.
    assert_eq!(world.volume.clone().unwrap().spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    let status = world.status();
    assert_eq!((status.snapshot_id.as_deref(), status.result.unwrap().files), (Some("abc"), 2));
}

#[test]
fn what_is_not_whole_is_given_up_unless_it_is_accepted() {
    let mut world = World::new();
    world.seen.run.policy.retries = 0;
    world.settle();
    world.mover_says(restored(3));
    world.settle();
    world.pod_goes();
    world.settle();
    assert_eq!((world.phase(), world.status().run.reason), (Phase::Failed, Some(Reason::MoverFailed)));
    assert!(world.status().run.message.contains("3 items could not be restored"), "{}", world.status().run.message);
    world.assert_clean("given up");
    let mut world = World::new();
    world.seen.restore.spec.accept_incomplete = true;
    world.settle();
    world.mover_says(restored(3));
    world.settle();
    world.pod_goes();
    world.settle();
    world.binder_runs();
    world.settle();
    assert_eq!((world.phase(), world.status().run.message.contains("save 3 items")), (Phase::Completed, true));
}

#[test]
fn one_that_is_cancelled_begins_no_second_attempt() {
    let mut world = World::new();
    world.settle();
    world.seen.restore.spec.cancel = true;
    world.mover_says(restored(3));
    world.come_to_rest();
    assert_eq!((world.phase(), world.status().run.attempts), (Phase::Canceled, 1));
    world.assert_clean("cancelled");
}

const FRESH: [&str; 6] = ["fence", "give up volume", "delete claim", "claim", "request", "pod"];
const GOES_ON: [&str; 3] = ["fence", "request", "pod"];

fn failed() -> MoverSaid {
    MoverSaid::Failed { message: "it broke".to_owned(), log_tail: String::new(), is_final: false }
}

fn ended() -> MoverSaid {
    MoverSaid::Disrupted("it was evicted".to_owned())
}

#[test]
fn a_mover_goes_on_with_what_the_one_before_has_done() {
    let mut world = World::new();
    world.settle();
    world.is_at_work();
    // One that was ended is nobody's fault, and takes nothing from the volume.
    for said in [ended(), ended(), failed(), ended()] {
        world.mover_says(said);
        world.next_mover();
        assert_eq!((world.take_acts(), world.goes_on), (GOES_ON.to_vec(), true));
    }
    // In a volume in which two have failed, a third one would fail as well.
    world.mover_says(failed());
    world.next_mover();
    assert_eq!((world.take_acts(), world.goes_on), (FRESH.to_vec(), false));
    world.mover_says(failed());
    world.next_mover();
    assert_eq!((world.take_acts(), world.goes_on), (GOES_ON.to_vec(), true), "in this one it is the first");
    world.mover_says(restored(0));
    world.come_to_rest();
    assert_eq!(world.phase(), Phase::Completed);
}

/// Two that write into one volume would spoil it, and so would two snapshots.
#[test]
fn nobody_goes_on_with_what_is_not_certain() {
    for case in 0..4 {
        let mut world = World::new();
        world.settle();
        world.take_acts();
        if case > 0 {
            world.is_at_work();
        }
        world.mover_says(ended());
        match case {
            // It never said what it restored.
            0 => {}
            // Its node is gone.
            1 => world.seen.run.has_mover_ended = false,
            // Its pod is gone, whoever removed it, and another run has its slot.
            2 => (world.seen.run.pod, world.seen.run.has_mover_ended) = (PodSeen::Another, false),
            // Its pod is gone.
            _ => (world.seen.run.pod, world.seen.run.has_mover_ended) = (PodSeen::None, false),
        }
        world.next_mover();
        assert_eq!((world.take_acts(), world.goes_on), (FRESH.to_vec(), false), "{case}");
    }
}

/// What was left of an item that is lost by now would stay, and be taken for it.
#[test]
fn what_is_accepted_without_some_items_was_restored_by_one_mover() {
    let mut world = World::new();
    world.seen.restore.spec.accept_incomplete = true;
    world.settle();
    world.is_at_work();
    world.mover_says(ended());
    world.next_mover();
    assert_eq!((world.take_acts(), world.goes_on), (GOES_ON.to_vec(), true));
    world.mover_says(restored(3));
    world.next_mover();
    assert_eq!((world.take_acts(), world.goes_on), (FRESH.to_vec(), false));
    world.mover_says(restored(3));
    world.come_to_rest();
    assert_eq!((world.phase(), world.status().run.message.contains("save 3 items")), (Phase::Completed, true));
}

/// Its node may run no mover, and no other reaches the volume: after a while a fresh one is filled elsewhere.
#[test]
fn a_volume_that_no_mover_reaches_is_given_up_after_a_while() {
    let mut world = World::new();
    world.settle();
    world.is_at_work();
    let terms = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node"]}]}]});
    world.volume.as_mut().unwrap().spec.as_mut().unwrap().node_affinity = Some(of(json!({"required": terms})));
    world.mover_says(ended());
    let grant = world.gate.grant.take();
    let stands = |world: &mut World, has_node: bool, seconds: i64| {
        world.gate.standing = Some(Standing { position: 1, of: 1, why: "node is cordoned".to_owned(), has_node });
        world.now += SignedDuration::from_secs(seconds);
        world.settle();
        world.take_acts()
    };
    let patience = i64::from(world.seen.run.policy.start_timeout_seconds);
    world.settle();
    world.pod_goes();
    world.seen.run.progress = None;
    // However long it stood in the queue before.
    assert_eq!(stands(&mut world, true, 2 * patience), ["fence"]);
    assert_eq!(stands(&mut world, false, 1), [""; 0]);
    assert_eq!((stands(&mut world, false, patience - 1), world.status().run.reason), (vec![], Some(Reason::NoNode)));
    assert_eq!(stands(&mut world, true, 1), [""; 0]);
    assert_eq!(stands(&mut world, false, 1), [""; 0]);
    assert_eq!(stands(&mut world, false, patience - 1), [""; 0]);
    assert_eq!(stands(&mut world, false, 1), ["give up volume", "delete claim"]);
    (world.gate.grant, world.gate.standing) = (grant, None);
    world.settle();
    assert_eq!((world.take_acts(), world.goes_on), (vec!["claim", "request", "pod"], false));
}

#[test]
fn what_is_missing_is_waited_for() {
    let mut world = World::new();
    world.seen.run.missing = Some(Missing { reason: Reason::ClaimTaken, message: "it has a volume".to_owned() });
    world.settle();
    assert_eq!((world.take_acts(), world.status().run.reason), (vec!["hold"], Some(Reason::ClaimTaken)));
    world.seen.run.missing = None;
    world.settle();
    assert_eq!(world.phase(), Phase::InProgress);
}

/// Whenever the claim goes, the run ends, says so, and leaves nothing.
#[test]
fn the_claim_is_removed_at_every_step() {
    let mut phases = std::collections::BTreeSet::new();
    for steps in 1..40 {
        let mut world = World::new();
        world.go_on(steps);
        if world.status().target.is_none() || world.phase() == Phase::Completed {
            continue;
        }
        phases.insert(format!("{:?}", world.phase()));
        // Another of that name, that nobody has filled.
        let target = world.seen.target.as_mut().unwrap();
        target.metadata.uid = Some("another".to_owned());
        target.spec.as_mut().unwrap().volume_name = None;
        target.status.as_mut().unwrap().phase = Some("Pending".to_owned());
        world.come_to_rest();
        assert_eq!((world.phase(), world.status().run.reason), (Phase::Failed, Some(Reason::ClaimMissing)), "after {steps} steps");
        world.assert_clean(&format!("after {steps} steps"));
    }
    assert_eq!(phases.into_iter().collect::<Vec<_>>(), ["Binding", "DatamoverDeploying", "InProgress", "Prepared"]);
}

/// Cancelled or deleted after any step: nothing of ours is left, and the claim is either whole or empty.
#[test]
fn stopped_at_every_step_the_claim_is_whole_or_empty() {
    for is_deleted in [false, true] {
        for steps in 0..40 {
            let mut world = World::new();
            let when = format!("deleted: {is_deleted}, after {steps} steps");
            world.go_on(steps);
            if is_deleted {
                world.seen.restore.metadata.deletion_timestamp = Some(Time(world.now));
            } else {
                world.seen.restore.spec.cancel = true;
            }
            world.come_to_rest();
            world.assert_clean(&when);
            assert!(is_deleted || world.phase().is_end(), "{when}");
        }
    }
}
