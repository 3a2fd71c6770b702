//! What the end-to-end tests share: the programs under test, trees to back up, servers to back up to.
//!
//! Servers and tools come from `tools/setup.sh`; a test whose tool is missing fails and says so. Everything listens on
//! loopback and ends with the test that started it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, clippy::must_use_candidate)]

pub mod cluster;
pub mod dice;
pub mod grants;
pub mod minio;
pub mod place;
pub mod program;
pub mod proxy;
pub mod scene;
pub mod tree;
pub mod velero;

use std::time::{Duration, Instant};

/// Waits for a condition of this machine.
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    within(Duration::from_secs(30), Duration::from_millis(20), what, is_so);
}

/// Waits for a condition, and looks whether it holds after each pause.
pub fn within(patience: Duration, pause: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        std::thread::sleep(pause);
    }
}
