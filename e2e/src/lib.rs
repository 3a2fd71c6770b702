//! What the end-to-end tests share: the programs under test, trees to back up, servers to back up to.
//!
//! Servers and tools come from `tools/setup.sh`; a test whose tool is missing fails and says so. Everything listens on
//! loopback and ends with the test that started it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, clippy::must_use_candidate)]

pub mod cluster;
pub mod grants;
pub mod minio;
pub mod place;
pub mod program;
pub mod proxy;
pub mod tree;

/// Waits for a condition, at most 30 seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen within 30 s");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
