//! Makes one change. Done twice, it is done once. Client required.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::decide::Act;
use super::objects::{self, Installation, SELECTED_NODE};
use crate::api::external::{VolumeSnapshot, VolumeSnapshotContent};
use crate::api::volume_backup::VolumeBackup;
use crate::api::{RUN_FINALIZER, RUN_LABEL};
use crate::cluster::gone_is_fine;

/// Makes the change.
///
/// # Errors
/// Those of the API server, save those that say it was done before.
pub async fn act(client: &kube::Client, installation: &Installation, backup: &VolumeBackup, act: Act) -> kube::Result<()> {
    let uid = backup.uid().unwrap_or_default();
    let namespace = backup.namespace().unwrap_or_default();
    let backups: Api<VolumeBackup> = Api::namespaced(client.clone(), &namespace);
    let ours = &installation.namespace;
    match act {
        Act::AddFinalizer => set_finalizers(&backups, backup, [backup.finalizers(), &[RUN_FINALIZER.to_owned()]].concat()).await,
        Act::RemoveFinalizer => {
            let left = backup.finalizers().iter().filter(|finalizer| *finalizer != RUN_FINALIZER).cloned().collect();
            set_finalizers(&backups, backup, left).await
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
        Act::CreateClaim(claim) => create(&Api::<PersistentVolumeClaim>::namespaced(client.clone(), ours), &claim).await,
        Act::SelectNode(node) => {
            let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}}));
            let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), ours);
            gone_is_fine(claims.patch(&objects::name(&uid), &PatchParams::default(), &patch).await.map(drop))
        }
        Act::DeleteClaim(claim) => delete(&Api::<PersistentVolumeClaim>::namespaced(client.clone(), ours), &claim).await,
        Act::CreateRequest(request) => create(&Api::<Secret>::namespaced(client.clone(), ours), &request).await,
        // Taken is an answer too: the next pass sees whose it is.
        Act::CreatePod(pod) => create(&Api::<Pod>::namespaced(client.clone(), ours), &pod).await,
        Act::Fence => fence(client, installation, &uid).await,
    }
}

/// No pod of the run can start from now on.
async fn fence(client: &kube::Client, installation: &Installation, uid: &str) -> kube::Result<()> {
    let secrets = Api::<Secret>::namespaced(client.clone(), &installation.namespace);
    let of_run = ListParams::default().labels(&format!("{RUN_LABEL}={uid}"));
    for secret in secrets.list_metadata(&of_run).await?.items {
        gone_is_fine(secrets.delete(&secret.name_any(), &DeleteParams::default()).await.map(drop))?;
    }
    Ok(())
}

async fn set_finalizers(backups: &Api<VolumeBackup>, backup: &VolumeBackup, finalizers: Vec<String>) -> kube::Result<()> {
    let patch = json!({"metadata": {"resourceVersion": backup.resource_version(), "finalizers": finalizers}});
    gone_is_fine(backups.patch(&backup.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
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

/// This very object, not another one that has its name by now.
async fn delete<K>(api: &Api<K>, object: &K) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Preconditions { uid: object.meta().uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    gone_is_fine(api.delete(&object.meta().name.clone().unwrap_or_default(), &parameters).await.map(drop))
}
