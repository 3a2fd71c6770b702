//! What runs have left behind that are gone: their finalizer was removed by hand, or their kind was. Client required.

use std::collections::BTreeSet;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::{MANAGED_LABEL, RUN_FINALIZER, RUN_LABEL, RepositoryQuery, SLOT_FINALIZER, VolumeBackup, VolumeRestore};
use crate::backup::objects::source_name;
use crate::run::objects::{OWN_VOLUME, name};
use crate::run::observe::is_made_since;
use crate::run::{delete_uid, set_reclaim_policy};

/// An object that belongs to no run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// Its kind.
    pub kind: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Uid of the run that made it.
    pub run: String,
    uid: Option<String>,
}

/// All of them. Mover pods are not among them: their slots are kept, and freed, by the controller.
///
/// # Errors
/// Those of the API server: what cannot be listed is not taken for gone.
pub async fn orphans(client: &Client, namespace: &str) -> kube::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    found.extend(labelled(&Api::<Secret>::namespaced(client.clone(), namespace)).await?);
    found.extend(labelled(&Api::<PersistentVolumeClaim>::all(client.clone())).await?);
    found.extend(labelled(&Api::<VolumeSnapshot>::all(client.clone())).await?);
    found.extend(labelled(&Api::<VolumeSnapshotContent>::all(client.clone())).await?);
    // The runs afterwards: one that begins meanwhile has nothing in the lists above.
    let mut runs: BTreeSet<String> = BTreeSet::new();
    runs.extend(uids(&Api::<VolumeBackup>::all(client.clone())).await?);
    runs.extend(uids(&Api::<VolumeRestore>::all(client.clone())).await?);
    runs.extend(uids(&Api::<RepositoryQuery>::all(client.clone())).await?);
    found.retain(|orphan| !runs.contains(&orphan.run));
    // Labels are copied easily: claims elsewhere are ours only under the name that we give them.
    found.retain(|orphan| {
        let is_elsewhere = orphan.kind == "PersistentVolumeClaim" && orphan.namespace.as_deref() != Some(namespace);
        !is_elsewhere || orphan.name == source_name(&orphan.run)
    });
    found.sort();
    Ok(found)
}

/// Takes off all finalizers, when no controller is left that would: runs can be removed then, and pods and namespaces go.
/// What was made for runs at work stays, to be swept by the next installation.
///
/// # Errors
/// Those of the API server.
pub async fn let_go(client: &Client, namespace: &str) -> kube::Result<usize> {
    let backups = without::<VolumeBackup>(client, Api::all(client.clone()), RUN_FINALIZER).await?;
    let restores = without::<VolumeRestore>(client, Api::all(client.clone()), RUN_FINALIZER).await?;
    let queries = without::<RepositoryQuery>(client, Api::all(client.clone()), RUN_FINALIZER).await?;
    let pods = without::<Pod>(client, Api::namespaced(client.clone(), namespace), SLOT_FINALIZER).await?;
    Ok(backups + restores + queries + pods)
}

async fn without<K>(client: &Client, all: Api<K>, finalizer: &str) -> kube::Result<usize>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let held = match all.list_metadata(&ListParams::default()).await {
        // The kind is gone, and all objects with it.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(0),
        listed => listed?.items,
    };
    let mut count = 0;
    for object in held.iter().filter(|object| object.finalizers().iter().any(|each| each == finalizer)) {
        let left: Vec<_> = object.finalizers().iter().filter(|each| *each != finalizer).collect();
        let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": left}});
        let objects: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
        match objects.patch_metadata(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            // Somebody wrote in between: it is still held, and whoever calls tries again.
            other => drop(other?),
        }
        count += 1;
    }
    Ok(count)
}

/// Removes one. What its storage holds goes with it where the run owned it, and stays where somebody else may.
///
/// # Errors
/// Those of the API server.
pub async fn remove(client: &Client, orphan: &Orphan) -> kube::Result<()> {
    let namespace = orphan.namespace.as_deref().unwrap_or_default();
    match orphan.kind.as_str() {
        "Secret" => delete_uid(&Api::<Secret>::namespaced(client.clone(), namespace), &orphan.name, orphan.uid.clone()).await,
        "PersistentVolumeClaim" => {
            let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
            settle_volume(client, &claims, orphan).await?;
            delete_uid(&claims, &orphan.name, orphan.uid.clone()).await
        }
        "VolumeSnapshot" => {
            delete_uid(&Api::<VolumeSnapshot>::namespaced(client.clone(), namespace), &orphan.name, orphan.uid.clone()).await
        }
        _ => delete_uid(&Api::<VolumeSnapshotContent>::all(client.clone()), &orphan.name, orphan.uid.clone()).await,
    }
}

/// A volume that was made for the claim goes with it, whatever its class says; one that was there before stays.
async fn settle_volume(client: &Client, claims: &Api<PersistentVolumeClaim>, orphan: &Orphan) -> kube::Result<()> {
    let Some(claim) = claims.get_opt(&orphan.name).await? else { return Ok(()) };
    let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()) else { return Ok(()) };
    let Some(volume) = Api::<PersistentVolume>::all(client.clone()).get_opt(&volume).await? else { return Ok(()) };
    let owner = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
    if owner != orphan.uid {
        return Ok(());
    }
    // Only our own claims are given volumes; what tenants write on theirs means nothing.
    let is_given = orphan.name == name(&orphan.run) && claim.annotations().get(OWN_VOLUME) == volume.metadata.name.as_ref();
    let is_ours = is_given || is_made_since(&volume, claim.metadata.creation_timestamp.as_ref());
    set_reclaim_policy(client, &volume, if is_ours { "Delete" } else { "Retain" }).await
}

async fn labelled<K>(objects: &Api<K>) -> kube::Result<Vec<Orphan>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let ours = ListParams::default().labels(&format!("{}={},{RUN_LABEL}", MANAGED_LABEL.0, MANAGED_LABEL.1));
    let listed = objects.list_metadata(&ours).await?.items;
    let orphan = |object: kube::core::PartialObjectMeta<K>| Orphan {
        kind: K::kind(&()).into_owned(),
        namespace: object.namespace(),
        name: object.name_any(),
        run: object.labels().get(RUN_LABEL).cloned().unwrap_or_default(),
        uid: object.uid(),
    };
    Ok(listed.into_iter().map(orphan).collect())
}

async fn uids<K>(runs: &Api<K>) -> kube::Result<Vec<String>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(runs.list_metadata(&ListParams::default()).await?.items.iter().filter_map(ResourceExt::uid).collect())
}
