//! The inside of `index/`, `snapshots/` and `locks/` objects: `0x02 || zstd(JSON)`, or raw JSON as version 1 wrote it.

use std::io::Read;

/// Wraps JSON for a repository of the given version.
#[must_use]
pub fn encode(json: Vec<u8>, version: u32) -> Vec<u8> {
    if version < 2 {
        return json;
    }
    let compressed = zstd::bulk::compress(&json, 3).expect("zstd needs only memory");
    let mut out = Vec::with_capacity(compressed.len() + 1);
    out.push(2);
    out.extend_from_slice(&compressed);
    out
}

/// Unwraps to JSON of at most `limit` bytes.
///
/// # Errors
/// An unknown first byte, a broken frame, or more than `limit` bytes; in words.
pub fn decode(plain: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    match plain.split_first() {
        Some((b'{' | b'[', _)) => Ok(plain.to_vec()),
        Some((2, frame)) => {
            let mut json = Vec::new();
            let decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(|error| error.to_string())?;
            decoder.take(limit as u64 + 1).read_to_end(&mut json).map_err(|error| error.to_string())?;
            if json.len() > limit { Err(format!("is larger than {limit} bytes when decompressed")) } else { Ok(json) }
        }
        Some((other, _)) => Err(format!("encoding {other} is not known")),
        None => Err("is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_are_read_and_bombs_are_not() {
        assert_eq!(decode(&encode(b"{\"a\":1}".to_vec(), 2), 100).unwrap(), b"{\"a\":1}");
        assert_eq!(decode(&encode(b"{\"a\":1}".to_vec(), 1), 100).unwrap(), b"{\"a\":1}");
        assert!(decode(&encode(vec![b' '; 101], 2), 100).unwrap_err().contains("larger"));
        for bad in [&b""[..], &[1], &[2], &[2, 1, 2, 3]] {
            assert!(decode(bad, 100).is_err());
        }
    }
}
