//! One look at a DataUpload or DataDownload: read, decide, record, act. Client required.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::api::{Backup, DataDownload, DataUpload, Restore, TransferPhase, TransferStatus};
use super::transfer::{Act, Seen, Transfer, decide, end};
use super::{DATA_MOVER, SECRET, repository_name};
use crate::api::repository::{Namespaces, Repository, RepositorySpec, VeleroLocation};
use crate::run::objects::SELECTED_NODE;
use crate::run::{gone_is_fine, refusal};

/// As long as a restore makes objects.
const RESTORING: &str = "InProgress";
/// After something that the API server will not have.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// After somebody wrote in between.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);

/// What is read for one kind beside it and its run.
pub trait Read: Transfer<Job: Clone + DeserializeOwned + std::fmt::Debug> + Serialize + DeserializeOwned + std::fmt::Debug {
    /// Why it cannot begin yet.
    fn waits_for(&self, client: &Client, job: &Self::Job) -> impl Future<Output = kube::Result<Option<String>>> + Send;
}

impl Read for DataUpload {
    async fn waits_for(&self, _: &Client, _: &Backup) -> kube::Result<Option<String>> {
        Ok(None)
    }
}

impl Read for DataDownload {
    /// A volume that goes where its consumer is, is not made before Velero has brought back what may consume it.
    async fn waits_for(&self, client: &Client, restore: &Restore) -> kube::Result<Option<String>> {
        if restore.status.as_ref().is_none_or(|status| status.phase != RESTORING) {
            return Ok(None);
        }
        let target = &self.spec.target_volume;
        let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &target.namespace);
        let Some(claim) = claims.get_opt(&target.pvc).await? else {
            return Ok(Some(format!("claim {} in namespace {} is being made", target.pvc, target.namespace)));
        };
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
        let class = Api::<StorageClass>::all(client.clone()).get_opt(&class).await?;
        let binds_late = class.and_then(|class| class.volume_binding_mode).as_deref() == Some("WaitForFirstConsumer");
        let is_waiting = binds_late && !claim.annotations().contains_key(SELECTED_NODE);
        Ok(is_waiting.then(|| format!("whoever uses claim {} is being brought back: its volume goes where that is", target.pvc)))
    }
}

/// Looks at one; the answer is when to look again.
///
/// # Errors
/// Those of the API server.
pub async fn reconcile<T: Read>(client: &Client, name: &str, namespace: &str) -> kube::Result<Option<Duration>> {
    let (transfers, runs) = (Api::<T>::namespaced(client.clone(), namespace), Api::<T::Run>::namespaced(client.clone(), namespace));
    loop {
        let Some(transfer) = transfers.get_opt(name).await? else { return Ok(None) };
        let before = transfer.transfer_status();
        if transfer.data_mover() != DATA_MOVER || before.phase.is_end() || transfer.meta().deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut seen = Seen { run: runs.get_opt(name).await?, job: None, waits_for: None, transfer };
        if seen.run.is_none() && before.phase.is_new() {
            seen.job = job(client, &seen.transfer).await?;
            if let Some(job) = &seen.job {
                seen.waits_for = seen.transfer.waits_for(client, job).await?;
            }
        }
        let decision = decide(&seen, Timestamp::now());
        if decision.status != before && !record(&transfers, &seen.transfer, &decision.status).await? {
            return Ok(Some(CONFLICT_RETRY));
        }
        let acted = match decision.act {
            None => return Ok(decision.again),
            Some(Act::Create(run)) => {
                tracing::info!(kind = %T::kind(&()), name, "a run is made for it");
                create(client, namespace, &seen.transfer, &runs, &run).await
            }
            Some(Act::Cancel) => {
                let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
                gone_is_fine(runs.patch(name, &PatchParams::default(), &patch).await.map(drop))
            }
        };
        if let Err(error) = acted {
            let Some(message) = refusal(&error) else { return Err(error) };
            let mut status = decision.status;
            if seen.transfer.is_cancelled() {
                end(&mut status, TransferPhase::Canceled, message, Timestamp::now());
            } else if status.phase.is_new() {
                status.phase = TransferPhase::New;
            }
            message.clone_into(&mut status.message);
            if status != before {
                record(&transfers, &seen.transfer, &status).await?;
            }
            return Ok(Some(REFUSED_RETRY));
        }
    }
}

/// The Backup or Restore that it was made for.
async fn job<T: Read>(client: &Client, transfer: &T) -> kube::Result<Option<T::Job>> {
    let kind = T::Job::kind(&());
    let Some(owner) = transfer.owner_references().iter().find(|owner| owner.kind == kind) else { return Ok(None) };
    let jobs = Api::<T::Job>::namespaced(client.clone(), &transfer.namespace().unwrap_or_default());
    Ok(jobs.get_opt(&owner.name).await?.filter(|job| job.meta().uid.as_ref() == Some(&owner.uid)))
}

async fn create<T: Read>(client: &Client, namespace: &str, transfer: &T, runs: &Api<T::Run>, run: &T::Run) -> kube::Result<()> {
    let name = repository_name(transfer.location());
    let repositories = Api::<Repository>::all(client.clone());
    if repositories.get_opt(&name).await?.is_none() {
        // Made once; whoever changes it means it.
        let spec = RepositorySpec {
            s3: None,
            velero: Some(VeleroLocation { backup_storage_location: transfer.location().to_owned() }),
            secret: SECRET.to_owned(),
            initialize: crate::api::repository::Initialize::default(),
            namespaces: Namespaces { names: Some(vec![namespace.to_owned()]), selector: None },
            object_lock: None,
            restores: crate::api::repository::Restores::default(),
        };
        is_there(repositories.create(&PostParams::default(), &Repository::new(&name, spec)).await.map(drop))?;
    }
    is_there(runs.create(&PostParams::default(), run).await.map(drop))
}

/// Somebody was faster.
fn is_there(created: kube::Result<()>) -> kube::Result<()> {
    match created {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other,
    }
}

/// On top of exactly what was seen; there is no subresource for it. False: somebody wrote in between.
async fn record<T: Read>(transfers: &Api<T>, transfer: &T, status: &TransferStatus) -> kube::Result<bool> {
    let patch = json!({"metadata": {"uid": transfer.meta().uid, "resourceVersion": transfer.meta().resource_version}, "status": status});
    match transfers.patch(&transfer.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
        other => other.map(|_| true),
    }
}
