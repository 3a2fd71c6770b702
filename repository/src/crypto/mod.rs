//! Password to key (`kdf`), sealing and opening (`seal`), hashing. Shapes from restic's `doc/design.rst`.

pub mod kdf;
mod seal;

pub(crate) use seal::NONCE;
pub use seal::{MasterKey, OVERHEAD, OpenedReader, SealError};
use sha2::{Digest, Sha256};

/// SHA-256 of `bytes`: names every object and every blob.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Fills a buffer from the system's random source.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's random source answers after boot");
    bytes
}
