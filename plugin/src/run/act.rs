//! Makes one change. Done twice, it is done once. Client required.

use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Run;
use super::decide::Act;
use super::objects::{Installation, SELECTED_NODE};
use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::{NOT_FOR_VELERO, RUN_FINALIZER, RUN_LABEL};
use crate::velero::DYNAMIC_VOLUME;

/// Who writes statuses.
const MANAGER: &str = "estiba-controller";

/// Makes the change.
///
/// # Errors
/// Those of the API server, save those that say it was done before.
pub async fn act<K: Run>(client: &kube::Client, installation: &Installation, run: &K, act: Act) -> kube::Result<()> {
    let uid = run.uid().unwrap_or_default();
    let namespace = run.namespace().unwrap_or_default();
    let runs: Api<K> = Api::namespaced(client.clone(), &namespace);
    let ours = &installation.namespace;
    match act {
        Act::AddFinalizer => set_finalizers(&runs, run, [run.finalizers(), &[RUN_FINALIZER.to_owned()]].concat()).await,
        Act::RemoveFinalizer => {
            let left = run.finalizers().iter().filter(|finalizer| *finalizer != RUN_FINALIZER).cloned().collect();
            set_finalizers(&runs, run, left).await
        }
        Act::CreateSnapshot(snapshot) => {
            let namespace = snapshot.namespace().unwrap_or_default();
            create(&Api::<VolumeSnapshot>::namespaced(client.clone(), &namespace), &snapshot).await
        }
        Act::CreateContent(content) => create(&Api::<VolumeSnapshotContent>::all(client.clone()), &content).await,
        Act::SetDeletionPolicy { content, policy } => {
            let patch = Patch::Merge(json!({"spec": {"deletionPolicy": policy}}));
            let contents = Api::<VolumeSnapshotContent>::all(client.clone());
            gone_is_fine(contents.patch(&content, &PatchParams::default(), &patch).await.map(drop))
        }
        Act::DeleteSnapshot(snapshot) => {
            let namespace = snapshot.namespace().unwrap_or_default();
            delete(&Api::<VolumeSnapshot>::namespaced(client.clone(), &namespace), &snapshot).await
        }
        Act::DeleteContent(content) => delete(&Api::<VolumeSnapshotContent>::all(client.clone()), &content).await,
        Act::CreateClaim(claim) => create(&claims(client, &claim), &claim).await,
        Act::SelectNode(claim, node) => {
            let patch = json!({"metadata": {"uid": claim.uid(), "annotations": {SELECTED_NODE: node}}});
            let patched = claims(client, &claim).patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
            gone_is_fine(patched.map(drop))
        }
        Act::GiveUpVolume(volume) => set_reclaim_policy(client, &volume, "Delete").await,
        Act::KeepVolume(volume) => set_reclaim_policy(client, &volume, "Retain").await,
        Act::Rebind(volume, claim) => {
            let owner = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(), "name": claim.name_any(),
                "uid": claim.uid(), "resourceVersion": null});
            let spec = claim.spec.unwrap_or_default();
            // What the claim asks for, the volume is from now on: it was filled as one that can be written. Of labels only
            // Velero's own: others may mean something to nodes, or to drivers.
            let mut labels = spec.selector.and_then(|selector| selector.match_labels).unwrap_or_default();
            labels.retain(|key, _| key == DYNAMIC_VOLUME);
            let access_modes = spec.access_modes.unwrap_or_default();
            patch_volume(client, &volume, labels, json!({"claimRef": owner, "accessModes": access_modes})).await
        }
        Act::DeleteClaim(claim) => delete(&claims(client, &claim), &claim).await,
        Act::CreateRequest(request) => create(&Api::<Secret>::namespaced(client.clone(), ours), &request).await,
        // Taken is an answer too: the next pass sees whose it is.
        Act::CreatePod(pod) => create(&Api::<Pod>::namespaced(client.clone(), ours), &pod).await,
        Act::Fence => fence(client, installation, &uid).await,
    }
}

fn claims(client: &kube::Client, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
    Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default())
}

/// No pod of the run can start from now on, and those that have are told to end: their slots stay taken until they have.
async fn fence(client: &kube::Client, installation: &Installation, uid: &str) -> kube::Result<()> {
    delete_all_of::<Secret>(client, installation, uid).await?;
    delete_all_of::<Pod>(client, installation, uid).await
}

async fn delete_all_of<K>(client: &kube::Client, installation: &Installation, uid: &str) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let objects = Api::<K>::namespaced(client.clone(), &installation.namespace);
    let of_run = ListParams::default().labels(&format!("{RUN_LABEL}={uid}"));
    for object in objects.list_metadata(&of_run).await?.items {
        if object.metadata.deletion_timestamp.is_none() {
            delete_uid(&objects, &object.name_any(), object.uid()).await?;
        }
    }
    Ok(())
}

/// Writes a status on top of exactly what was seen.
///
/// # Errors
/// Those of the API server; a conflict, if somebody wrote in between.
pub async fn apply_status<K>(objects: &Api<K>, object: &K, status: &impl Serialize) -> kube::Result<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"resourceVersion": object.meta().resource_version},
        "status": status,
    });
    objects.patch_status(&object.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await
}

/// What becomes of a volume without its claim: `Delete` or `Retain`. Exactly the one that was seen, or nothing is changed.
pub(crate) async fn set_reclaim_policy(client: &kube::Client, volume: &PersistentVolume, policy: &str) -> kube::Result<()> {
    patch_volume(client, volume, BTreeMap::new(), json!({"persistentVolumeReclaimPolicy": policy})).await
}

async fn patch_volume(
    client: &kube::Client,
    volume: &PersistentVolume,
    labels: BTreeMap<String, String>,
    spec: serde_json::Value,
) -> kube::Result<()> {
    let metadata = json!({"uid": volume.uid(), "resourceVersion": volume.resource_version(), "labels": labels});
    let patch = json!({"metadata": metadata, "spec": spec});
    let volumes = Api::<PersistentVolume>::all(client.clone());
    gone_is_fine(volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
}

async fn set_finalizers<K: Run>(runs: &Api<K>, run: &K, finalizers: Vec<String>) -> kube::Result<()> {
    let (key, value) = NOT_FOR_VELERO;
    let patch = json!({"metadata": {"resourceVersion": run.resource_version(), "labels": {key: value}, "finalizers": finalizers}});
    gone_is_fine(runs.patch(&run.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
}

async fn create<K>(api: &Api<K>, object: &K) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

async fn delete<K>(api: &Api<K>, object: &K) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    delete_uid(api, &object.meta().name.clone().unwrap_or_default(), object.meta().uid.clone()).await
}

/// This very object, not another one that has its name by now.
///
/// # Errors
/// Those of the API server, save that it is gone.
pub async fn delete_uid<K>(api: &Api<K>, name: &str, uid: Option<String>) -> kube::Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let parameters = DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::background() };
    gone_is_fine(api.delete(name, &parameters).await.map(drop))
}

/// The words of a quota, an admission rule, a field's rule: for whoever asked, who alone can do something about it.
#[must_use]
pub fn refusal(error: &kube::Error) -> Option<&str> {
    match error {
        kube::Error::Api(status) if status.is_forbidden() || status.is_invalid() => Some(&status.message),
        _ => None,
    }
}

/// An object that is gone already, or another one by now, needs no change.
///
/// # Errors
/// All others.
pub fn gone_is_fine(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other,
    }
}
