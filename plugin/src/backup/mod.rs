//! A `VolumeBackup`, from the claim to the snapshot in the repository.
//!
//! ```text
//!  observe ──► Seen ──► decide ──► Decision { status, act } ──► record ──► act ──► (again)
//!  (reads)              (pure)                                  (status)   (one change)
//!
//!  claim ─► snapshot in its namespace ─► the same, in ours ─► backup claim ─► slot ─► request, pod ─► result
//! ```
//! One pass makes at most one change, and every pass begins with what is there: a controller may be killed between any
//! two of them. What a run makes is named after its uid, so creating it twice is refused by the API server.

mod act;
mod decide;
pub mod objects;
mod observe;

pub use self::act::act;
pub use self::decide::{Act, Decision, decide};
pub use self::observe::{Missing, MoverSaid, PodSeen, Seen, SnapshotSeen, SourceVolume, observe};
