//! `locks/<id>`: who is at work. restic's own shape; our identity rides in `username`, and what only ours say in `estiba`,
//! which restic passes over.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::ObjectId;

/// What `username` begins with in our locks; the 128-bit run id follows.
pub const RUN_PREFIX: &str = "estiba1:";

/// Whether others may work beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside all but those who must be alone; a fence is waited for. For whoever relies on what snapshots need.
    Shared,
    /// The same, and beside a fence, too: uses nothing of packs that are condemned.
    Append,
    /// Alone.
    Exclusive,
}

/// What only ours say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ours {
    /// When this run took its first lock.
    pub began: Timestamp,
    /// Lists of condemned packs: it uses none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ack: Vec<ObjectId>,
    /// It is a fence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fence: bool,
}

/// One lock as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFile {
    /// When it was written, by the writer's clock.
    pub time: Timestamp,
    /// True: alone.
    pub exclusive: bool,
    /// Machine or pod UID.
    #[serde(default)]
    pub hostname: String,
    /// `estiba1:<run id>` for ours.
    #[serde(default)]
    pub username: String,
    /// Process id on that machine.
    #[serde(default)]
    pub pid: u32,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// What only ours say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estiba: Option<Ours>,
}

impl LockFile {
    /// The run that holds it, if it is one of ours.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.username.strip_prefix(RUN_PREFIX)
    }

    /// Whether it is a fence of ours.
    #[must_use]
    pub fn is_fence(&self) -> bool {
        self.run_id().is_some() && self.estiba.as_ref().is_some_and(|ours| ours.fence)
    }

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
        let json = r#"{"time":"2023-11-14T22:13:20Z","exclusive":false,"hostname":"h","username":"estiba1:00ff","pid":7}"#;
        let lock = LockFile::decode(json.as_bytes()).unwrap();
        assert_eq!(lock.run_id(), Some("00ff"));
        assert_eq!(String::from_utf8(lock.encode()).unwrap(), json);
        let ack = format!(r#""ack":["{}"],"fence":true"#, "ab".repeat(32));
        let fence = format!(
            r#"{{"time":"2023-11-14T22:13:20Z","exclusive":true,"hostname":"h","username":"estiba1:00ff","pid":7,"estiba":{{"began":"2023-11-14T22:13:20Z",{ack}}}}}"#
        );
        let lock = LockFile::decode(fence.as_bytes()).unwrap();
        assert!(lock.is_fence() && lock.estiba.as_ref().unwrap().ack == [ObjectId([0xab; 32])]);
        assert_eq!(String::from_utf8(lock.encode()).unwrap(), fence);
        let foreign = r#"{"time":"2020-01-01T10:00:00.5+02:00","exclusive":true,"hostname":"h","username":"root","pid":7,"uid":0,"gid":0}"#;
        assert_eq!(LockFile::decode(foreign.as_bytes()).unwrap().run_id(), None);
    }
}
