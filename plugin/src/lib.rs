//! Estiba on Kubernetes.
//!
//! ```text
//!  api (the kinds)   gate, reach, backup::decide (pure)   backup::observe, backup::act, keeper, cluster, lease (client)
//!                              controller (ties them together)
//! ```

pub mod api;
pub mod backup;
pub mod cluster;
pub mod controller;
pub mod gate;
pub mod keeper;
pub mod lease;
pub mod reach;
