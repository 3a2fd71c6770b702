//! Packs as they are stored, whatever index files say of them: their sizes, and the lists at their ends.

use std::collections::HashMap;

use crate::error::Result;
use crate::format::index::IndexedPack;
use crate::format::pack::{MAX_HEADER, PackedBlob, TRAILER, decode_header};
use crate::id::PackId;
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::ReadRange;

/// A pack's list is read with the first request, if it is not longer.
const FIRST_READ: u64 = 64 << 10;

impl Repository {
    /// All packs that are there, with their sizes.
    pub(crate) fn stored_packs(&self) -> Result<HashMap<PackId, u64>> {
        let mut stored = HashMap::new();
        self.store().list(ObjectKind::Pack, &mut |listed| {
            stored.insert(PackId(listed.name.id.0), listed.size);
        })?;
        Ok(stored)
    }

    /// What a pack of that size says of itself, at its end.
    pub(crate) fn own_list(&self, id: PackId, size: u64, buffer: &mut Vec<u8>) -> Result<Vec<PackedBlob>> {
        let name = ObjectName::pack(id);
        let damaged = |what: &str| self.damaged(&name, what);
        let read = |length: u64, into: &mut Vec<u8>| self.store().read(&name, ReadRange::Part { offset: size - length, length }, into);
        let first = FIRST_READ.min(size);
        if first < TRAILER as u64 {
            return Err(damaged("it is too short to be a pack"));
        }
        read(first, buffer)?;
        let length = buffer.last_chunk::<TRAILER>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        let whole = length + TRAILER;
        if length > MAX_HEADER || whole as u64 > size {
            return Err(damaged("the length of its list is wrong"));
        }
        if whole > buffer.len() {
            read(whole as u64, buffer)?;
        }
        let (from, to) = (buffer.len() - whole, buffer.len() - TRAILER);
        let blobs = self.open_list(&mut buffer[from..to]).map_err(|why| damaged(&why))?;
        let pack = IndexedPack { id, blobs };
        if pack.size() == size { Ok(pack.blobs) } else { Err(damaged("its list does not fit its size")) }
    }

    /// A pack's own list, as it is sealed. The error is in words.
    pub(crate) fn open_list(&self, sealed: &mut [u8]) -> Result<Vec<PackedBlob>, String> {
        let list = self.key().open(sealed).map_err(|_| "its list cannot be opened".to_owned())?;
        decode_header(list).map_err(|why| format!("its list is malformed: {why}"))
    }
}
