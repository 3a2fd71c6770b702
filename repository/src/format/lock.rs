//! `locks/<id>`: who is at work. restic's own shape; our identity rides in `username`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What `username` begins with in our locks; the 128-bit run id follows.
pub const RUN_PREFIX: &str = "estiba1:";

/// Whether others may work beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside other sharers.
    Shared,
    /// Alone.
    Exclusive,
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
}

impl LockFile {
    /// The run that holds it, if it is one of ours.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.username.strip_prefix(RUN_PREFIX)
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
        let foreign = r#"{"time":"2020-01-01T10:00:00.5+02:00","exclusive":true,"hostname":"h","username":"root","pid":7,"uid":0,"gid":0}"#;
        assert_eq!(LockFile::decode(foreign.as_bytes()).unwrap().run_id(), None);
    }
}
