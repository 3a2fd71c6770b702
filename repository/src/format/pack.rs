//! A pack: sealed blobs one after another, then their sealed list, then the list's length.
//!
//! ```text
//! blob || .. || blob || sealed(entry || .. || entry) || u32LE length of the sealed list
//!
//! entry, 37 bytes, uncompressed   type u8 (0 data, 1 tree) | stored u32LE |             id [32]
//! entry, 41 bytes, compressed     type u8 (2 data, 3 tree) | stored u32LE | plain u32LE | id [32]
//! ```
//! `stored` includes the seal's 32 bytes. Offsets follow from the order: there are no gaps, no padding, no trailing bytes.

use super::BlobKind;
use crate::crypto::OVERHEAD;
use crate::id::BlobId;

/// Bytes of the length at a pack's end.
pub const TRAILER: usize = 4;
/// The largest sealed list that stock restic reads.
pub const MAX_HEADER: usize = 16 << 20;
const PLAIN_ENTRY: usize = 37;
const COMPRESSED_ENTRY: usize = 41;

/// One blob in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedBlob {
    /// Hash of the plaintext.
    pub id: BlobId,
    /// What it holds.
    pub kind: BlobKind,
    /// Where its sealed bytes begin.
    pub offset: u32,
    /// How many sealed bytes there are.
    pub stored: u32,
    /// Length of the plaintext, if it is compressed.
    pub uncompressed: Option<u32>,
}

impl PackedBlob {
    /// Bytes of plaintext.
    #[must_use]
    pub fn plain_len(&self) -> u32 {
        self.uncompressed.unwrap_or_else(|| self.stored.saturating_sub(OVERHEAD_U32))
    }
}

const OVERHEAD_U32: u32 = 32;
const _: () = assert!(OVERHEAD == OVERHEAD_U32 as usize);

/// Bytes that a pack with these many blobs of either sort adds after its blobs.
#[must_use]
pub fn header_len(blobs: &[PackedBlob]) -> u64 {
    let entries: usize = blobs.iter().map(|blob| if blob.uncompressed.is_some() { COMPRESSED_ENTRY } else { PLAIN_ENTRY }).sum();
    (entries + OVERHEAD + TRAILER) as u64
}

/// The plaintext of a pack's list.
#[must_use]
pub fn encode_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        let kind = match blob.kind {
            BlobKind::Data => 0,
            BlobKind::Tree => 1,
        };
        header.push(kind + if blob.uncompressed.is_some() { 2 } else { 0 });
        header.extend_from_slice(&blob.stored.to_le_bytes());
        if let Some(plain) = blob.uncompressed {
            header.extend_from_slice(&plain.to_le_bytes());
        }
        header.extend_from_slice(&blob.id.0);
    }
    header
}

/// Reads a pack's list; the offsets are computed.
///
/// # Errors
/// An unknown type, a cut entry, blobs shorter than a seal or together beyond 4 GiB; in words.
pub fn decode_header(mut header: &[u8]) -> Result<Vec<PackedBlob>, String> {
    let mut blobs = Vec::with_capacity(header.len() / PLAIN_ENTRY);
    let mut offset = 0_u32;
    while let Some(&tag) = header.first() {
        let (kind, compressed) = match tag {
            0 => (BlobKind::Data, false),
            1 => (BlobKind::Tree, false),
            2 => (BlobKind::Data, true),
            3 => (BlobKind::Tree, true),
            other => return Err(format!("blob type {other} is not known")),
        };
        let length = if compressed { COMPRESSED_ENTRY } else { PLAIN_ENTRY };
        let (entry, rest) = header.split_at_checked(length).ok_or("its last entry is cut")?;
        header = rest;
        let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
        let stored = number(1);
        if stored < OVERHEAD_U32 {
            return Err(format!("a blob of {stored} stored bytes cannot be"));
        }
        let id = BlobId(entry[length - 32..].try_into().expect("32 bytes"));
        blobs.push(PackedBlob { id, kind, offset, stored, uncompressed: compressed.then(|| number(5)) });
        offset = offset.checked_add(stored).ok_or("its blobs are longer than 4 GiB together")?;
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> Vec<PackedBlob> {
        vec![
            PackedBlob { id: BlobId([1; 32]), kind: BlobKind::Data, offset: 0, stored: 100, uncompressed: None },
            PackedBlob { id: BlobId([2; 32]), kind: BlobKind::Tree, offset: 100, stored: 0x0102_0304, uncompressed: Some(5) },
        ]
    }

    #[test]
    fn golden_bytes() {
        let hex = data_encoding::HEXLOWER.encode(&encode_header(&blobs()));
        assert_eq!(hex, format!("0064000000{}030403020105000000{}", "01".repeat(32), "02".repeat(32)));
        assert_eq!(decode_header(&encode_header(&blobs())).unwrap(), blobs());
        assert_eq!(header_len(&blobs()), 37 + 41 + 32 + 4);
    }

    #[test]
    fn malformed_lists_are_refused() {
        let good = encode_header(&blobs());
        for cut in (1..good.len()).filter(|&cut| cut != 37) {
            assert!(decode_header(&good[..cut]).is_err(), "{cut}");
        }
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        assert!(decode_header(&with(0, 4)).is_err());
        assert!(decode_header(&with(1, 31)).is_err());
        let mut huge = with(4, 0xff);
        huge[41] = 0xff;
        assert!(decode_header(&huge).is_err());
    }
}
