//! What a backup needs to know: the claim, its snapshot, the copy; read fresh. Client required.

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use kube::ResourceExt;
use kube::api::ListParams;

use super::objects;
use crate::api::external::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use crate::api::mover_policy::{ClassRule, CopyMethod};
use crate::api::run::{Phase, Reason};
use crate::api::volume_backup::{Source as Spec, SourceVolume};
use crate::api::{RUN_LABEL, VolumeBackup};
use crate::run::decide::is_bound;
use crate::run::objects::Installation;
use crate::run::observe::{Reader, RunSeen, is_made_since, takes_secrets_of_claims};
use crate::{cluster, reach, run};

/// Of a class, when several could be meant.
const DEFAULT_SNAPSHOT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// What was seen of a backup and of what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The object.
    pub backup: VolumeBackup,
    /// What all runs need.
    pub run: RunSeen,
    /// The volume: from its claim, before its snapshot is asked for, and as recorded from then on.
    pub volume: SourceVolume,
    /// The class for its snapshot.
    pub snapshot_class: Option<String>,
    /// How claims of its class are backed up.
    pub class_rule: ClassRule,
    /// How this one is: once begun, it stays so.
    pub copy_method: CopyMethod,
    /// The clone, where it was made.
    pub clone: CloneSeen,
    /// The snapshot in the run's namespace, or in the one that it was handed over from.
    pub snapshot: Option<SnapshotSeen>,
    /// Uid of the latter.
    pub source_namespace: Option<String>,
    /// The content that our own snapshot had, while it is still there.
    pub original_content: Option<VolumeSnapshotContent>,
    /// The storage's snapshot, for our namespace.
    pub copy: Option<VolumeSnapshotContent>,
    /// The snapshot in our namespace.
    pub copied_snapshot: Option<VolumeSnapshot>,
}

impl Seen {
    /// Nothing but these two.
    #[must_use]
    pub fn new(backup: VolumeBackup, run: RunSeen) -> Self {
        let status = backup.status.clone().unwrap_or_default();
        Self {
            backup,
            run,
            volume: status.source.unwrap_or_default(),
            snapshot_class: None,
            class_rule: ClassRule::default(),
            copy_method: status.copy_method,
            clone: CloneSeen::default(),
            snapshot: None,
            source_namespace: None,
            original_content: None,
            copy: None,
            copied_snapshot: None,
        }
    }
}

impl AsRef<RunSeen> for Seen {
    fn as_ref(&self) -> &RunSeen {
        &self.run
    }
}

/// A snapshot and its content.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotSeen {
    /// In the namespace.
    pub object: VolumeSnapshot,
    /// Of the storage.
    pub content: Option<VolumeSnapshotContent>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// A claim that clones the one that is backed up, and what was its volume.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CloneSeen {
    /// In the namespace of the one that is backed up, as long as it is there.
    pub claim: Option<PersistentVolumeClaim>,
    /// Its volume, as long as it belongs to that very claim.
    pub volume: Option<PersistentVolume>,
    /// That volume was there before: not to be read, written or removed.
    pub is_foreign: bool,
    /// Why there is none.
    pub problem: Option<String>,
    /// Where it is to be, if nobody says that in time.
    pub node: Option<String>,
}

/// Reads what belongs to a backup.
///
/// # Errors
/// Those of the API server: nothing is decided on half of the facts.
pub(super) async fn observe(client: &kube::Client, installation: &Installation, backup: VolumeBackup) -> kube::Result<Seen> {
    let source = Source { reader: Reader::new(client, installation, &backup), backup: &backup };
    let mut seen = Seen::new(backup.clone(), source.reader.run(&backup.spec.repository).await?);
    let status = backup.status.clone().unwrap_or_default();
    if source.reader.is_idle() {
        return Ok(seen);
    }
    let is_before = matches!(status.run.phase, Phase::Pending | Phase::Accepted) && !source.reader.is_over();
    source.may_store(&mut seen);
    if source.reader.is_over() || status.run.phase != Phase::Pending || seen.run.missing.is_none() {
        match seen.copy_method {
            // Movers at work have what they read: nothing more is asked about it.
            CopyMethod::Snapshot if status.run.phase == Phase::InProgress && !source.reader.is_over() => {}
            CopyMethod::Snapshot => source.snapshots(&mut seen).await?,
            CopyMethod::Clone if is_before || source.reader.is_over() => source.clone(&mut seen).await?,
            CopyMethod::Clone => {}
        }
    }
    let is_of_claim = backup.spec.source.claim.is_some();
    let is_begun = seen.copy.is_some() || seen.clone.claim.is_some() || (is_of_claim && seen.snapshot.is_some());
    if status.run.phase == Phase::Pending && !source.reader.is_over() && seen.run.missing.is_none() && !is_begun {
        source.claim(&mut seen).await?;
    }
    // Of a snapshot that somebody else made, the class is known by now.
    let storage_class = status.snapshot.as_ref().map_or(&seen.volume.storage_class, |snapshot| &snapshot.storage_class);
    if let Some(rule) = seen.run.policy.classes.iter().find(|rule| Some(&rule.storage_class) == storage_class.as_ref()) {
        seen.class_rule = rule.clone();
    }
    if is_before && seen.run.missing.is_none() && !is_begun && (!is_of_claim || status.run.phase == Phase::Pending) {
        if is_of_claim {
            seen.copy_method = seen.class_rule.copy_method;
        }
        if seen.copy_method == CopyMethod::Snapshot {
            source.class(&mut seen).await?;
        }
    }
    Ok(seen)
}

struct Source<'a> {
    reader: Reader<'a>,
    backup: &'a VolumeBackup,
}

impl Source<'_> {
    /// Whether anything may be stored there, and whether what is handed over is this namespace's to take.
    fn may_store(&self, seen: &mut Seen) {
        let place = seen.run.repository.as_ref().and_then(|repository| repository.spec.s3.as_ref());
        if place.is_some_and(|place| place.read_only) {
            let message = format!("Repository {} is only read: nothing is stored there", self.backup.spec.repository);
            seen.run.lacks(Reason::Refused, message);
        }
        if self.backup.spec.source.handed_over.is_some() && !self.reader.is_of_velero() {
            let message = "a snapshot is handed over only in Velero's own namespace: name a claim, or a volumeSnapshot of this one";
            seen.run.lacks(Reason::NamespaceNotAllowed, message.to_owned());
        }
    }

    /// The snapshot that is read: its namespace and name.
    fn snapshot(&self) -> (String, String) {
        let Spec { handed_over, volume_snapshot, .. } = &self.backup.spec.source;
        let own = self.reader.namespace().to_owned();
        match (handed_over, volume_snapshot) {
            (Some(handed), _) => (handed.namespace.clone(), handed.volume_snapshot.clone()),
            (None, Some(named)) => (own, named.clone()),
            (None, None) => (own, objects::source_name(&self.backup.uid().unwrap_or_default())),
        }
    }

    /// The claim, its volume, and the class for its snapshot; or the snapshot that was named.
    async fn claim(&self, seen: &mut Seen) -> kube::Result<()> {
        let Some(name) = &self.backup.spec.source.claim else { return Ok(()) };
        let Some(claim) = self.reader.theirs::<PersistentVolumeClaim>().get_opt(name).await? else {
            seen.run.lacks(Reason::ClaimMissing, format!("there is no claim {name}"));
            return Ok(());
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let Some(volume_name) = spec.volume_name.as_ref().filter(|_| is_bound(&claim)) else {
            seen.run.lacks(Reason::ClaimNotBound, format!("claim {name} is not bound to a volume"));
            return Ok(());
        };
        let Some(volume) = self.reader.all::<PersistentVolume>().get_opt(volume_name).await? else {
            seen.run.lacks(Reason::ClaimNotBound, format!("the volume {volume_name} of claim {name} is gone"));
            return Ok(());
        };
        let volume_spec = volume.spec.unwrap_or_default();
        let Some(csi) = volume_spec.csi else {
            seen.run.lacks(Reason::NotCsi, format!("the volume of claim {name} is not of a CSI driver: it has no snapshots"));
            return Ok(());
        };
        let wanted = seen.run.policy.classes.iter().find(|rule| Some(&rule.storage_class) == spec.storage_class_name.as_ref());
        if wanted.is_none_or(|rule| rule.copy_method == CopyMethod::Snapshot) {
            match self.snapshot_class(&csi.driver, wanted.and_then(|rule| rule.snapshot_class.as_deref())).await? {
                Ok(class) => seen.snapshot_class = Some(class),
                Err(message) => seen.run.lacks(Reason::NoSnapshotClass, message),
            }
        }
        let size = volume_spec.capacity.and_then(|capacity| capacity.get("storage").cloned());
        seen.volume = SourceVolume {
            storage_class: spec.storage_class_name,
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            bytes: size.and_then(|size| cluster::bytes(&size.0)).unwrap_or_default(),
            driver: csi.driver,
            topology: volume_spec.node_affinity.and_then(|affinity| affinity.required),
        };
        Ok(())
    }

    async fn snapshot_class(&self, driver: &str, wanted: Option<&str>) -> kube::Result<Result<String, String>> {
        let classes = self.reader.all::<VolumeSnapshotClass>().list(&ListParams::default()).await?.items;
        let of_driver: Vec<_> = classes.iter().filter(|class| class.spec.driver == driver).collect();
        if let Some(wanted) = wanted {
            let found = of_driver.iter().any(|class| class.name_any() == wanted);
            return Ok(if found {
                Ok(wanted.to_owned())
            } else {
                Err(format!("there is no VolumeSnapshotClass {wanted} for driver {driver}"))
            });
        }
        let is_default = |class: &VolumeSnapshotClass| class.annotations().get(DEFAULT_SNAPSHOT_CLASS).is_some_and(|value| value == "true");
        let defaults: Vec<_> = of_driver.iter().filter(|class| is_default(class)).collect();
        Ok(match (defaults.as_slice(), of_driver.as_slice()) {
            ([one], _) => Ok(one.name_any()),
            ([], [one]) => Ok(one.name_any()),
            (_, []) => Err(format!(
                "driver {driver} has no VolumeSnapshotClass: without snapshots it cannot be backed up; if it can clone, let the MoverPolicy say copyMethod: Clone for the StorageClass"
            )),
            ([], several) => Err(format!(
                "driver {driver} has {} VolumeSnapshotClasses and none is the default: annotate one with {DEFAULT_SNAPSHOT_CLASS}, or name one in the MoverPolicy",
                several.len()
            )),
            (several, _) => Err(format!("driver {driver} has {} default VolumeSnapshotClasses: only one can be", several.len())),
        })
    }

    /// Whether our namespace can have volumes of the class that movers are to mount. A clone is made where the Secrets are.
    async fn class(&self, seen: &mut Seen) -> kube::Result<()> {
        let Some(name) = seen.class_rule.backup_storage_class.clone().or_else(|| seen.volume.storage_class.clone()) else { return Ok(()) };
        let class = self.reader.all::<StorageClass>().get_opt(&name).await?;
        if class.is_some_and(|class| takes_secrets_of_claims(&class)) {
            let message = format!(
                "StorageClass {name} takes Secrets of each claim's own namespace: let the MoverPolicy name another class for its backups (backupStorageClass), or copyMethod: Clone"
            );
            seen.run.lacks(Reason::NoStorageClass, message);
        }
        Ok(())
    }

    async fn snapshots(&self, seen: &mut Seen) -> kube::Result<()> {
        let uid = self.backup.uid().unwrap_or_default();
        let name = run::objects::name(&uid);
        let (namespace, wanted) = self.snapshot();
        let contents = self.reader.all::<VolumeSnapshotContent>();
        seen.copy = contents.get_opt(&name).await?;
        seen.copied_snapshot = self.reader.ours::<VolumeSnapshot>().get_opt(&name).await?;
        let source = &self.backup.spec.source;
        let is_begun = self.backup.status.as_ref().is_some_and(|status| status.snapshot.is_some());
        if source.handed_over.is_some() && !self.reader.is_of_velero() && !is_begun {
            // Not its own: not to be read, and not to be removed.
            return Ok(());
        }
        let snapshot = self.reader.of::<VolumeSnapshot>(&namespace).get_opt(&wanted).await?;
        if let Some(object) = snapshot {
            let status = object.status.clone().unwrap_or_default();
            let content = match &status.bound_volume_snapshot_content_name {
                Some(content) => contents.get_opt(content).await?.filter(|content| is_of(content, &object)),
                None => None,
            };
            let of_content = content.as_ref().and_then(|content| content.status.clone()).and_then(|status| status.error);
            let error = status.error.or(of_content).and_then(|error| error.message);
            seen.snapshot = Some(SnapshotSeen { object, content, error });
        } else if let Some(known) =
            self.backup.status.as_ref().and_then(|status| status.snapshot.as_ref()).filter(|_| source.owns_snapshot())
        {
            let content = contents.get_opt(&known.content).await?;
            // Of a snapshot that is gone by now.
            let is_ours = |content: &VolumeSnapshotContent| {
                let owner = &content.spec.volume_snapshot_ref;
                owner.name.as_ref() == Some(&wanted) && owner.namespace.as_ref() == Some(&namespace)
            };
            seen.original_content = content.filter(is_ours);
        }
        if source.claim.is_none() && seen.volume.bytes == 0 {
            self.shape_of_snapshot(seen).await?;
        }
        Ok(())
    }

    /// The claim that is made beside the one that is backed up, and its volume; also when the volume is our claim's by now.
    async fn clone(&self, seen: &mut Seen) -> kube::Result<()> {
        let claims = self.reader.theirs::<PersistentVolumeClaim>();
        if !self.reader.is_over() {
            // Others look for it only when a mover may need it.
            self.reader.claim(&mut seen.run).await?;
        }
        let uid = self.backup.uid().unwrap_or_default();
        let known = self.backup.status.as_ref().and_then(|status| status.snapshot.clone());
        // Whoever may make claims there may take its name: it is known by what we wrote on it, and by its uid once recorded.
        let is_ours = |claim: &PersistentVolumeClaim| match known.as_ref().and_then(|known| known.claim.as_ref()) {
            Some(recorded) => claim.metadata.uid.as_ref() == Some(recorded),
            None => claim.labels().get(RUN_LABEL) == Some(&uid),
        };
        let mut clone = CloneSeen { claim: claims.get_opt(&objects::source_name(&uid)).await?.filter(is_ours), ..CloneSeen::default() };
        let of_claim = clone.claim.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
        let owner = known.as_ref().and_then(|known| known.claim.clone()).or_else(|| clone.claim.as_ref().and_then(ResourceExt::uid));
        if let Some(name) = known.map(|known| known.content).or(of_claim) {
            let belongs = |volume: &PersistentVolume| {
                let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                owner.is_some() && claim.is_some_and(|claim| claim.uid == owner)
            };
            // Also of a claim that is gone: a volume that was to be kept for us is still there.
            clone.volume = self.reader.all::<PersistentVolume>().get_opt(&name).await?.filter(belongs);
            let since = self.backup.metadata.creation_timestamp.as_ref();
            clone.is_foreign = clone.volume.as_ref().is_some_and(|volume| !is_made_since(volume, since));
        } else if let Some(claim) = clone.claim.as_ref().filter(|_| !self.reader.is_over()) {
            clone.problem = self.reader.last_warning(&self.reader.theirs(), claim.uid().unwrap_or_default()).await?;
            let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
            if let Some(class) = class
                && self.reader.binds_late(&class).await?
            {
                clone.node = self.node_for(&seen.volume).await?;
            }
        }
        seen.clone = clone;
        Ok(())
    }

    /// Any node that can reach a volume, and where its driver runs.
    async fn node_for(&self, volume: &SourceVolume) -> kube::Result<Option<String>> {
        let nodes = self.reader.all::<Node>().list(&ListParams::default()).await?.items;
        let drivers = self.reader.all::<CSINode>().list(&ListParams::default()).await?.items;
        let has_driver = |name: &str| {
            let node = drivers.iter().find(|node| node.name_any() == name);
            node.is_some_and(|node| node.spec.drivers.iter().any(|driver| driver.name == volume.driver))
        };
        let fits = |node: &Node| {
            let name = node.name_any();
            let is_reached = volume.topology.as_ref().is_none_or(|topology| reach::selects(topology, &name, node.labels()));
            is_reached && has_driver(&name) && cluster::is_ready(node)
        };
        Ok(nodes.iter().find(|node| fits(node)).map(ResourceExt::name_any))
    }

    /// A snapshot that somebody else made does not say of which class its claim was.
    async fn shape_of_snapshot(&self, seen: &mut Seen) -> kube::Result<()> {
        let Some(content) = seen.snapshot.as_ref().and_then(|snapshot| snapshot.content.as_ref()) else { return Ok(()) };
        let handed_over = self.backup.spec.source.handed_over.as_ref();
        let of_snapshot = seen.snapshot.as_ref().and_then(|snapshot| snapshot.object.spec.source.persistent_volume_claim_name.clone());
        let (namespace, _) = self.snapshot();
        let claim = match handed_over.map(|handed| handed.claim.clone()).or(of_snapshot) {
            Some(name) => self.reader.of::<PersistentVolumeClaim>(&namespace).get_opt(&name).await?.and_then(|claim| claim.spec),
            None => None,
        };
        let (mut topology, mut bytes) = (None, 0);
        if handed_over.is_some() {
            seen.source_namespace = self.reader.all::<Namespace>().get_opt(&namespace).await?.and_then(|namespace| namespace.uid());
            // Where the claim's volume is, a copy of it may have to be as well.
            if let Some(volume) = claim.as_ref().and_then(|claim| claim.volume_name.as_ref()) {
                let volume = self.reader.all::<PersistentVolume>().get_opt(volume).await?;
                let spec = volume.and_then(|volume| volume.spec).unwrap_or_default();
                // Some drivers do not say it of a snapshot, or only what is used.
                let size = spec.capacity.and_then(|capacity| capacity.get("storage").cloned());
                bytes = size.and_then(|size| cluster::bytes(&size.0)).unwrap_or_default();
                topology = spec.node_affinity.and_then(|affinity| affinity.required);
            }
        }
        // A device that was taken for files would be formatted, and stored as nothing.
        let of_claim = claim.as_ref().map(|claim| claim.volume_mode.clone().unwrap_or_else(|| "Filesystem".to_owned()));
        let Some(volume_mode) = content.spec.source_volume_mode.clone().or(of_claim) else {
            let message = "neither the snapshot nor its claim says whether it is of files or of a device";
            seen.run.lacks(Reason::SnapshotMissing, message.to_owned());
            return Ok(());
        };
        let said = handed_over.and_then(|handed| handed.storage_class.clone());
        let class = match said.or_else(|| claim.and_then(|claim| claim.storage_class_name)) {
            Some(class) => Some(class),
            None => {
                let classes = self.reader.all::<StorageClass>().list(&ListParams::default()).await?.items;
                classes.into_iter().find(|class| class.provisioner == content.spec.driver).map(|class| class.name_any())
            }
        };
        seen.volume = SourceVolume { storage_class: class, volume_mode, bytes, driver: content.spec.driver.clone(), topology };
        Ok(())
    }
}

/// Whether a content says, too, that it is this snapshot's: a status alone may say anything.
fn is_of(content: &VolumeSnapshotContent, snapshot: &VolumeSnapshot) -> bool {
    let owner = &content.spec.volume_snapshot_ref;
    let is_named = owner.name == snapshot.metadata.name && owner.namespace == snapshot.metadata.namespace;
    is_named && owner.uid.as_ref().is_none_or(|uid| Some(uid) == snapshot.metadata.uid.as_ref())
}
