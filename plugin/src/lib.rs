//! Estiba on Kubernetes.
//!
//! ```text
//!  api (the kinds)   gate, reach (pure)   run: what all runs share ◄── backup, restore ◄── velero   query   schedule
//!                    keeper, cluster, lease, sweep (client)
//!                              controller (ties them together)
//! ```

pub mod api;
pub mod backup;
pub mod cluster;
pub mod controller;
pub mod gate;
pub mod keeper;
pub mod lease;
pub mod query;
pub mod reach;
pub mod restore;
pub mod run;
pub mod schedule;
pub mod sweep;
pub mod velero;
