//! What a restore needs to know: the claim that waits, where its data comes from, the volume that was filled; read fresh.
//! Client required.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::api::run::{Phase, Reason};
use crate::api::volume_restore::RestoreSource;
use crate::api::{GROUP, Repository, VolumeBackup, VolumeRestore};
use crate::backup::objects::{namespace_tag, path};
use crate::cluster;
use crate::run::objects::{Installation, SELECTED_NODE};
use crate::run::observe::{Reader, RunSeen, contains};

/// A class whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What was seen of a restore and of what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The object.
    pub restore: VolumeRestore,
    /// What all runs need.
    pub run: RunSeen,
    /// The claim that waits.
    pub target: Option<PersistentVolumeClaim>,
    /// Its class.
    pub class: Option<StorageClass>,
    /// The node that its consumer waits on, where movers may run.
    pub selected_node: Option<String>,
    /// Where the data comes from.
    pub origin: Origin,
    /// The volume that our claim had, whosever it is now.
    pub filled: Option<PersistentVolume>,
}

impl AsRef<RunSeen> for Seen {
    fn as_ref(&self) -> &RunSeen {
        &self.run
    }
}

/// Where the data comes from. What is given restricts what the mover may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// What the repository calls it.
    pub path: String,
    /// The snapshot, if it was named.
    pub snapshot_id: Option<String>,
    /// That it must have.
    pub tag: Option<String>,
    /// The cluster that it must be of.
    pub host: Option<String>,
    /// The newest that is not younger.
    pub before: Option<Timestamp>,
}

/// Reads what belongs to a restore.
///
/// # Errors
/// Those of the API server: nothing is decided on half of the facts.
pub(super) async fn observe(client: &kube::Client, installation: &Installation, restore: VolumeRestore) -> kube::Result<Seen> {
    let reader = Reader::new(client, installation, &restore);
    let run = reader.run(&restore.spec.repository).await?;
    let mut seen = Seen { restore, run, target: None, class: None, selected_node: None, origin: Origin::default(), filled: None };
    let status = seen.restore.status.clone().unwrap_or_default();
    if status.run.cleaned {
        return Ok(seen);
    }
    seen.target = reader.theirs::<PersistentVolumeClaim>().get_opt(&seen.restore.spec.claim).await?;
    if reader.is_over() || status.run.phase == Phase::Binding {
        // Also when it is no longer our claim's.
        seen.filled = match &status.run.claim_volume {
            Some(volume) => reader.all::<PersistentVolume>().get_opt(volume).await?,
            None => None,
        };
    }
    if reader.is_over() || matches!(status.run.phase, Phase::Binding | Phase::Canceling) {
        return Ok(seen);
    }
    origin(&reader, installation, &mut seen).await?;
    target(&reader, &mut seen).await?;
    Ok(seen)
}

/// The claim that waits, or why it cannot be filled.
async fn target(reader: &Reader<'_>, seen: &mut Seen) -> kube::Result<()> {
    let (name, run) = (seen.restore.spec.claim.clone(), seen.restore.name_any());
    let Some(target) = &seen.target else {
        seen.run.lacks(Reason::ClaimMissing, format!("there is no claim {name}: make it, with this run as its dataSourceRef"));
        return Ok(());
    };
    let spec = target.spec.clone().unwrap_or_default();
    let is_for_this = spec.data_source_ref.as_ref().is_some_and(|source| {
        source.api_group.as_deref() == Some(GROUP) && source.kind == "VolumeRestore" && source.name == run && source.namespace.is_none()
    });
    if !is_for_this {
        seen.run.lacks(
            Reason::ClaimTaken,
            format!("claim {name} is not to be filled by this run: its dataSourceRef must be VolumeRestore {run}"),
        );
        return Ok(());
    }
    if let Some(volume) = spec.volume_name {
        seen.run.lacks(Reason::ClaimTaken, format!("claim {name} has a volume already: {volume}"));
        return Ok(());
    }
    let Some(class) = spec.storage_class_name.filter(|class| !class.is_empty()) else {
        seen.run.lacks(Reason::NoStorageClass, format!("claim {name} has no StorageClass, and there is no default one"));
        return Ok(());
    };
    seen.class = reader.all::<StorageClass>().get_opt(&class).await?;
    match &seen.class {
        None => seen.run.lacks(Reason::NoStorageClass, format!("there is no StorageClass {class}")),
        Some(found) if found.provisioner == NO_PROVISIONER => {
            seen.run.lacks(Reason::NoStorageClass, format!("StorageClass {class} makes no volumes by itself"));
        }
        Some(_) => {}
    }
    // Whoever waits for the claim was given a node already; another one will do, if movers may not run there.
    if let Some(node) = target.annotations().get(SELECTED_NODE) {
        let found = reader.all::<Node>().get_opt(node).await?;
        seen.selected_node = found.filter(|found| cluster::limit(&seen.run.policy, found).0 > 0).map(|node| node.name_any());
    }
    Ok(())
}

/// Where the data comes from, or why it cannot be had.
async fn origin(reader: &Reader<'_>, installation: &Installation, seen: &mut Seen) -> kube::Result<()> {
    let Some(repository) = seen.run.repository.clone() else { return Ok(()) };
    let own = seen.restore.namespace().unwrap_or_default();
    let source = seen.restore.spec.source.clone();
    let from = source.namespace.clone().unwrap_or_else(|| own.clone());
    if from != own && !is_allowed(&repository, &from, seen) {
        let name = repository.name_any();
        seen.run.lacks(
            Reason::NamespaceNotAllowed,
            format!("Repository {name} does not let namespace {own} read what {from} stored: see its spec.restores.allow"),
        );
        return Ok(());
    }
    if source.cluster.as_ref().is_some_and(|cluster| *cluster != installation.cluster) && !repository.spec.restores.by_name {
        let name = repository.name_any();
        seen.run.lacks(
            Reason::NamespaceNotAllowed,
            format!("Repository {name} does not let a namespace read what another cluster stored: see its spec.restores.byName"),
        );
        return Ok(());
    }
    if !repository.spec.restores.by_name {
        let uid = if from == own {
            Some(seen.run.namespace_uid())
        } else {
            reader.all::<Namespace>().get_opt(&from).await?.and_then(|namespace| namespace.uid())
        };
        let Some(uid) = uid else {
            seen.run.lacks(
                Reason::NamespaceNotAllowed,
                format!(
                    "there is no namespace {from}, so nobody can tell whether it stored that: see spec.restores.byName of the Repository"
                ),
            );
            return Ok(());
        };
        seen.origin.tag = Some(namespace_tag(&uid));
    }
    match (&source.backup, &source.claim) {
        (Some(backup), _) => of_backup(reader, seen, backup, &own).await,
        (None, Some(claim)) => {
            of_claim(seen, &source, &from, claim, installation);
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

fn is_allowed(repository: &Repository, from: &str, seen: &Seen) -> bool {
    let Some(own) = &seen.run.namespace else { return false };
    repository.spec.restores.allow.iter().any(|rule| rule.from == from && contains(&rule.into, own))
}

async fn of_backup(reader: &Reader<'_>, seen: &mut Seen, name: &str, namespace: &str) -> kube::Result<()> {
    let status = seen.restore.status.as_ref();
    let known = status.and_then(|status| status.path.clone().zip(status.snapshot_id.clone()));
    if let Some((path, id)) = known.filter(|(path, _)| path.starts_with(&format!("/{namespace}/"))) {
        // Seen once, it may go.
        (seen.origin.path, seen.origin.snapshot_id) = (path, Some(id));
        return Ok(());
    }
    let Some(backup) = reader.theirs::<VolumeBackup>().get_opt(name).await? else {
        seen.run.lacks(Reason::BackupMissing, format!("there is no VolumeBackup {name}"));
        return Ok(());
    };
    if backup.spec.repository != seen.restore.spec.repository {
        let message = format!("VolumeBackup {name} stored into Repository {}: name that one", backup.spec.repository);
        seen.run.lacks(Reason::BackupMissing, message);
        return Ok(());
    }
    let status = backup.status.unwrap_or_default();
    match status.result {
        Some(result) if status.run.phase == Phase::Completed => {
            seen.origin.path = path(namespace, &backup.spec.source);
            seen.origin.snapshot_id = Some(result.snapshot_id);
        }
        _ if status.run.phase.is_end() => {
            seen.run.lacks(Reason::BackupMissing, format!("VolumeBackup {name} ended without a snapshot: {}", status.run.message));
        }
        _ => seen.run.lacks(Reason::BackupNotDone, format!("VolumeBackup {name} is not done yet")),
    }
    Ok(())
}

fn of_claim(seen: &mut Seen, source: &RestoreSource, namespace: &str, claim: &str, installation: &Installation) {
    seen.origin.path = format!("/{namespace}/{claim}");
    seen.origin.snapshot_id.clone_from(&source.snapshot);
    seen.origin.host.clone_from(&source.cluster);
    if source.snapshot.is_none() {
        seen.origin.host.get_or_insert_with(|| installation.cluster.clone());
    }
    // The same for every mover of the run, whatever is stored meanwhile.
    let began = seen.restore.metadata.creation_timestamp.as_ref();
    seen.origin.before = source.before.as_ref().or(began).map(|time| time.0);
}
