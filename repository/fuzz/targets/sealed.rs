//! Any bytes as a sealed blob, and as what is inside one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repository::compress::BlobDecompressor;
use repository::crypto::MasterKey;

fuzz_target!(|bytes: &[u8]| {
    let key = MasterKey::from_derived(&[7; 64]);
    assert!(key.open(&mut bytes.to_vec()).is_err(), "nobody guesses a tag");
    let mut sealed = Vec::new();
    key.seal(bytes, &mut sealed);
    assert_eq!(key.open(&mut sealed).expect("just sealed"), bytes);
    let mut plain = Vec::new();
    let _ = BlobDecompressor::default().decompress(bytes, 4096, &mut plain);
    assert!(plain.len() <= 4096);
});
