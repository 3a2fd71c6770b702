//! Saves what can be saved: first of packs, then the index says again what is there, then snapshots do without what is lost.

pub mod index;
pub mod packs;
pub mod snapshots;

/// Whether anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is.
    Look,
    /// What is wrong is put right. The caller holds the lock that it takes.
    Apply,
}
