//! A small world for one backup, that does what it says.
use crate::common::{installation, nothing_yet};
use contract::{BackupSummary, Line};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use plugin::api::external::{VolumeSnapshotContent, VolumeSnapshotContentSpec, VolumeSnapshotContentStatus, VolumeSnapshotStatus};
use plugin::api::mover_policy::CopyMethod;
use plugin::api::volume_backup::{Source, SourceVolume};
use plugin::api::{RunStatus, VolumeBackup, VolumeBackupSpec};
use plugin::backup::{CloneSeen, Seen, SnapshotSeen, decide};
use plugin::cluster::GateView;
use plugin::gate::{Grant, Standing};
use plugin::run::Act;
use plugin::run::pod::{MoverSaid, PodSeen};
use serde_json::json;

const HANDLE: &str = "snapshot-1";

/// What the cluster holds for one run; acts change it as the real one would, at once.
pub(crate) struct World {
    pub(crate) seen: Seen,
    pub(crate) gate: GateView,
    pub(crate) now: Timestamp,
    pub(crate) acts: Vec<&'static str>,
    /// A clone has its volume as soon as it is asked for; otherwise it waits for a node.
    pub(crate) is_cloned_at_once: bool,
    /// And that volume was there before.
    pub(crate) is_foreign: bool,
    /// What the last mover was told.
    pub(crate) mover_args: Vec<String>,
}

impl World {
    pub(crate) fn new(source: Source) -> Self {
        let spec = VolumeBackupSpec { repository: "main".to_owned(), source, urgency: Default::default(), cancel: false };
        let mut backup = VolumeBackup::new("run", spec);
        backup.metadata.namespace = Some("shop".to_owned());
        backup.metadata.uid = Some("uid".to_owned());
        let run = nothing_yet();
        let volume = SourceVolume {
            storage_class: Some("fast".to_owned()),
            volume_mode: "Filesystem".to_owned(),
            bytes: 1 << 20,
            driver: "csi".to_owned(),
            topology: None,
        };
        let seen = Seen { volume, snapshot_class: Some("class".to_owned()), ..Seen::new(backup, run) };
        Self {
            seen,
            gate: GateView::default(),
            now: Timestamp::UNIX_EPOCH,
            acts: Vec::new(),
            is_cloned_at_once: true,
            is_foreign: false,
            mover_args: Vec::new(),
        }
    }

    pub(crate) fn of_claim() -> Self {
        Self::new(Source { claim: Some("data".to_owned()), ..Source::default() })
    }

    pub(crate) fn of_clone() -> Self {
        let mut world = Self::of_claim();
        world.seen.copy_method = CopyMethod::Clone;
        world
    }

    pub(crate) fn status(&self) -> RunStatus {
        self.seen.backup.status.clone().unwrap_or_default().run
    }

    /// What the repository calls what was stored.
    pub(crate) fn stored_as(&self) -> String {
        self.seen.backup.status.clone().unwrap().result.unwrap().snapshot_id
    }

    /// Slots are free, or not.
    pub(crate) fn gate(&mut self, is_open: bool) {
        let grant = Grant { uid: "uid".to_owned(), node: "node".to_owned(), slot: 1 };
        let standing = Standing { position: 2, of: 3, why: "node runs 1 of 1".to_owned(), has_node: true };
        self.gate = GateView { grant: is_open.then_some(grant), standing: (!is_open).then_some(standing), ..GateView::default() };
    }

    /// One pass. False: nothing was done, and nothing will be until something changes.
    pub(crate) fn step(&mut self) -> bool {
        let decision = decide(&self.seen, &self.gate, &installation(), self.now);
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

    pub(crate) fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                return;
            }
        }
        panic!("it never settles: {:?}", self.acts);
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = &VolumeSnapshotContent> {
        let of_snapshot = self.seen.snapshot.as_ref().and_then(|snapshot| snapshot.content.as_ref());
        of_snapshot.into_iter().chain(&self.seen.original_content).chain(&self.seen.copy)
    }

    pub(crate) fn act(&mut self, act: Act) {
        let seen = &mut self.seen;
        let keeps = matches!(act, Act::KeepVolume(_));
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
                if claim.namespace().as_deref() == Some("shop") {
                    claim.metadata.uid = Some("clone".to_owned());
                    let volume = self.is_cloned_at_once.then(|| volume_of("clone"));
                    claim.status = self.is_cloned_at_once.then(bound);
                    let is_foreign = self.is_foreign;
                    let node = Some("node".to_owned());
                    seen.clone = CloneSeen { claim: Some(claim), volume, is_foreign, problem: None, node };
                    self.acts.push("clone");
                    return;
                }
                claim.metadata.uid = Some("ours".to_owned());
                // What asks for a volume gets it when it is given.
                claim.status = claim.spec.as_ref().unwrap().volume_name.is_none().then(bound);
                seen.run.claim = Some(claim);
                "claim"
            }
            Act::SelectNode(claim, node) if claim.namespace().as_deref() == Some("shop") => {
                let clone = seen.clone.claim.as_mut().unwrap();
                clone.annotations_mut().insert("volume.kubernetes.io/selected-node".to_owned(), node);
                clone.status = Some(bound());
                seen.clone.volume = Some(volume_of("clone"));
                "select node"
            }
            Act::SelectNode(..) => "select node",
            Act::GiveUpVolume(volume) | Act::KeepVolume(volume) if owner(&volume) == "clone" => {
                let policy = if keeps { "Retain" } else { "Delete" };
                let volume = seen.clone.volume.as_mut().unwrap();
                volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some(policy.to_owned());
                if keeps { "keep volume" } else { "give up volume" }
            }
            Act::GiveUpVolume(_) => {
                seen.run.volume.as_mut().unwrap().spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Delete".to_owned());
                "give up volume"
            }
            Act::KeepVolume(_) => {
                seen.run.foreign_volume.as_mut().unwrap().spec.as_mut().unwrap().persistent_volume_reclaim_policy =
                    Some("Retain".to_owned());
                "keep volume"
            }
            Act::Rebind(mut volume, claim) => {
                assert_eq!(volume.spec.as_ref().unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"), "it could be lost");
                volume.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = claim.metadata.uid;
                // It no longer belongs to the clone.
                seen.clone.volume = None;
                seen.run.volume = Some(volume);
                seen.run.claim.as_mut().unwrap().status = Some(bound());
                "rebind"
            }
            Act::DeleteClaim(claim) if claim.namespace().as_deref() == Some("shop") => {
                seen.clone.claim = None;
                let volume = seen.clone.volume.take();
                let policy = volume.map(|volume| volume.spec.unwrap().persistent_volume_reclaim_policy.unwrap());
                match policy.as_deref() {
                    Some("Retain") if self.is_foreign => "leave what is somebody's",
                    Some("Retain") => panic!("its volume stays for ever"),
                    Some(_) => "delete clone and volume",
                    None => "delete clone",
                }
            }
            Act::DeleteClaim(_) => {
                seen.run.claim = None;
                let kept =
                    |volume: &PersistentVolume| volume.spec.as_ref().unwrap().persistent_volume_reclaim_policy.as_deref() != Some("Delete");
                seen.run.volume = seen.run.volume.take().filter(kept);
                "delete claim"
            }
            Act::CreateRequest(request) => {
                seen.run.requests = vec![request.name_any().rsplit('-').next().unwrap().parse().unwrap()];
                "request"
            }
            Act::CreatePod(pod) => {
                let mover = pod.spec.unwrap().containers.remove(0);
                self.mover_args = mover.args.unwrap();
                let variables = mover.env.unwrap();
                let retain = variables.iter().find(|variable| variable.name == "MOVER_S3_RETAIN").unwrap();
                assert_eq!(retain.value.as_deref(), Some("compliance:30d"));
                seen.run.pod = PodSeen::Ours { said: None, is_running: true };
                seen.run.has_pods = true;
                "pod"
            }
            Act::Fence => {
                seen.run.requests.clear();
                "fence"
            }
        };
        self.acts.push(name);
    }

    /// The mover says something, and ends.
    pub(crate) fn mover_says(&mut self, said: MoverSaid) {
        self.seen.run.pod = PodSeen::Ours { said: Some(said), is_running: false };
    }

    /// The keeper has let the slot go.
    pub(crate) fn pod_goes(&mut self) {
        self.seen.run.pod = PodSeen::None;
        self.seen.run.has_pods = false;
    }

    /// By somebody else; a volume that is kept stays behind.
    pub(crate) fn clone_is_removed(&mut self) {
        self.seen.clone.claim = None;
        let kept = |volume: &PersistentVolume| volume.spec.as_ref().unwrap().persistent_volume_reclaim_policy.as_deref() == Some("Retain");
        self.seen.clone.volume = self.seen.clone.volume.take().filter(kept);
    }

    pub(crate) fn take_acts(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.acts)
    }
}

fn bound() -> PersistentVolumeClaimStatus {
    PersistentVolumeClaimStatus { phase: Some("Bound".to_owned()), ..PersistentVolumeClaimStatus::default() }
}

fn volume_of(claim: &str) -> PersistentVolume {
    let spec =
        json!({"claimRef": {"uid": claim}, "csi": {"driver": "csi", "volumeHandle": "v"}, "persistentVolumeReclaimPolicy": "Delete"});
    serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap()
}

fn owner(volume: &PersistentVolume) -> String {
    volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone()).unwrap_or_default()
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

pub(crate) fn stored() -> MoverSaid {
    let summary = BackupSummary { snapshot_id: Some("abc".to_owned()), ..BackupSummary::default() };
    MoverSaid::Done(Box::new(Line::BackupSummary(summary)))
}

pub(crate) fn failed(is_final: bool) -> MoverSaid {
    MoverSaid::Failed { message: "it broke".to_owned(), log_tail: "the end".to_owned(), is_final }
}
