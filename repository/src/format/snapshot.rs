//! `snapshots/<id>`: what was saved, when, from where.

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::id::{BlobId, ObjectId};

/// A snapshot, field for field as restic has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the state of the source was fixed, as far as the caller knows.
    pub time: SnapshotTime,
    /// The snapshot that unchanged files were taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ObjectId>,
    /// The root directory.
    pub tree: BlobId,
    /// The backed-up paths, absolute: `/<namespace>/<claim>` for a claim.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Machine or cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Who ran the program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Who ran the program.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// Who ran the program.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Patterns that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Free words; identities such as `pvc-uid=..` survive rewriting here.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub tags: Vec<String>,
    /// The first id, if it was rewritten since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<ObjectId>,
    /// Program and version that wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// What the run counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What other programs say beside: kept when it is written again.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// What a backup run counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// When reading began.
    pub backup_start: SnapshotTime,
    /// When all was stored.
    pub backup_end: SnapshotTime,
    /// Files the parent had not.
    pub files_new: u64,
    /// Files the parent had otherwise.
    pub files_changed: u64,
    /// Files taken from the parent.
    pub files_unmodified: u64,
    /// Directories the parent had not.
    pub dirs_new: u64,
    /// Directories the parent had otherwise.
    pub dirs_changed: u64,
    /// Directories of the same tree.
    pub dirs_unmodified: u64,
    /// New blobs of content.
    pub data_blobs: u64,
    /// New blobs of trees.
    pub tree_blobs: u64,
    /// Bytes of new blobs, as read.
    pub data_added: u64,
    /// Bytes of new blobs, as stored.
    pub data_added_packed: u64,
    /// Files in the snapshot.
    pub total_files_processed: u64,
    /// Bytes of files in the snapshot.
    pub total_bytes_processed: u64,
}

/// RFC 3339 with any zone; kept as an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotTime(pub Timestamp);

impl Serialize for SnapshotTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SnapshotTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl SnapshotTime {
    /// In this machine's zone, for people.
    #[must_use]
    pub fn local(self) -> Zoned {
        self.0.to_zoned(jiff::tz::TimeZone::system())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Snapshot {
    /// # Errors
    /// Not JSON of this shape.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// The JSON that is compressed, sealed and stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let json = format!(
            r#"{{"time":"2023-11-14T22:13:20.5Z","tree":"{}","paths":["/shop/data"],"hostname":"c1","tags":["a=b"],"program_version":"estiba 0.1.0"}}"#,
            "05".repeat(32)
        );
        let snapshot = Snapshot::decode(json.as_bytes()).unwrap();
        assert_eq!(snapshot.tree, BlobId([5; 32]));
        assert_eq!(String::from_utf8(snapshot.encode()).unwrap(), json);
    }

    #[test]
    fn what_restic_writes_is_read() {
        let json = format!(
            r#"{{"time":"2020-01-01T10:00:00.123456789+02:00","tree":"{}","paths":["/a"],"hostname":"h","username":"u","uid":1000,"gid":1000,"tags":null,"future":1}}"#,
            "05".repeat(32)
        );
        let snapshot = Snapshot::decode(json.as_bytes()).unwrap();
        assert_eq!(snapshot.time.0.to_string(), "2020-01-01T08:00:00.123456789Z");
        assert!(snapshot.tags.is_empty());
        assert!(snapshot.encode().ends_with(br#""future":1}"#), "what is not known here is kept");
    }
}
