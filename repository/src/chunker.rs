//! Cuts a stream into chunks at places its content decides (FastCDC, 512 KiB / 1 MiB / 8 MiB).
//!
//! The gear table is derived from the repository's `chunker_polynomial`, so every mover cuts alike and a copy made with
//! restic's `--copy-chunker-params` keeps its deduplication. Boundaries are pinned by a golden test: other boundaries would
//! store everything once more.

use std::io::{self, Read};

use hkdf::Hkdf;
use sha2::Sha256;

use crate::format::polynomial::Polynomial;

/// No chunk is shorter, save the last one of a file.
pub const MIN: usize = 512 << 10;
/// Chunks are about this long. A power of two: fastcdc's mask follows from it.
const AVERAGE: usize = 1 << 20;
/// No chunk is longer.
pub const MAX: usize = 8 << 20;
/// Look-ahead: a full chunk, and as much again, so that the rest is moved once per chunk at most.
const BUFFER: usize = 2 * MAX;
const GROW_BY: usize = 256 << 10;

/// The table that decides where chunks end, for one repository.
pub struct GearTable {
    gear: Vec<u64>,
    /// `gear` shifted left by one: fastcdc rolls two bytes a step.
    gear_ls: Vec<u64>,
    mask_s: u64,
    mask_l: u64,
}

impl std::fmt::Debug for GearTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GearTable(..)")
    }
}

impl GearTable {
    /// HKDF-SHA256 of the polynomial, big endian, with the info `estiba fastcdc gear v1`; 256 little-endian numbers.
    #[must_use]
    pub fn derive(polynomial: Polynomial) -> Self {
        let mut bytes = [0; 2048];
        Hkdf::<Sha256>::new(None, &polynomial.0.to_be_bytes())
            .expand(b"estiba fastcdc gear v1", &mut bytes)
            .expect("2048 bytes are fewer than 255 hashes");
        let gear: Vec<u64> = bytes.chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().expect("eight bytes"))).collect();
        let gear_ls = gear.iter().map(|number| number << 1).collect();
        let (mask_s, mask_l) = fastcdc::v2020::select_masks(AVERAGE, fastcdc::v2020::Normalization::Level1);
        Self { gear, gear_ls, mask_s, mask_l }
    }

    /// Length of the chunk at the start of `bytes`, which hold at least `MAX` bytes or all that is left.
    fn cut(&self, bytes: &[u8]) -> usize {
        let (s, l) = (self.mask_s, self.mask_l);
        fastcdc::v2020::cut_gear(bytes, MIN, AVERAGE, MAX, s, l, s << 1, l << 1, &self.gear, &self.gear_ls).1
    }
}

/// Cuts one stream after another; keeps its buffer.
#[derive(Debug)]
pub struct Chunker<'a> {
    table: &'a GearTable,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl<'a> Chunker<'a> {
    /// A chunker with an empty buffer; memory is touched only as far as streams are long.
    #[must_use]
    pub fn new(table: &'a GearTable) -> Self {
        Self { table, buffer: Vec::new(), from: 0, to: 0 }
    }

    /// Forgets what is left of a stream that was not read to its end.
    pub fn reset(&mut self) {
        self.from = 0;
        self.to = 0;
    }

    /// The next chunk, or `None` at the end of the stream. `read` must be the same stream until then.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn next_chunk(&mut self, read: &mut dyn Read) -> io::Result<Option<&[u8]>> {
        self.fill(read)?;
        if self.from == self.to {
            self.reset();
            return Ok(None);
        }
        let start = self.from;
        self.from += self.table.cut(&self.buffer[start..self.to]);
        Ok(Some(&self.buffer[start..self.from]))
    }

    /// Reads until a longest chunk is there, or the stream ends.
    fn fill(&mut self, read: &mut dyn Read) -> io::Result<()> {
        if self.to - self.from >= MAX {
            return Ok(());
        }
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        while self.to < BUFFER {
            // Grows with the stream: small files touch little memory.
            if self.to == self.buffer.len() {
                self.buffer.resize((self.to + GROW_BY).min(BUFFER), 0);
            }
            match read.read(&mut self.buffer[self.to..]) {
                Ok(0) => break,
                Ok(read) => self.to += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(&mut next).flatten().take(length).collect()
    }

    fn lengths(table: &GearTable, mut bytes: &[u8]) -> Vec<usize> {
        let mut chunker = Chunker::new(table);
        let mut lengths = Vec::new();
        while let Some(chunk) = chunker.next_chunk(&mut bytes).unwrap() {
            lengths.push(chunk.len());
        }
        lengths
    }

    fn table() -> GearTable {
        GearTable::derive(Polynomial(0x003d_a335_8b4d_c173))
    }

    /// Must never change: other boundaries store all data once more.
    #[test]
    fn golden_boundaries() {
        let golden = crate::crypto::sha256(format!("{:?}", lengths(&table(), &stream(40 << 20))).as_bytes());
        assert_eq!(lengths(&table(), &stream(3 << 20)), GOLDEN_3_MIB);
        assert_eq!(data_encoding::HEXLOWER.encode(&golden), GOLDEN_40_MIB);
    }
    const GOLDEN_3_MIB: [usize; 3] = [1_299_573, 1_409_818, 436_337];
    const GOLDEN_40_MIB: &str = "900fa6aa05e0707b36188a6de8d4a9ba61853ee0633f66bdbd2a842566764938";

    #[test]
    fn chunks_are_the_stream_and_within_bounds() {
        let bytes = stream(20 << 20);
        let table = table();
        let mut chunker = Chunker::new(&table);
        let (mut joined, mut read) = (Vec::new(), &bytes[..]);
        while let Some(chunk) = chunker.next_chunk(&mut read).unwrap() {
            assert!(chunk.len() <= MAX);
            joined.extend_from_slice(chunk);
        }
        assert!(joined == bytes);
        let all = lengths(&table, &bytes);
        assert!(all[..all.len() - 1].iter().all(|&length| length >= MIN));
    }

    #[test]
    fn boundaries_do_not_depend_on_how_the_stream_arrives() {
        struct Dribble<'a>(&'a [u8], usize);
        impl Read for Dribble<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1 * 7 % 100_003 + 1;
                let length = self.1.min(into.len()).min(self.0.len());
                into[..length].copy_from_slice(&self.0[..length]);
                self.0 = &self.0[length..];
                Ok(length)
            }
        }
        let bytes = stream(12 << 20);
        let table = table();
        let mut chunker = Chunker::new(&table);
        let mut dribbled = Vec::new();
        let mut read = Dribble(&bytes, 1);
        while let Some(chunk) = chunker.next_chunk(&mut read).unwrap() {
            dribbled.push(chunk.len());
        }
        assert_eq!(dribbled, lengths(&table, &bytes));
    }

    #[test]
    fn an_insertion_moves_few_boundaries() {
        let mut bytes = stream(20 << 20);
        let before = lengths(&table(), &bytes);
        bytes.splice(100..100, *b"inserted");
        let after = lengths(&table(), &bytes);
        assert_eq!(before[before.len() / 2..], after[after.len() - (before.len() - before.len() / 2)..]);
    }
}
