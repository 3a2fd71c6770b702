//! A `BackupSchedule`: which claims are due, and the VolumeBackups that are made for them.
//!
//! A run's name is made of schedule, claim and time, so making it twice is refused by the API server.

mod decide;
mod times;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

pub use self::decide::{Decision, SCHEDULE_LABEL, decide};
use crate::api::{BackupSchedule, VolumeBackup};
use crate::run::{apply_status, delete_uid, refusal};

/// Looks at one schedule; the answer is when to look again.
///
/// # Errors
/// Those of the API server.
pub async fn reconcile(client: &Client, name: &str, namespace: &str) -> kube::Result<Option<Duration>> {
    let schedules = Api::<BackupSchedule>::namespaced(client.clone(), namespace);
    let Some(schedule) = schedules.get_opt(name).await?.filter(|schedule| schedule.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let of_schedule = ListParams::default().labels(&format!("{SCHEDULE_LABEL}={}", schedule.uid().unwrap_or_default()));
    let runs = Api::<VolumeBackup>::namespaced(client.clone(), namespace);
    let known = runs.list(&of_schedule).await?.items;
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?.items;
    let mut decision = decide(&schedule, &claims, &known, Timestamp::now());
    for run in decision.delete {
        delete_uid(&runs, &run.name_any(), run.uid()).await?;
    }
    for run in decision.create {
        match runs.create(&PostParams::default(), &run).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => match refusal(&error) {
                // The others have their turn all the same.
                Some(refusal) => decision.status.message = format!("a run was refused: {refusal}"),
                None => return Err(error),
            },
            Ok(_) => {}
        }
    }
    // Only after its runs are made is a time done with.
    if schedule.status.as_ref() != Some(&decision.status) {
        apply_status(&schedules, &schedule, &decision.status).await?;
    }
    Ok(Some(decision.again))
}
