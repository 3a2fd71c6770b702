//! What can be restored, as far as VolumeBackups tell.

use std::process::ExitCode;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use plugin::api::VolumeBackup;
use plugin::api::run::Phase;

use crate::Error;
use crate::show::short;

/// One that can be restored.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The point in time that it shows.
    pub(crate) taken: Option<Timestamp>,
    pub(crate) claim: String,
    pub(crate) snapshot_id: String,
    pub(crate) backup: VolumeBackup,
}

/// Those of one claim, or of all; the newest first.
pub(crate) async fn stored(backups: &Api<VolumeBackup>, claim: Option<&str>) -> kube::Result<Vec<Stored>> {
    let all = backups.list(&ListParams::default()).await?.items;
    let of = |backup: VolumeBackup| {
        let status = backup.status.as_ref()?;
        let source = &backup.spec.source;
        let snapshot = || source.volume_snapshot.as_ref().map(|name| format!("volumesnapshots/{name}"));
        let name = source.claim.clone().or_else(snapshot)?;
        let is_meant = status.run.phase == Phase::Completed && claim.is_none_or(|claim| claim == name);
        let result = status.result.as_ref().filter(|_| is_meant)?;
        let taken = status.snapshot.as_ref().and_then(|snapshot| snapshot.taken.as_ref()).map(|taken| taken.0);
        Some(Stored { taken, claim: name, snapshot_id: result.snapshot_id.clone(), backup })
    };
    let mut found: Vec<Stored> = all.into_iter().filter_map(of).collect();
    found.sort_by_key(|stored| std::cmp::Reverse(stored.taken));
    Ok(found)
}

pub(crate) async fn run(backups: &Api<VolumeBackup>, claim: Option<&str>) -> Result<ExitCode, Error> {
    let found = stored(backups, claim).await?;
    if found.is_empty() {
        println!("no backups");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<22} {:<30} {:<10} {:<12} {:<20} BACKUP", "TAKEN", "CLAIM", "SNAPSHOT", "SIZE", "REPOSITORY");
    for Stored { taken, claim, snapshot_id, backup } in found {
        let taken = taken.map_or_else(|| "?".to_owned(), |taken| taken.to_string());
        let bytes = backup.status.as_ref().and_then(|status| status.result.as_ref()?.bytes).map_or_else(|| "?".to_owned(), mebibytes);
        let (repository, name) = (&backup.spec.repository, backup.name_any());
        println!("{taken:<22} {claim:<30} {:<10} {bytes:<12} {repository:<20} {name}", short(&snapshot_id));
    }
    Ok(ExitCode::SUCCESS)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
