//! A model of who keeps whom out of a repository, and of pruning beside writers: every order of steps of a few sessions, with a crash
//! after any of them, is looked at, and in every state that is reached each visible snapshot must restore.
//!
//! One of the configurations is the exclusive lock alone; the others are the prune that needs no moment without writers. `docs/maintenance.md`
//! says what is built, and where it differs. Each rule can be left out, and then something must be found to be lost: a rule without which
//! nothing is lost would be no rule.
//!
//! One step is one request to the store, which is strongly consistent. A session may stop for ever after any step, and its lock is taken
//! away then; sessions of ours may also be paused and wake up after that. A guarded request (`repository/src/store/guard.rs`) is one step:
//! that the store refuses what was signed too long ago is assumed here, and time is not modelled. One blob is shared by all; each writer has
//! one more of its own. Damage, trees and their marking, and how long things take are not in it.

mod config;
mod explore;
mod pruner;
mod reader;
mod session;
mod state;
mod stock;
mod suites;
mod tagger;
mod writer;

pub use config::{Config, Role, Rule};
pub use explore::{Outcome, can_always_finish, exhaust, shortest};
pub use suites::{SMALL, finishing, mutations, protocol};
