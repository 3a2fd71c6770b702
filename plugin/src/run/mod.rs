//! What backups and restores have in common: a claim, a slot, a mover in it, one attempt at a time.
//!
//! ```text
//!  observe ──► Seen ──► decide ──► Decision { status, act } ──► record ──► act ──► (again)
//!  (reads)              (pure)                                  (status)   (one change)
//! ```
//! One pass makes at most one change, and every pass begins with what is there: a controller may be killed between any
//! two of them. What a run makes is named after its uid, so creating it twice is refused by the API server.

mod act;
pub mod decide;
pub mod objects;
pub mod observe;
pub mod pod;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::core::object::HasStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::act::set_reclaim_policy;
pub use self::act::{act, apply_status, delete_uid, gone_is_fine, refusal};
pub use self::decide::{Act, Decision};
use self::objects::Installation;
use self::observe::RunSeen;
use crate::api::RunStatus;
use crate::cluster::GateView;
use crate::gate::Work;

/// A kind of run.
pub trait Run:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasStatus<Status: Serialize + PartialEq + Clone + Send + Sync>
    + Clone
    + DeserializeOwned
    + Serialize
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// What is seen of it.
    type Seen: AsRef<RunSeen> + Send + Sync;

    /// What all runs have in their status.
    fn run_status(&self) -> Option<&RunStatus>;
    /// The same, of a status, to be written.
    fn run_status_mut(status: &mut Self::Status) -> &mut RunStatus;
    /// What it wants a slot for.
    fn work(&self) -> Work;
    /// The driver of the volume that its mover mounts; none before it is known.
    fn driver(&self) -> Option<&str>;
    /// Whether it is to stop.
    fn is_cancelled(&self) -> bool;
    /// Whether what a mover has done in its claim is of use to the next one.
    fn is_resumable(&self) -> bool {
        false
    }
    /// Reads everything that a decision needs.
    fn observe(self, client: &kube::Client, installation: &Installation) -> impl Future<Output = kube::Result<Self::Seen>> + Send;
    /// From what was seen to what to do. Pure.
    fn decide(seen: &Self::Seen, gate: &GateView, installation: &Installation, now: Timestamp) -> Decision<Self::Status>;
}
