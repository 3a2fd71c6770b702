//! Volumes and snapshots, kept in a folder so that the driver may be killed at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tonic::Status;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) bytes: i64,
    pub(crate) is_block: bool,
    /// The only node that can reach it.
    pub(crate) local_to: Option<String>,
    pub(crate) published: BTreeMap<String, bool>,
    /// Where it is mounted.
    #[serde(default)]
    pub(crate) targets: BTreeSet<String>,
    /// Loop devices, by node.
    pub(crate) devices: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) volume: String,
    pub(crate) bytes: i64,
    pub(crate) is_block: bool,
    pub(crate) created: SystemTime,
    pub(crate) ready: SystemTime,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) last_id: u64,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
}

/// What an operation meets: so many seconds, then this error if it says one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fault {
    seconds: f64,
    error: Option<String>,
}

/// What all services share. One operation at a time changes the state.
#[derive(Debug)]
pub(crate) struct Shared {
    folder: PathBuf,
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) attach_limit: i64,
    pub(crate) state: Mutex<State>,
}

impl Shared {
    pub(crate) fn open(folder: &Path, nodes: BTreeSet<String>, attach_limit: i64) -> std::io::Result<Self> {
        for name in ["volumes", "snapshots", "faults"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let state = match std::fs::read(folder.join("state.json")) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { folder: folder.to_owned(), nodes, attach_limit, state: Mutex::new(state) })
    }

    pub(crate) fn save(&self, state: &State) -> Result<(), Status> {
        let part = self.folder.join("state.json.part");
        let json = serde_json::to_vec_pretty(state).map_err(internal)?;
        std::fs::write(&part, json).and_then(|()| std::fs::rename(&part, self.folder.join("state.json"))).map_err(internal)
    }

    /// Meets the fault that was asked for, if any, as long as it lasts.
    pub(crate) async fn meet(&self, operation: &str) -> Result<(), Status> {
        let Some(fault) = self.fault(operation) else { return Ok(()) };
        let until = Instant::now() + Duration::from_secs_f64(fault.seconds);
        while Instant::now() < until {
            if self.fault(operation).is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        fault.error.map_or(Ok(()), |error| Err(Status::internal(error)))
    }

    /// How long a snapshot takes until it can be used.
    pub(crate) fn snapshot_delay(&self) -> Duration {
        self.fault("SnapshotReady").map_or(Duration::ZERO, |fault| Duration::from_secs_f64(fault.seconds))
    }

    fn fault(&self, operation: &str) -> Option<Fault> {
        let json = std::fs::read(self.folder.join("faults").join(operation)).ok()?;
        Some(serde_json::from_slice(&json).unwrap_or_default())
    }

    pub(crate) fn volume(&self, id: &str) -> PathBuf {
        self.folder.join("volumes").join(id)
    }

    pub(crate) fn snapshot(&self, id: &str) -> PathBuf {
        self.folder.join("snapshots").join(id)
    }
}

/// Copies a volume or snapshot, holes kept.
pub(crate) async fn copy(from: &Path, to: &Path) -> Result<(), Status> {
    run("cp", &["-a", "--sparse=always", "--reflink=auto", &format!("{}/.", from.display()), &to.display().to_string()]).await.map(drop)
}

/// Runs a system program and returns what it prints.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<String, Status> {
    let output = tokio::process::Command::new(program).args(args).output().await.map_err(internal)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(internal(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

pub(crate) fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("no {what} was given"))
}
