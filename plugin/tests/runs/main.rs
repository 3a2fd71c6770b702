//! The state machines of runs against small worlds.
#![allow(clippy::unwrap_used, clippy::panic)]

mod backup;
mod backup_world;
mod common;
mod restore;
