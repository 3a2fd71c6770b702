//! What can be restored: asked of the repository, or, for the shape of a claim, of VolumeBackups.

use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::process::ExitCode;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use plugin::api::repository_query::{FileEntry, FilesQuery, RepositoryQueryStatus, SnapshotEntry};
use plugin::api::run::Phase;
use plugin::api::volume_restore::StoredSource;
use plugin::api::{RepositoryQuery, RepositoryQuerySpec, VolumeBackup};

use crate::restore::point_in_time;
use crate::show::short;
use crate::{Error, changes, repository_or_only};

/// Entries of one answer: as many as fit well into an object.
const PAGE: u32 = 500;

/// What is asked about.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// Only what is not younger than this, for instance 2h or 2026-11-20T12:00:00Z
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// Namespace whose claim it was, if it is another one; the Repository must allow that
    #[arg(long, value_name = "NAME")]
    from_namespace: Option<String>,
    /// Cluster whose claim it was, if it is another one; the Repository must allow that
    #[arg(long, value_name = "NAME")]
    from_cluster: Option<String>,
    /// Where it is stored; may be left out where there is only one Repository
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Of this claim alone
    claim: Option<String>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// The claim whose data it was; it may be gone by now
    claim: String,
    /// A directory or file of the volume
    #[arg(default_value = "/")]
    path: String,
    /// This snapshot, by the first digits of its id [default: the newest]
    #[arg(long, value_name = "ID", conflicts_with = "before")]
    snapshot: Option<String>,
    /// Everything below PATH, not only what is in it
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Modes, owners, sizes and times too
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    source: Source,
}

pub(crate) async fn list(client: &Client, namespace: &str, args: List) -> Result<ExitCode, Error> {
    let spec = query(client, &args.source, args.claim).await?;
    let mut out = std::io::stdout();
    let mut count = 0;
    if !args.source.json {
        writeln!(out, "{:<30} {:<30} {:<10} {:<12} CLUSTER", "TAKEN", "CLAIM", "SNAPSHOT", "SIZE")?;
    }
    ask(
        client,
        namespace,
        spec,
        |answer| {
            count += answer.snapshots.len();
            for SnapshotEntry { id, time, path, cluster, bytes } in &answer.snapshots {
                let claim = path.trim_start_matches('/').split_once('/').map_or(path.as_str(), |(_, claim)| claim);
                let bytes = bytes.map_or_else(|| "?".to_owned(), mebibytes);
                writeln!(out, "{time:<30} {claim:<30} {:<10} {bytes:<12} {cluster}", short(id))?;
            }
            Ok(())
        },
        args.source.json,
    )
    .await?;
    if count == 0 && !args.source.json {
        writeln!(std::io::stdout(), "nothing is stored")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn ls(client: &Client, namespace: &str, args: Ls) -> Result<ExitCode, Error> {
    let mut spec = query(client, &args.source, Some(args.claim)).await?;
    spec.source.snapshot = args.snapshot;
    spec.files = Some(FilesQuery { path: args.path, recursive: args.recursive });
    let mut out = std::io::stdout();
    ask(
        client,
        namespace,
        spec,
        |answer| {
            for FileEntry { path, kind, mode, uid, gid, size, mtime } in &answer.files {
                let end = if kind == "dir" { "/" } else { "" };
                if args.long {
                    writeln!(out, "{kind:<8} {mode} {uid:>6} {gid:>6} {size:>14} {mtime:<36} {path}{end}")?;
                } else {
                    writeln!(out, "{path}{end}")?;
                }
            }
            Ok(())
        },
        args.source.json,
    )
    .await?;
    Ok(ExitCode::SUCCESS)
}

async fn query(client: &Client, source: &Source, claim: Option<String>) -> Result<RepositoryQuerySpec, Error> {
    let before = source.before.as_deref().map(point_in_time).transpose()?;
    let repository = repository_or_only(client, source.repository.clone()).await?;
    let (namespace, cluster) = (source.from_namespace.clone(), source.from_cluster.clone());
    let source = StoredSource { claim, snapshot: None, before: before.map(Time), namespace, cluster };
    Ok(RepositoryQuerySpec { repository, source, files: None, skip: 0, limit: PAGE })
}

/// Page by page; each is an object that is made, answered and removed.
async fn ask(
    client: &Client,
    namespace: &str,
    mut spec: RepositoryQuerySpec,
    mut show: impl FnMut(&RepositoryQueryStatus) -> std::io::Result<()>,
    is_json: bool,
) -> Result<(), Error> {
    let queries = Api::<RepositoryQuery>::namespaced(client.clone(), namespace);
    loop {
        let mut query = RepositoryQuery::new("", spec.clone());
        query.metadata.name = None;
        query.metadata.generate_name = Some("query-".to_owned());
        let created = queries.create(&PostParams::default(), &query).await?;
        let name = created.name_any();
        if spec.files.is_none() && spec.source.before.is_none() {
            // All pages are of what was there when the first one was asked for.
            spec.source.before.clone_from(&created.metadata.creation_timestamp);
        }
        let answer = tokio::select! {
            answer = answer(&queries, &name) => answer,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        };
        // It goes by itself, too, if this does not reach it.
        let _ = queries.delete(&name, &DeleteParams::default()).await;
        let answer = answer?;
        if is_json {
            for line in answer.snapshots.iter().map(serde_json::to_string).chain(answer.files.iter().map(serde_json::to_string)) {
                writeln!(std::io::stdout(), "{}", line?)?;
            }
        } else {
            show(&answer)?;
        }
        let count = answer.snapshots.len() + answer.files.len();
        if !answer.more || count == 0 {
            return Ok(());
        }
        // The next page is of the same snapshot, whatever is stored meanwhile.
        if let (Some(snapshot), true) = (answer.snapshot, spec.files.is_some()) {
            (spec.source.snapshot, spec.source.before) = (Some(snapshot.id), None);
        }
        spec.skip += u32::try_from(count)?;
    }
}

async fn answer(queries: &Api<RepositoryQuery>, name: &str) -> Result<RepositoryQueryStatus, Error> {
    let mut changes = pin!(changes(queries.clone(), name));
    let mut said = String::new();
    while let Some(change) = changes.next().await {
        let status = change?.ok_or("the question was removed before it was answered")?.status.unwrap_or_default();
        match status.phase {
            Phase::Completed => return Ok(status),
            Phase::Failed => return Err(status.message.into()),
            _ if status.message != said && std::io::stderr().is_terminal() => eprintln!("{}", status.message),
            _ => {}
        }
        said = status.message;
    }
    Err("the watch ended".into())
}

/// One that can be restored, as far as VolumeBackups tell.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The point in time that it shows.
    pub(crate) taken: Option<Timestamp>,
    pub(crate) snapshot_id: String,
    pub(crate) backup: VolumeBackup,
}

/// Those of one claim; the newest first.
pub(crate) async fn stored(backups: &Api<VolumeBackup>, claim: &str) -> kube::Result<Vec<Stored>> {
    let all = backups.list(&ListParams::default()).await?.items;
    let of = |backup: VolumeBackup| {
        let status = backup.status.as_ref()?;
        let is_meant = status.run.phase == Phase::Completed && backup.spec.source.claim.as_deref() == Some(claim);
        let result = status.result.as_ref().filter(|_| is_meant)?;
        let taken = status.snapshot.as_ref().and_then(|snapshot| snapshot.taken.as_ref()).map(|taken| taken.0);
        Some(Stored { taken, snapshot_id: result.snapshot_id.clone(), backup })
    };
    let mut found: Vec<Stored> = all.into_iter().filter_map(of).collect();
    found.sort_by_key(|stored| std::cmp::Reverse(stored.taken));
    Ok(found)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
