//! `index/<id>`: `{"packs":[{"id","blobs":[{"id","type","offset","length","uncompressed_length"?}]}]}`.
//!
//! A pack is named in exactly one index file, with all its blobs.

use serde::{Deserialize, Serialize};

use super::BlobKind;
use super::pack::PackedBlob;
use crate::id::{BlobId, PackId};

/// What one index file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexFile {
    /// Each pack once.
    pub packs: Vec<IndexedPack>,
}

/// One pack and all its blobs, by ascending offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// All it holds.
    pub blobs: Vec<PackedBlob>,
}

impl IndexedPack {
    /// The pack's size as its list implies.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|blob| u64::from(blob.stored)).sum::<u64>() + super::pack::header_len(&self.blobs)
    }
}

#[derive(Serialize, Deserialize)]
struct FileJson {
    packs: Vec<PackJson>,
}

#[derive(Serialize, Deserialize)]
struct PackJson {
    id: PackId,
    blobs: Vec<BlobJson>,
}

#[derive(Serialize, Deserialize)]
struct BlobJson {
    id: BlobId,
    r#type: KindJson,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uncompressed_length: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindJson {
    Data,
    Tree,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl IndexFile {
    /// The JSON that is compressed, sealed and stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let blob = |blob: &PackedBlob| BlobJson {
            id: blob.id,
            r#type: match blob.kind {
                BlobKind::Data => KindJson::Data,
                BlobKind::Tree => KindJson::Tree,
            },
            offset: blob.offset,
            length: blob.stored,
            uncompressed_length: blob.uncompressed.unwrap_or(0),
        };
        let packs = self.packs.iter().map(|pack| PackJson { id: pack.id, blobs: pack.blobs.iter().map(blob).collect() });
        serde_json::to_vec(&FileJson { packs: packs.collect() }).expect("strings and numbers always serialise")
    }

    /// # Errors
    /// Not JSON of this shape, or a blob that cannot be; in words.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let file: FileJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut packs = Vec::with_capacity(file.packs.len());
        for pack in file.packs {
            let mut blobs = Vec::with_capacity(pack.blobs.len());
            for blob in pack.blobs {
                if blob.length < 32 || blob.offset.checked_add(blob.length).is_none() {
                    return Err(format!("blob {} cannot lie at offset {} with {} bytes", blob.id.short(), blob.offset, blob.length));
                }
                let kind = match blob.r#type {
                    KindJson::Data => BlobKind::Data,
                    KindJson::Tree => BlobKind::Tree,
                };
                let uncompressed = (blob.uncompressed_length != 0).then_some(blob.uncompressed_length);
                blobs.push(PackedBlob { id: blob.id, kind, offset: blob.offset, stored: blob.length, uncompressed });
            }
            blobs.sort_unstable_by_key(|blob| blob.offset);
            packs.push(IndexedPack { id: pack.id, blobs });
        }
        Ok(Self { packs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let blob = |id, offset, uncompressed| PackedBlob { id: BlobId([id; 32]), kind: BlobKind::Data, offset, stored: 40, uncompressed };
        let file = IndexFile { packs: vec![IndexedPack { id: PackId([9; 32]), blobs: vec![blob(1, 0, None), blob(2, 40, Some(77))] }] };
        let json = format!(
            concat!(
                r#"{{"packs":[{{"id":"{}","blobs":[{{"id":"{}","type":"data","offset":0,"length":40}},"#,
                r#"{{"id":"{}","type":"data","offset":40,"length":40,"uncompressed_length":77}}]}}]}}"#
            ),
            "09".repeat(32),
            "01".repeat(32),
            "02".repeat(32)
        );
        assert_eq!(String::from_utf8(file.encode()).unwrap(), json);
        assert_eq!(IndexFile::decode(json.as_bytes()).unwrap(), file);
    }

    #[test]
    fn blobs_that_cannot_be_are_refused() {
        for (offset, length) in [("0", "31"), ("4294967295", "40"), ("-1", "40"), ("0", "4294967296")] {
            let json = format!(
                r#"{{"packs":[{{"id":"{0}","blobs":[{{"id":"{0}","type":"data","offset":{offset},"length":{length}}}]}}]}}"#,
                "09".repeat(32)
            );
            assert!(IndexFile::decode(json.as_bytes()).is_err(), "{json}");
        }
    }
}
