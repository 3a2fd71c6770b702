//! Plaintext to sealed blob, and back once more before it leaves.

use std::io::Read;

use super::Verify;
use crate::compress::{BlobCompressor, BlobDecompressor, Compression};
use crate::crypto::{MasterKey, sha256};
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::id::BlobId;

/// One per thread: contexts and buffers that are used again.
#[derive(Debug)]
pub struct Sealer {
    key: MasterKey,
    compressor: BlobCompressor,
    decompressor: BlobDecompressor,
    verify: Verify,
    compressed: Vec<u8>,
    sealed: Vec<u8>,
    opened: Vec<u8>,
    plain_again: Vec<u8>,
}

/// A blob ready for a pack.
#[derive(Debug)]
pub(super) struct Sealed<'a> {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    pub(super) bytes: &'a [u8],
    /// Length of the plaintext if it is compressed.
    pub(super) uncompressed: Option<u32>,
}

impl Sealer {
    pub(super) fn new(key: MasterKey, compression: Compression, verify: Verify) -> Self {
        Self {
            key,
            compressor: BlobCompressor::new(compression),
            decompressor: BlobDecompressor::default(),
            verify,
            compressed: Vec::new(),
            sealed: Vec::new(),
            opened: Vec::new(),
            plain_again: Vec::new(),
        }
    }

    pub(super) fn seal(&mut self, kind: BlobKind, id: BlobId, plain: &[u8]) -> Result<Sealed<'_>> {
        let length = u32::try_from(plain.len())
            .map_err(|_| Error::Refused(format!("a blob of {} bytes is beyond the format's 4 GiB", plain.len())))?;
        let is_compressed = self.compressor.compress(plain, &mut self.compressed);
        let payload = if is_compressed { &self.compressed } else { plain };
        self.sealed.clear();
        self.key.seal(payload, &mut self.sealed);
        self.verified(kind, id, is_compressed.then_some(length))
    }

    /// What is compressed already.
    pub(super) fn seal_compressed(&mut self, kind: BlobKind, id: BlobId, compressed: &[u8], uncompressed: u32) -> Result<Sealed<'_>> {
        self.sealed.clear();
        self.key.seal(compressed, &mut self.sealed);
        self.verified(kind, id, Some(uncompressed))
    }

    fn verified(&mut self, kind: BlobKind, id: BlobId, uncompressed: Option<u32>) -> Result<Sealed<'_>> {
        if self.verify == Verify::Sealed && !self.opens_to(id, uncompressed) {
            return Err(Error::FaultyMachine { id });
        }
        Ok(Sealed { id, kind, bytes: &self.sealed, uncompressed })
    }

    /// Opens a copy of what was sealed and hashes it: bad memory must not become a bad backup.
    fn opens_to(&mut self, id: BlobId, uncompressed: Option<u32>) -> bool {
        self.opened.clear();
        self.opened.extend_from_slice(&self.sealed);
        let Ok(payload) = self.key.open(&mut self.opened) else { return false };
        let Some(length) = uncompressed else { return sha256(payload) == id.0 };
        let decompressed = self.decompressor.decompress(payload, length as usize, &mut self.plain_again);
        decompressed.is_ok() && sha256(&self.plain_again) == id.0
    }
}

/// Bytes of a stream that are held at once.
const PART: usize = 64 << 10;

/// Whether a sealed zstd stream opens to a blob, without holding the plaintext.
pub(crate) fn stream_opens_to(key: &MasterKey, sealed: &[u8], id: BlobId, length: u64) -> bool {
    use sha2::{Digest, Sha256};
    let Ok(opened) = key.open_reader(sealed) else { return false };
    let Ok(decoder) = zstd::stream::read::Decoder::new(opened) else { return false };
    let mut limited = decoder.take(length + 1);
    let (mut hasher, mut part, mut total) = (Sha256::new(), vec![0; PART], 0);
    loop {
        match limited.read(&mut part) {
            Ok(0) => return total == length && <[u8; 32]>::from(hasher.finalize()) == id.0,
            Ok(read) => {
                hasher.update(&part[..read]);
                total += read as u64;
            }
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_does_not_match_its_id_never_leaves() {
        let mut sealer = Sealer::new(MasterKey::generate(), Compression::Default, Verify::Sealed);
        for plain in [&b"short"[..], &vec![b'a'; 100_000]] {
            assert!(sealer.seal(BlobKind::Data, BlobId(sha256(plain)), plain).is_ok());
            // As if memory had changed between hashing and sealing.
            let error = sealer.seal(BlobKind::Data, BlobId(sha256(b"other")), plain).unwrap_err();
            assert!(matches!(error, Error::FaultyMachine { .. }));
        }
        let mut trusting = Sealer::new(MasterKey::generate(), Compression::Default, Verify::Nothing);
        assert!(trusting.seal(BlobKind::Data, BlobId([0; 32]), b"short").is_ok());
    }
}
