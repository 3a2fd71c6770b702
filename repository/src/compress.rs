//! zstd in and out: bounded output, and a look first at whether it is worth the time.

use zstd::bulk::{Compressor, Decompressor};

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Nothing is compressed, save what the format wants compressed (index, snapshots).
    Off,
    /// zstd 1.
    Fast,
    /// zstd 3, what stock restic uses too.
    #[default]
    Default,
    /// zstd 12.
    Better,
}

impl Compression {
    fn level(self) -> Option<i32> {
        match self {
            Self::Off => None,
            Self::Fast => Some(1),
            Self::Default => Some(3),
            Self::Better => Some(12),
        }
    }
}

/// Blobs from this size on are sampled before they are compressed.
const PROBE_FROM: usize = 128 << 10;
/// Bytes of each of the three samples.
const PROBE_SAMPLE: usize = 16 << 10;

/// Compresses blobs one after another; one per thread.
pub struct BlobCompressor {
    main: Option<Compressor<'static>>,
    probe: Compressor<'static>,
    probed: Vec<u8>,
}

impl std::fmt::Debug for BlobCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobCompressor(..)")
    }
}

impl BlobCompressor {
    /// A compressor of its own context, to be kept and used again.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let build = |level| Compressor::new(level).expect("a zstd context needs only memory");
        Self { main: compression.level().map(build), probe: build(1), probed: Vec::new() }
    }

    /// Writes the compressed form of `plain` into `out` and returns true; or returns false where that saves nothing.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        if self.main.is_none() || plain.is_empty() || self.looks_random(plain) {
            return false;
        }
        let main = self.main.as_mut().expect("checked above");
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        main.compress_to_buffer(plain, out).is_ok() && out.len() < plain.len()
    }

    /// Three samples that together save less than 3 %: media, archives, ciphertext.
    fn looks_random(&mut self, plain: &[u8]) -> bool {
        if plain.len() < PROBE_FROM {
            return false;
        }
        let last = plain.len() - PROBE_SAMPLE;
        let compressed: usize = [0, last / 2, last]
            .iter()
            .map(|&at| {
                self.probed.clear();
                self.probed.reserve(zstd::zstd_safe::compress_bound(PROBE_SAMPLE));
                self.probe.compress_to_buffer(&plain[at..at + PROBE_SAMPLE], &mut self.probed).unwrap_or(PROBE_SAMPLE)
            })
            .sum();
        compressed * 100 > 3 * PROBE_SAMPLE * 97
    }
}

/// Decompresses blobs of known size; one per thread.
pub struct BlobDecompressor(Decompressor<'static>);

impl std::fmt::Debug for BlobDecompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobDecompressor(..)")
    }
}

impl Default for BlobDecompressor {
    fn default() -> Self {
        Self(Decompressor::new().expect("a zstd context needs only memory"))
    }
}

impl BlobDecompressor {
    /// Writes the plaintext of `compressed` into `out`; never more than `plain_len` bytes are produced.
    ///
    /// # Errors
    /// Not a zstd frame, or one of another length.
    pub fn decompress(&mut self, compressed: &[u8], plain_len: usize, out: &mut Vec<u8>) -> Result<(), String> {
        // An exact length: the frame cannot fill more than was announced, whatever the buffer held before.
        out.resize(plain_len, 0);
        let written = self.0.decompress_to_buffer(compressed, out.as_mut_slice());
        match written {
            Ok(written) if written == plain_len => Ok(()),
            Ok(written) => Err(format!("decompresses to {written} bytes, {plain_len} announced")),
            Err(error) => Err(format!("does not decompress to the {plain_len} bytes announced: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zip_bomb_stops_at_the_announced_length() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let mut out = Vec::new();
        assert!(BlobDecompressor::default().decompress(&bomb, 1000, &mut out).is_err());
        assert!(out.capacity() < 10_000);
    }

    #[test]
    fn random_data_is_left_alone_and_text_is_not() {
        let mut compressor = BlobCompressor::new(Compression::Default);
        let mut out = Vec::new();
        let random: Vec<u8> = (0..20_000_u32).flat_map(|i| crate::crypto::sha256(&i.to_le_bytes())).collect();
        assert!(!compressor.compress(&random, &mut out));
        assert!(!compressor.compress(&random[..1000], &mut out));
        assert!(compressor.compress(&b"all work and no play ".repeat(10_000), &mut out));
    }
}
