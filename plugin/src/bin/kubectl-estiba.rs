//! `kubectl estiba`: backups by hand, followed on the terminal.

use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use futures::StreamExt;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};
use plugin::api::volume_backup::{Phase, Source, Urgency};
use plugin::api::{Repository, VolumeBackup, VolumeBackupSpec, VolumeBackupStatus};

#[derive(Debug, Parser)]
#[command(name = "kubectl-estiba", bin_name = "kubectl estiba", version, about = "Backs up the volumes of claims")]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
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
    /// Follow a backup that is there
    Follow {
        /// The VolumeBackup
        name: String,
    },
    /// Show how backups are
    Status {
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let options = KubeConfigOptions { context: args.context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await?;
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let backups = Api::<VolumeBackup>::namespaced(client.clone(), &namespace);
    match args.command {
        Command::Backup { claim, repository, no_follow } => {
            let repository = match repository {
                Some(name) => name,
                None => only_repository(&client).await?,
            };
            let source = Source { claim: Some(claim.clone()), volume_snapshot: None };
            let mut backup = VolumeBackup::new("", VolumeBackupSpec { repository, source, urgency: Urgency::Manual, cancel: false });
            // The claim's name may be as long as a name can be, and more follows.
            backup.metadata.name = None;
            backup.metadata.generate_name = Some(format!("{}-", claim.chars().take(200).collect::<String>()));
            let name = backups.create(&PostParams::default(), &backup).await?.name_any();
            println!("volumebackup/{name} created in namespace {namespace}");
            if no_follow { Ok(ExitCode::SUCCESS) } else { follow(backups, &name).await }
        }
        Command::Follow { name } => follow(backups, &name).await,
        Command::Status { all_namespaces } => {
            let from = if all_namespaces { Api::all(client) } else { backups };
            status(&from).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn only_repository(client: &Client) -> Result<String, Box<dyn std::error::Error>> {
    let repositories = Api::<Repository>::all(client.clone()).list(&ListParams::default()).await?.items;
    match repositories.as_slice() {
        [one] => Ok(one.name_any()),
        [] => Err("there is no Repository: make one first".into()),
        several => {
            let names: Vec<String> = several.iter().map(ResourceExt::name_any).collect();
            Err(format!("there are several Repositories ({}): say --repository", names.join(", ")).into())
        }
    }
}

/// Prints what changes; on a terminal progress stays in its line.
async fn follow(backups: Api<VolumeBackup>, name: &str) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut changes = pin!(watcher::watch_object(backups, name));
    let mut last = String::new();
    while let Some(change) = changes.next().await {
        // The watch goes on by itself: an API server that is away for a while is no end.
        let Ok(change) = change else { continue };
        let Some(backup) = change else { return Err(format!("volumebackup/{name} is gone").into()) };
        let status = backup.status.unwrap_or_default();
        let text = line(&status);
        if text != last {
            let was_progress = is_terminal && last.contains('%') && text.contains('%');
            let mut out = std::io::stdout().lock();
            let start = if was_progress { "\x1b[1A\x1b[2K" } else { "" };
            writeln!(out, "{start}{text}")?;
            last = text;
        }
        if status.phase.is_end() {
            if let Some(tail) = &status.log_tail {
                eprintln!("the mover's last words:\n{tail}");
            }
            return Ok(if status.phase == Phase::Completed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Err("the watch ended".into())
}

fn line(status: &VolumeBackupStatus) -> String {
    let node = status.attempt.as_ref().map(|attempt| format!(" on {}", attempt.node)).unwrap_or_default();
    let said = match (&status.progress, &status.result) {
        (_, Some(result)) => format!("snapshot {}, {}", result.snapshot_id.chars().take(8).collect::<String>(), status.message),
        (Some(progress), None) => {
            let eta = progress.eta.as_ref().map(|eta| format!(", {eta} left")).unwrap_or_default();
            format!("{}{eta}", progress.shown)
        }
        (None, None) => status.message.clone(),
    };
    format!("{:<18}{said}{node}", format!("{:?}", status.phase))
}

async fn status(backups: &Api<VolumeBackup>) -> kube::Result<()> {
    let mut all = backups.list(&ListParams::default()).await?.items;
    all.sort_by_key(|backup| backup.metadata.creation_timestamp.as_ref().map(|time| time.0));
    if all.is_empty() {
        println!("no backups");
    }
    for backup in all {
        let name = format!("{}/{}", backup.namespace().unwrap_or_default(), backup.name_any());
        println!("{name:<40} {}", line(&backup.status.unwrap_or_default()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin::api::volume_backup::{Attempt, BackupResult, Progress};

    #[test]
    fn a_line_says_what_it_is_about() {
        let mut status =
            VolumeBackupStatus { phase: Phase::Prepared, message: "place 1 of 2: a runs 1 of 1".to_owned(), ..Default::default() };
        assert_eq!(line(&status), "Prepared          place 1 of 2: a runs 1 of 1");
        status.phase = Phase::InProgress;
        status.attempt = Some(Attempt { number: 1, node: "a".to_owned(), slot: 1 });
        status.progress = Some(Progress { shown: "42 %, 9.0 MiB/s".to_owned(), eta: Some("3m20s".to_owned()), ..Progress::default() });
        assert_eq!(line(&status), "InProgress        42 %, 9.0 MiB/s, 3m20s left on a");
        status.phase = Phase::Completed;
        status.message = "the data is in the repository".to_owned();
        status.result = Some(BackupResult { snapshot_id: "0123456789".to_owned(), ..BackupResult::default() });
        assert_eq!(line(&status), "Completed         snapshot 01234567, the data is in the repository on a");
    }
}
