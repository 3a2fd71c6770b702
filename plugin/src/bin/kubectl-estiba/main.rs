//! `kubectl estiba`: backups and restores by hand, followed on the terminal.

mod list;
mod restore;
mod show;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use futures::{Stream, StreamExt};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use plugin::api::volume_backup::{Source, Urgency};
use plugin::api::{BackupSchedule, Repository, VolumeBackup, VolumeBackupSpec, VolumeRestore};
use serde::de::DeserializeOwned;
use serde_json::json;

/// What went wrong, in words.
type Error = Box<dyn std::error::Error>;

/// So much of a claim's name is in the names of its runs: it may be as long as a name can be, and more follows.
const MAX_NAME_PART: usize = 200;

#[derive(Debug, Parser)]
#[command(
    name = "kubectl-estiba",
    bin_name = "kubectl estiba",
    version,
    about = "Backs up the volumes of claims, and restores them",
    after_help = "Examples:\n  kubectl estiba backup -n shop data\n  kubectl estiba list -n shop\n  kubectl estiba ls -n shop data /orders -l\n  kubectl estiba restore -n shop data --to data-restored --before 2h"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// User to act as, where that is allowed
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Back up a claim, and follow it to its end; Ctrl-C only stops following
    Backup {
        /// The PersistentVolumeClaim
        claim: String,
        /// Where to; may be left out where there is only one Repository
        #[arg(long, value_name = "NAME")]
        repository: Option<String>,
        /// Do not wait for the end
        #[arg(long)]
        no_follow: bool,
    },
    /// Restore what was stored of a claim into a new claim, and follow it to its end; Ctrl-C only stops following
    Restore(restore::Args),
    /// Follow a backup or restore that is there
    Follow {
        /// Its name, or volumebackup/NAME, or volumerestore/NAME
        run: String,
    },
    /// Show how backups and restores are
    Status {
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Run a schedule now, also one that is suspended
    Run {
        /// The BackupSchedule
        schedule: String,
    },
    /// Show what runs have left behind that are gone; --namespace is Estiba's own
    Sweep {
        /// Remove it
        #[arg(long)]
        delete: bool,
    },
    /// List what the repository has of this namespace's claims, newest first
    List(list::List),
    /// List the files of what was stored of a claim, without restoring it
    Ls(list::Ls),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        // Whoever reads has had enough.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<ExitCode, Error> {
    let options = KubeConfigOptions { context: args.context, ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await?;
    config.auth_info.impersonate = args.impersonate.or(config.auth_info.impersonate);
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let backups = Api::<VolumeBackup>::namespaced(client.clone(), &namespace);
    let restores = Api::<VolumeRestore>::namespaced(client.clone(), &namespace);
    match args.command {
        Command::Backup { claim, repository, no_follow } => {
            let repository = repository_or_only(&client, repository).await?;
            let source = Source { claim: Some(claim.clone()), ..Source::default() };
            let mut backup = VolumeBackup::new("", VolumeBackupSpec { repository, source, urgency: Urgency::Manual, cancel: false });
            backup.metadata.name = None;
            backup.metadata.generate_name = Some(name_part(&claim));
            let name = backups.create(&PostParams::default(), &backup).await?.name_any();
            println!("volumebackup/{name} created in namespace {namespace}");
            if no_follow { Ok(ExitCode::SUCCESS) } else { show::follow(backups, &name).await }
        }
        Command::Restore(args) => restore::run(&client, &namespace, args).await,
        Command::Follow { run } => match run.split_once('/') {
            Some(("volumebackup" | "vb", name)) => show::follow(backups, name).await,
            Some(("volumerestore" | "vr", name)) => show::follow(restores, name).await,
            Some((kind, _)) => Err(format!("{kind} is nothing to follow: volumebackup/NAME or volumerestore/NAME is").into()),
            None if backups.get_opt(&run).await?.is_some() => show::follow(backups, &run).await,
            None => show::follow(restores, &run).await,
        },
        Command::Status { all_namespaces } => {
            let (backups, restores) = if all_namespaces { (Api::all(client.clone()), Api::all(client)) } else { (backups, restores) };
            show::status(&backups, &restores).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { schedule } => {
            let trigger = json!({"spec": {"trigger": jiff::Timestamp::now().to_string()}});
            let schedules = Api::<BackupSchedule>::namespaced(client, &namespace);
            schedules.patch(&schedule, &PatchParams::default(), &Patch::Merge(trigger)).await?;
            println!("backupschedule/{schedule} in namespace {namespace} runs now: kubectl estiba status shows how");
            Ok(ExitCode::SUCCESS)
        }
        Command::Sweep { delete } => sweep(&client, &namespace, delete).await,
        Command::List(args) => list::list(&client, &namespace, args).await,
        Command::Ls(args) => list::ls(&client, &namespace, args).await,
    }
}

async fn sweep(client: &Client, namespace: &str, delete: bool) -> Result<ExitCode, Error> {
    let orphans = plugin::sweep::orphans(client, namespace).await?;
    for orphan in &orphans {
        let place = orphan.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        println!("{} {place}{} of run {}", orphan.kind, orphan.name, orphan.run);
        if delete {
            plugin::sweep::remove(client, orphan).await?;
        }
    }
    match (orphans.len(), delete) {
        (0, _) => println!("nothing is left behind"),
        (count, false) => println!("{count} objects are left behind; --delete removes them"),
        (count, true) => println!("{count} objects removed"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The beginning of the name of a claim's run.
fn name_part(claim: &str) -> String {
    format!("{}-", claim.chars().take(MAX_NAME_PART).collect::<String>())
}

/// What becomes of an object: none where it is gone. It ends only with a refusal.
fn changes<K>(objects: Api<K>, name: &str) -> impl Stream<Item = Result<Option<K>, Error>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher::watch_object(objects, name).default_backoff().filter_map(|change| async {
        match change {
            Ok(change) => Some(Ok(change)),
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.is_forbidden() => Some(Err(status.message.into())),
            // The watch goes on by itself: an API server that is away for a while is no end.
            Err(_) => None,
        }
    })
}

async fn repository_or_only(client: &Client, named: Option<String>) -> Result<String, Error> {
    if let Some(name) = named {
        return Ok(name);
    }
    let repositories = match Api::<Repository>::all(client.clone()).list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => return Err("you may not list Repositories: say --repository".into()),
        listed => listed?.items,
    };
    match repositories.as_slice() {
        [one] => Ok(one.name_any()),
        [] => Err("there is no Repository: make one first".into()),
        several => {
            let names: Vec<String> = several.iter().map(ResourceExt::name_any).collect();
            Err(format!("there are several Repositories ({}): say --repository", names.join(", ")).into())
        }
    }
}
