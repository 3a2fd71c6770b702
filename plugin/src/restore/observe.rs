//! What a restore needs to know: the claim that waits, where its data comes from, the volume that was filled; read fresh.
//! Client required.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::origin::{self, Asked, Origin};
use crate::api::run::{Phase, Reason};
use crate::api::{GROUP, VolumeRestore};
use crate::run::objects::{Installation, SELECTED_NODE};
use crate::run::observe::{Reader, RunSeen, takes_secrets_of_claims};
use crate::{cluster, velero};

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

/// Reads what belongs to a restore.
///
/// # Errors
/// Those of the API server: nothing is decided on half of the facts.
pub(super) async fn observe(client: &kube::Client, installation: &Installation, restore: VolumeRestore) -> kube::Result<Seen> {
    let reader = Reader::new(client, installation, &restore);
    let run = reader.run(&restore.spec.repository).await?;
    let mut seen = Seen { restore, run, target: None, class: None, selected_node: None, origin: Origin::default(), filled: None };
    let status = seen.restore.status.clone().unwrap_or_default();
    if reader.is_idle() {
        return Ok(seen);
    }
    let elsewhere = seen.restore.spec.claim_namespace.clone();
    if elsewhere.is_some() && !reader.is_of_velero() && status.target.is_none() {
        let message = "claims of other namespaces are filled only for Velero, in its own namespace: leave out claimNamespace";
        seen.run.lacks(Reason::NamespaceNotAllowed, message.to_owned());
        return Ok(seen);
    }
    let claims = reader.of::<PersistentVolumeClaim>(elsewhere.as_deref().unwrap_or(reader.namespace()));
    seen.target = claims.get_opt(&seen.restore.spec.claim).await?;
    if reader.is_over() || status.run.phase == Phase::Binding {
        // Also when it is no longer our claim's.
        seen.filled = match &status.run.claim_volume {
            Some(volume) => reader.all::<PersistentVolume>().get_opt(volume).await?,
            None => None,
        };
    }
    if reader.is_over() || matches!(status.run.phase, Phase::InProgress | Phase::Binding | Phase::Canceling) {
        return Ok(seen);
    }
    let asked = Asked {
        is_of_velero: elsewhere.is_some(),
        backup: seen.restore.spec.source.backup.as_deref(),
        source: &seen.restore.spec.source.stored,
        began: seen.restore.metadata.creation_timestamp.as_ref(),
        known: status.path.clone().zip(status.snapshot_id.clone()),
    };
    seen.origin = origin::find(&reader, installation, &mut seen.run, &asked).await?;
    target(&reader, &mut seen).await?;
    Ok(seen)
}

/// The claim that waits, or why it cannot be filled.
async fn target(reader: &Reader<'_>, seen: &mut Seen) -> kube::Result<()> {
    let (name, run) = (seen.restore.spec.claim.clone(), seen.restore.name_any());
    let Some(target) = &seen.target else {
        let message = match &seen.restore.spec.claim_namespace {
            Some(namespace) => format!("there is no claim {name} in namespace {namespace} yet: Velero makes it"),
            None => format!("there is no claim {name}: make it, with this run as its dataSourceRef"),
        };
        seen.run.lacks(Reason::ClaimMissing, message);
        return Ok(());
    };
    let spec = target.spec.clone().unwrap_or_default();
    let is_kept_free = spec.selector.as_ref().and_then(|selector| selector.match_labels.as_ref());
    let is_of_velero = is_kept_free.is_some_and(|labels| labels.contains_key(velero::DYNAMIC_VOLUME));
    let is_for_this = spec.data_source_ref.as_ref().is_some_and(|source| {
        source.api_group.as_deref() == Some(GROUP) && source.kind == "VolumeRestore" && source.name == run && source.namespace.is_none()
    });
    if seen.restore.spec.claim_namespace.is_some() && !is_of_velero {
        seen.run.lacks(
            Reason::ClaimTaken,
            format!("claim {name} is not one that Velero keeps free: its selector lacks {}", velero::DYNAMIC_VOLUME),
        );
        return Ok(());
    }
    if seen.restore.spec.claim_namespace.is_none() && !is_for_this {
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
        Some(found) if takes_secrets_of_claims(found) => {
            let message = format!(
                "StorageClass {class} takes Secrets of each claim's own namespace: nothing there is Estiba's to fill; name another class"
            );
            seen.run.lacks(Reason::NoStorageClass, message);
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
