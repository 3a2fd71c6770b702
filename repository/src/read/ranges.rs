//! Which parts of a pack to fetch for the blobs wanted of it. Pure.

use std::ops::Range;

/// A part of a pack: one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRange {
    /// First byte.
    pub offset: u32,
    /// Number of bytes.
    pub length: u32,
    /// Which of the wanted blobs lie in it.
    pub blobs: Range<usize>,
}

/// A gap up to this size is fetched and thrown away: cheaper than another request.
const MAX_GAP: u32 = 256 << 10;

/// Merges wanted blobs, given as (offset, length) by ascending offset, into ranges of at most `max_bytes`; a blob longer
/// than that is a range of its own.
#[must_use]
pub fn merge(wanted: &[(u32, u32)], max_bytes: u32) -> Vec<PackRange> {
    let mut ranges: Vec<PackRange> = Vec::new();
    for (i, &(offset, length)) in wanted.iter().enumerate() {
        let end = offset.saturating_add(length);
        if let Some(last) = ranges.last_mut() {
            let last_end = last.offset + last.length;
            if offset <= last_end.saturating_add(MAX_GAP) && end.saturating_sub(last.offset) <= max_bytes {
                last.length = last.length.max(end - last.offset);
                last.blobs.end = i + 1;
                continue;
            }
        }
        ranges.push(PackRange { offset, length, blobs: i..i + 1 });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_request_and_far_ones_are_not() {
        let range = |offset, length, blobs| PackRange { offset, length, blobs };
        assert!(merge(&[], 100).is_empty());
        assert_eq!(merge(&[(0, 10), (10, 10), (25, 5)], 100), [range(0, 30, 0..3)]);
        assert_eq!(merge(&[(0, 10), (10 + MAX_GAP + 1, 10)], 1 << 30), [range(0, 10, 0..1), range(10 + MAX_GAP + 1, 10, 1..2)]);
        assert_eq!(merge(&[(0, 60), (60, 60), (120, 60)], 100), [range(0, 60, 0..1), range(60, 60, 1..2), range(120, 60, 2..3)]);
        assert_eq!(merge(&[(0, 500), (500, 10)], 100), [range(0, 500, 0..1), range(500, 10, 1..2)]);
        // The same blob twice.
        assert_eq!(merge(&[(5, 10), (5, 10)], 100), [range(5, 10, 0..2)]);
    }
}
