//! Any bytes as each of the JSON objects, and as what wraps them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repository::format::config::Config;
use repository::format::index::IndexFile;
use repository::format::key::KeyFile;
use repository::format::lock::LockFile;
use repository::format::snapshot::Snapshot;
use repository::format::time::Time;
use repository::format::unpacked;

fuzz_target!(|bytes: &[u8]| {
    let _ = Config::decode(bytes);
    let _ = KeyFile::decode(bytes);
    let _ = LockFile::decode(bytes);
    if let Ok(file) = IndexFile::decode(bytes) {
        assert_eq!(IndexFile::decode(&file.encode()).as_ref(), Ok(&file));
    }
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    }
    if let Ok(json) = unpacked::decode(bytes, 1 << 20) {
        assert!(json.len() <= 1 << 20 || bytes.len() > 1 << 20);
    }
    if let Some(time) = std::str::from_utf8(bytes).ok().and_then(|text| Time::parse(text).ok()) {
        assert_eq!(Time::parse(&time.to_string()), Ok(time));
    }
});
