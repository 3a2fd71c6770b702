//! A CSI driver for tests, in one process: the controller, a node service for each simulated node, and kubelet's plugin
//! registration for each.
//!
//! Volumes are directories, or sparse files behind loop devices. Snapshots and clones are copies. A volume is published
//! to one node at a time and cannot be deleted meanwhile. A file `faults/OPERATION` in the state folder makes that
//! operation slow or lets it fail.
#![allow(clippy::unwrap_used)]

mod controller;
mod identity;
mod node;
mod registration;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// What the protocol's files make.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub, missing_docs)]
mod proto {
    pub mod csi {
        tonic::include_proto!("csi.v1");
    }
    pub mod registration {
        tonic::include_proto!("pluginregistration");
    }
}

/// The driver's name.
pub(crate) const DRIVER: &str = "csi.estiba.test";
/// Topology key of nodes.
pub(crate) const TOPOLOGY: &str = "topology.csi.estiba.test/node";

#[derive(Debug, Parser)]
struct Args {
    /// Where volumes, snapshots and faults are kept.
    #[arg(long)]
    state: PathBuf,
    /// Socket of the controller, and of the first node for csi-sanity.
    #[arg(long)]
    endpoint: PathBuf,
    /// NAME=FOLDER: a node and its kubelet's root folder.
    #[arg(long = "node")]
    nodes: Vec<String>,
    /// Volumes that a node can attach at once; 0: any number.
    #[arg(long, default_value_t = 0)]
    attach_limit: i64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let nodes: Vec<(String, PathBuf)> = args
        .nodes
        .iter()
        .map(|node| node.split_once('=').map(|(name, root)| (name.to_owned(), PathBuf::from(root))).ok_or("--node NAME=FOLDER"))
        .collect::<Result<_, _>>()?;
    let names = nodes.iter().map(|(name, _)| name.clone()).collect();
    let shared = Arc::new(state::Shared::open(&args.state, names, args.attach_limit)?);
    let mut servers = tokio::task::JoinSet::new();
    let first = nodes.first().map_or_else(|| "node".to_owned(), |(name, _)| name.clone());
    servers.spawn(
        Server::builder()
            .add_service(proto::csi::identity_server::IdentityServer::new(identity::Identity))
            .add_service(proto::csi::controller_server::ControllerServer::new(controller::Controller(shared.clone())))
            .add_service(proto::csi::node_server::NodeServer::new(node::Node { shared: shared.clone(), name: first }))
            .serve_with_incoming(listen(&args.endpoint)?),
    );
    for (name, root) in nodes {
        let socket = root.join("plugins").join(DRIVER).join("csi.sock");
        let registration = root.join("plugins_registry").join(format!("{DRIVER}-reg.sock"));
        servers.spawn(
            Server::builder()
                .add_service(proto::csi::identity_server::IdentityServer::new(identity::Identity))
                .add_service(proto::csi::node_server::NodeServer::new(node::Node { shared: shared.clone(), name }))
                .serve_with_incoming(listen(&socket)?),
        );
        clear(&registration)?;
        registration::serve(&registration, socket)?;
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = servers.join_next() => ended.map_or(Ok(()), |ended| Ok(ended??)),
    }
}

fn listen(socket: &Path) -> std::io::Result<UnixListenerStream> {
    clear(socket)?;
    Ok(UnixListenerStream::new(UnixListener::bind(socket)?))
}

/// Makes room for a socket.
fn clear(socket: &Path) -> std::io::Result<()> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
