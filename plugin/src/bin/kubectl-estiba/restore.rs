//! `kubectl estiba restore`: a VolumeRestore, and the claim that it fills. The claim is made with the rights of whoever asks.

use std::collections::BTreeMap;
use std::process::ExitCode;

use jiff::{Timestamp, Zoned};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedObjectReference, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};
use plugin::api::volume_restore::{RestoreSource, StoredSource};
use plugin::api::{GROUP, VolumeBackup, VolumeRestore, VolumeRestoreSpec};

use crate::list::{self, Stored};
use crate::show::{follow, short};
use crate::{Error, name_part, repository_or_only};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The claim whose data it was; it may be gone by now
    claim: String,
    /// Name of the new claim
    #[arg(long, value_name = "CLAIM")]
    to: String,
    /// The newest that is not younger than this, for instance 2h or 2026-11-20T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    before: Option<String>,
    /// This snapshot of the repository, by the first digits of its id
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
    /// Namespace whose claim it was, if it is another one; the Repository must allow that
    #[arg(long, value_name = "NAME")]
    from_namespace: Option<String>,
    /// Cluster whose claim it was, if it is another one; the Repository must allow that
    #[arg(long, value_name = "NAME")]
    from_cluster: Option<String>,
    /// StorageClass of the new claim [default: as it was]
    #[arg(long, value_name = "NAME")]
    storage_class: Option<String>,
    /// Size of the new claim, for instance 20Gi [default: as it was]
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Where from; may be left out where there is only one Repository
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Take what could be restored, when some items could not
    #[arg(long)]
    accept_incomplete: bool,
    /// Say what would be made, and let the API server check it; make nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    no_follow: bool,
}

pub(crate) async fn run(client: &Client, namespace: &str, args: Args) -> Result<ExitCode, Error> {
    let repository = repository_or_only(client, args.repository.clone()).await?;
    let before = args.before.as_deref().map(point_in_time).transpose()?;
    let from = args.from_namespace.as_deref().unwrap_or(namespace);
    let known = list::stored(&Api::<VolumeBackup>::namespaced(client.clone(), from), &args.claim).await?;
    let shape = shape(client, from, &args, &known).await?;
    let parameters = PostParams { dry_run: args.dry_run, ..PostParams::default() };
    let restores = Api::<VolumeRestore>::namespaced(client.clone(), namespace);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    if claims.get_opt(&args.to).await?.is_some() {
        return Err(format!("there is a claim {} already: a restore fills a new one", args.to).into());
    }
    let stored = StoredSource {
        claim: Some(args.claim.clone()),
        snapshot: args.snapshot.clone(),
        before: before.map(Time),
        namespace: args.from_namespace.clone(),
        cluster: args.from_cluster.clone(),
    };
    let source = RestoreSource { backup: None, stored };
    let mut restore = VolumeRestore::new(
        "",
        VolumeRestoreSpec {
            repository,
            source,
            claim: args.to.clone(),
            claim_namespace: None,
            accept_incomplete: args.accept_incomplete,
            cancel: false,
        },
    );
    restore.metadata.name = None;
    restore.metadata.generate_name = Some(name_part(&args.to));
    let name = restores.create(&parameters, &restore).await?.name_any();
    let claim = claim(&args.to, &name, shape);
    if let Err(error) = claims.create(&parameters, &claim).await {
        if !args.dry_run {
            restores.delete(&name, &DeleteParams::default()).await?;
        }
        return Err(format!("the claim {} cannot be made: {error}", args.to).into());
    }
    let spec = claim.spec.unwrap_or_default();
    let size = spec.resources.and_then(|resources| resources.requests?.get("storage").cloned()).map(|size| size.0).unwrap_or_default();
    let class = spec.storage_class_name.unwrap_or_else(|| "the default".to_owned());
    let what = match &args.snapshot {
        Some(id) => format!("snapshot {id} of {from}/{}", args.claim),
        None => format!("the newest of {from}/{}{}", args.claim, before.map(|time| format!(" until {time}")).unwrap_or_default()),
    };
    if args.dry_run {
        println!("would restore {what} into the new claim {} ({size}, StorageClass {class})", args.to);
        let meant = known.iter().find(|stored| before.is_none_or(|before| stored.taken.is_some_and(|taken| taken <= before)));
        if let (Some(stored), None) = (meant, &args.snapshot) {
            let taken = stored.taken.map(|taken| taken.to_string()).unwrap_or_default();
            println!(
                "VolumeBackups know of snapshot {}, taken {taken}; the repository may know of a newer one",
                short(&stored.snapshot_id)
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("volumerestore/{name} created in namespace {namespace}: {what} into the new claim {} ({size}, StorageClass {class})", args.to);
    if args.no_follow {
        return Ok(ExitCode::SUCCESS);
    }
    let code = follow(restores, &name).await?;
    if code != ExitCode::SUCCESS {
        let (to, name) = (&args.to, &name);
        eprintln!(
            " hint: claim {to} waits for its data; to try again, delete both: kubectl delete -n {namespace} volumerestore/{name} pvc/{to}"
        );
    }
    Ok(code)
}

/// `2h`, or a time.
pub(crate) fn point_in_time(text: &str) -> Result<Timestamp, Error> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let span: jiff::Span =
        text.parse().map_err(|_| format!("{text:?} is neither a time (2026-11-20T12:00:00Z) nor how long ago (2h, 3d)"))?;
    Ok(Zoned::now().checked_sub(span)?.timestamp())
}

/// What the new claim is like: as the old one is, or as its newest backup says it was; and as it is asked for.
async fn shape(client: &Client, namespace: &str, args: &Args, known: &[Stored]) -> Result<PersistentVolumeClaimSpec, Error> {
    let old = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).get_opt(&args.claim).await?.and_then(|claim| claim.spec);
    let seen = known.first().and_then(|stored| stored.backup.status.as_ref()?.snapshot.clone());
    let mut shape = match (old, seen) {
        (Some(old), _) => PersistentVolumeClaimSpec {
            access_modes: old.access_modes,
            resources: old.resources,
            storage_class_name: old.storage_class_name,
            volume_mode: old.volume_mode,
            volume_attributes_class_name: old.volume_attributes_class_name,
            ..PersistentVolumeClaimSpec::default()
        },
        (None, Some(seen)) => PersistentVolumeClaimSpec {
            resources: Some(requests(&seen.bytes.to_string())),
            storage_class_name: seen.storage_class,
            volume_mode: Some(seen.volume_mode),
            ..PersistentVolumeClaimSpec::default()
        },
        (None, None) if args.size.is_some() => PersistentVolumeClaimSpec::default(),
        (None, None) => {
            let claim = &args.claim;
            return Err(format!(
                "nothing here knows how large {namespace}/{claim} was: say --size, and --storage-class if it is not the default"
            )
            .into());
        }
    };
    shape.access_modes.get_or_insert_with(|| vec!["ReadWriteOnce".to_owned()]);
    if let Some(size) = &args.size {
        shape.resources = Some(requests(size));
    }
    if args.storage_class.is_some() && args.storage_class != shape.storage_class_name {
        shape.storage_class_name.clone_from(&args.storage_class);
        // It is the other class's.
        shape.volume_attributes_class_name = None;
    }
    Ok(shape)
}

fn requests(size: &str) -> VolumeResourceRequirements {
    let requests: BTreeMap<_, _> = [("storage".to_owned(), Quantity(size.to_owned()))].into();
    VolumeResourceRequirements { requests: Some(requests), limits: None }
}

/// It stays Pending until the run has filled it.
fn claim(name: &str, restore: &str, shape: PersistentVolumeClaimSpec) -> PersistentVolumeClaim {
    let source = TypedObjectReference {
        api_group: Some(GROUP.to_owned()),
        kind: "VolumeRestore".to_owned(),
        name: restore.to_owned(),
        namespace: None,
    };
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec { data_source_ref: Some(source), ..shape }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        assert_eq!(point_in_time("2026-11-20T12:00:00Z").unwrap().to_string(), "2026-11-20T12:00:00Z");
        let ago = Timestamp::now().duration_since(point_in_time("2h").unwrap()).as_secs();
        assert!((7195..7205).contains(&ago), "{ago}");
        let ago = Timestamp::now().duration_since(point_in_time("3d").unwrap()).as_secs();
        assert!((3 * 86400 - 7200..3 * 86400 + 7200).contains(&ago), "{ago}");
        assert!(point_in_time("yesterday").unwrap_err().to_string().contains("neither"));
    }
}
