//! A `VolumeRestore`, from the repository to a claim.
//!
//! ```text
//!  claim (Pending, its dataSourceRef is the run) ─► claim of the same shape in our namespace ─► slot ─► request, pod ─► filled
//!       ─► its volume's claimRef becomes the claim that waits ─► bound
//! ```
//! The claim that waits is never written to: whoever made it sees it Pending until its data is complete.

mod decide;
mod objects;
mod observe;
pub mod origin;

use jiff::Timestamp;

pub use self::decide::decide;
pub use self::observe::Seen;
pub use self::origin::Origin;
use crate::api::{RunStatus, VolumeRestore, VolumeRestoreStatus};
use crate::cluster::GateView;
use crate::gate::Work;
use crate::run::objects::Installation;
use crate::run::{Decision, Run};

impl Run for VolumeRestore {
    type Seen = Seen;

    fn run_status(&self) -> Option<&RunStatus> {
        self.status.as_ref().map(|status| &status.run)
    }

    fn run_status_mut(status: &mut VolumeRestoreStatus) -> &mut RunStatus {
        &mut status.run
    }

    fn work(&self) -> Work {
        Work::Restore
    }

    fn driver(&self) -> Option<&str> {
        Some(self.status.as_ref()?.target.as_ref()?.driver.as_str())
    }

    fn is_cancelled(&self) -> bool {
        self.spec.cancel
    }

    /// Only what is known to be the same can be gone on with.
    fn is_resumable(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.snapshot_id.is_some())
    }

    async fn observe(self, client: &kube::Client, installation: &Installation) -> kube::Result<Seen> {
        observe::observe(client, installation, self).await
    }

    fn decide(seen: &Seen, gate: &GateView, installation: &Installation, now: Timestamp) -> Decision<VolumeRestoreStatus> {
        decide(seen, gate, installation, now)
    }
}
