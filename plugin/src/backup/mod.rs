//! A `VolumeBackup`, from the claim to the snapshot in the repository.
//!
//! ```text
//!  claim ─► snapshot in its namespace ─► the same, in ours ─► backup claim ─► slot ─► request, pod ─► result
//!  claim ─► clone in its namespace ─► its volume given to a backup claim ───► slot ─► request, pod ─► result
//! ```

mod decide;
pub mod objects;
mod observe;

use jiff::Timestamp;

pub use self::decide::decide;
pub use self::observe::{CloneSeen, Seen, SnapshotSeen};
use crate::api::{RunStatus, VolumeBackup, VolumeBackupStatus};
use crate::cluster::GateView;
use crate::gate::Work;
use crate::run::objects::Installation;
use crate::run::{Decision, Run};

impl Run for VolumeBackup {
    type Seen = Seen;

    fn run_status(&self) -> Option<&RunStatus> {
        self.status.as_ref().map(|status| &status.run)
    }

    fn run_status_mut(status: &mut VolumeBackupStatus) -> &mut RunStatus {
        &mut status.run
    }

    fn work(&self) -> Work {
        Work::Backup(self.spec.urgency)
    }

    fn driver(&self) -> Option<&str> {
        Some(self.status.as_ref()?.snapshot.as_ref()?.driver.as_str())
    }

    fn is_cancelled(&self) -> bool {
        self.spec.cancel
    }

    async fn observe(self, client: &kube::Client, installation: &Installation) -> kube::Result<Seen> {
        observe::observe(client, installation, self).await
    }

    fn decide(seen: &Seen, gate: &GateView, installation: &Installation, now: Timestamp) -> Decision<VolumeBackupStatus> {
        decide(seen, gate, installation, now)
    }
}
