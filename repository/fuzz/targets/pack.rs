//! Any bytes as a pack's list.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repository::format::pack::{decode_header, encode_header};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(blobs) = decode_header(bytes) {
        assert_eq!(encode_header(&blobs), bytes);
    }
});
