//! On the real cluster: real API server, kubelets, containerd, CSI sidecars, MinIO; the chart as users install it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod alone;
mod together;
