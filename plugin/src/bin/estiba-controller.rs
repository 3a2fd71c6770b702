//! `estiba-controller`: makes backups and restores happen, keeps schedules, answers questions. Two of them run, one works.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt};
use plugin::lease::Leader;
use plugin::run::objects::Installation;

#[derive(Debug, Parser)]
#[command(version, about = "Makes backups and restores happen, keeps schedules, answers questions")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work, as soon as no other controller does
    Run(Run),
    /// Take off all finalizers, when no controller works any more: what the chart does last when it is uninstalled
    LetGo {
        /// Estiba's own namespace
        #[arg(long, env = "ESTIBA_NAMESPACE")]
        namespace: String,
    },
    /// Print the custom resource definitions
    Crds,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Estiba's own namespace: movers, keys and copies of snapshots live here
    #[arg(long, env = "ESTIBA_NAMESPACE")]
    namespace: String,
    /// Velero's namespace, if its data is to be moved: its DataUploads and DataDownloads that name `estiba` are done
    #[arg(long, env = "ESTIBA_VELERO_NAMESPACE")]
    velero_namespace: Option<String>,
    /// Image of movers
    #[arg(long, env = "ESTIBA_IMAGE")]
    image: String,
    /// When that image is pulled
    #[arg(long, env = "ESTIBA_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// ServiceAccount of movers; they get no token of it
    #[arg(long, env = "ESTIBA_MOVER_SERVICE_ACCOUNT", default_value = "estiba-mover")]
    mover_service_account: String,
    /// ConfigMap that owns mover pods, so that a drain takes them for managed
    #[arg(long, env = "ESTIBA_OWNER", default_value = "estiba-movers")]
    owner: String,
    /// Name of this cluster in snapshots [default: the first part of the uid of namespace kube-system]
    #[arg(long, env = "ESTIBA_CLUSTER_NAME")]
    cluster_name: Option<String>,
    /// Who this is, among those that want to work
    #[arg(long, env = "POD_NAME", default_value = "estiba-controller")]
    identity: String,
    /// For tests: abort after so many changes
    #[arg(long, hide = true)]
    abort_after: Option<u32>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match Args::parse().command {
        Command::Crds => match crds() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.as_ref()),
        },
        Command::LetGo { namespace } => match let_go(&namespace).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.as_ref()),
        },
        Command::Run(run) => match work(run).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.as_ref()),
        },
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn let_go(namespace: &str) -> Result<(), Box<dyn std::error::Error>> {
    let count = plugin::sweep::let_go(&Client::try_default().await?, namespace).await?;
    println!("{count} objects are let go");
    Ok(())
}

fn crds() -> Result<(), Box<dyn std::error::Error>> {
    for definition in plugin::api::definitions() {
        println!("---\n{}", serde_norway::to_string(&definition)?.trim_end());
    }
    Ok(())
}

async fn work(run: Run) -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    let client = Client::try_default().await?;
    let owner = Api::<ConfigMap>::namespaced(client.clone(), &run.namespace).get(&run.owner).await?;
    let cluster = match run.cluster_name.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => {
            let uid = Api::<Namespace>::all(client.clone()).get("kube-system").await?.uid().unwrap_or_default();
            format!("cluster-{}", uid.split('-').next().unwrap_or_default())
        }
    };
    let installation = Installation {
        namespace: run.namespace.clone(),
        velero: run.velero_namespace.filter(|name| !name.is_empty()),
        image: run.image,
        image_pull_policy: run.image_pull_policy,
        service_account: run.mover_service_account,
        owner: OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name: run.owner,
            uid: owner.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        },
        cluster,
    };
    let leader = Leader::new(&client, &run.namespace, "estiba-controller", &run.identity);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tracing::info!(identity = run.identity, "waiting for the lease");
    tokio::select! {
        () = leader.acquire() => {}
        _ = terminate.recv() => return Ok(()),
    }
    tracing::info!(cluster = installation.cluster, image = installation.image, "working");
    tokio::select! {
        () = plugin::controller::run(client, installation, run.abort_after, async { terminate.recv().await; }) => leader.release().await,
        // What is under way is found again by whoever holds it now.
        () = leader.hold() => return Err("the lease is lost".into()),
    }
    Ok(())
}
