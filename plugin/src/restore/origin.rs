//! Where the data of a restore comes from, and whether its namespace may have it. Client required.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::run::{Phase, Reason};
use crate::api::volume_restore::StoredSource;
use crate::api::{Repository, VolumeBackup};
use crate::backup::objects::{namespace_tag, path};
use crate::run::objects::Installation;
use crate::run::observe::{Reader, RunSeen, contains};

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

impl Origin {
    /// What keeps a mover to it; the point in time only where no snapshot is named.
    #[must_use]
    pub fn filters(&self, is_named: bool) -> Vec<String> {
        let before = self.before.filter(|_| !is_named).map(|time| time.to_string());
        let path = Some(self.path.clone()).filter(|path| !path.is_empty());
        let all = [("--path", &path), ("--tag", &self.tag), ("--host", &self.host), ("--before", &before)];
        all.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value.clone()?])).flatten().collect()
    }
}

/// What was asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// By Velero's adapter, which may have all.
    pub is_of_velero: bool,
    /// What a VolumeBackup of that name stored.
    pub backup: Option<&'a str>,
    /// Or this.
    pub source: &'a StoredSource,
    /// When.
    pub began: Option<&'a Time>,
    /// Path and snapshot of a VolumeBackup that was seen before.
    pub known: Option<(String, String)>,
}

/// Where the data comes from, or why it cannot be had.
///
/// # Errors
/// Those of the API server.
pub async fn find(reader: &Reader<'_>, installation: &Installation, run: &mut RunSeen, asked: &Asked<'_>) -> kube::Result<Origin> {
    let mut origin = Origin::default();
    let Some(repository) = run.repository.clone() else { return Ok(origin) };
    let (own, source) = (reader.namespace().to_owned(), asked.source);
    let from = source.namespace.clone().unwrap_or_else(|| own.clone());
    if asked.is_of_velero {
        // Velero reads what is told to it by a backup, of whichever namespace and cluster that was.
        of_source(&mut origin, &from, asked, installation);
        return Ok(origin);
    }
    if from != own && !is_allowed(&repository, &from, run) {
        let name = repository.name_any();
        run.lacks(
            Reason::NamespaceNotAllowed,
            format!("Repository {name} does not let namespace {own} read what {from} stored: see its spec.restores.allow"),
        );
        return Ok(origin);
    }
    if source.cluster.as_ref().is_some_and(|cluster| *cluster != installation.cluster) && !repository.spec.restores.by_name {
        let name = repository.name_any();
        run.lacks(
            Reason::NamespaceNotAllowed,
            format!("Repository {name} does not let a namespace read what another cluster stored: see its spec.restores.byName"),
        );
        return Ok(origin);
    }
    if !repository.spec.restores.by_name {
        let uid = if from == own {
            Some(run.namespace_uid())
        } else {
            reader.all::<Namespace>().get_opt(&from).await?.and_then(|namespace| namespace.uid())
        };
        let Some(uid) = uid else {
            run.lacks(
                Reason::NamespaceNotAllowed,
                format!(
                    "there is no namespace {from}, so nobody can tell whether it stored that: see spec.restores.byName of the Repository"
                ),
            );
            return Ok(origin);
        };
        origin.tag = Some(namespace_tag(&uid));
    }
    match asked.backup {
        Some(backup) => of_backup(reader, run, &mut origin, asked, backup).await?,
        None => of_source(&mut origin, &from, asked, installation),
    }
    Ok(origin)
}

fn is_allowed(repository: &Repository, from: &str, run: &RunSeen) -> bool {
    let Some(own) = &run.namespace else { return false };
    repository.spec.restores.allow.iter().any(|rule| rule.from == from && contains(&rule.into, own))
}

async fn of_backup(reader: &Reader<'_>, run: &mut RunSeen, origin: &mut Origin, asked: &Asked<'_>, name: &str) -> kube::Result<()> {
    let namespace = reader.namespace();
    if let Some((path, id)) = asked.known.clone().filter(|(path, _)| path.starts_with(&format!("/{namespace}/"))) {
        // Seen once, it may go.
        (origin.path, origin.snapshot_id) = (path, Some(id));
        return Ok(());
    }
    let Some(backup) = reader.theirs::<VolumeBackup>().get_opt(name).await? else {
        run.lacks(Reason::BackupMissing, format!("there is no VolumeBackup {name}"));
        return Ok(());
    };
    if run.repository.as_ref().and_then(|repository| repository.metadata.name.as_ref()) != Some(&backup.spec.repository) {
        let message = format!("VolumeBackup {name} stored into Repository {}: name that one", backup.spec.repository);
        run.lacks(Reason::BackupMissing, message);
        return Ok(());
    }
    let status = backup.status.unwrap_or_default();
    match status.result {
        Some(result) if status.run.phase == Phase::Completed => {
            origin.path = path(namespace, &backup.spec.source);
            origin.snapshot_id = Some(result.snapshot_id);
        }
        _ if status.run.phase.is_end() => {
            run.lacks(Reason::BackupMissing, format!("VolumeBackup {name} ended without a snapshot: {}", status.run.message));
        }
        _ => run.lacks(Reason::BackupNotDone, format!("VolumeBackup {name} is not done yet")),
    }
    Ok(())
}

fn of_source(origin: &mut Origin, from: &str, asked: &Asked<'_>, installation: &Installation) {
    let source = asked.source;
    origin.path = source.claim.as_ref().map(|claim| format!("/{from}/{claim}")).unwrap_or_default();
    origin.snapshot_id.clone_from(&source.snapshot);
    origin.host.clone_from(&source.cluster);
    if source.snapshot.is_none() {
        origin.host.get_or_insert_with(|| installation.cluster.clone());
    }
    // The same for every mover of the run, whatever is stored meanwhile.
    origin.before = source.before.as_ref().or(asked.began).map(|time| time.0);
}
