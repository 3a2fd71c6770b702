//! All that a backup tells a restore: which snapshot, of what, where. No client required.

use std::fmt;
use std::str::FromStr;

/// What it begins with: another form would begin otherwise.
const FORM: &str = "estiba1";

/// `estiba1:REPOSITORY:SNAPSHOT:/NAMESPACE/CLAIM`: enough to find the data by hand, with stock restic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId {
    /// The repository's own id.
    pub repository: String,
    /// The snapshot's.
    pub snapshot: String,
    /// Whose data it is.
    pub namespace: String,
    /// Of which claim.
    pub claim: String,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{FORM}:{}:{}:/{}/{}", self.repository, self.snapshot, self.namespace, self.claim)
    }
}

impl FromStr for SnapshotId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("there is no snapshotID: the DataUpload that it comes from stored nothing".to_owned());
        }
        let parts: Vec<&str> = text.splitn(4, ':').collect();
        let is_id = |id: &str| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
        if let [FORM, repository, snapshot, path] = parts[..]
            && let Some((namespace, claim)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
            && is_id(repository)
            && is_id(snapshot)
            && [namespace, claim].into_iter().all(is_name)
        {
            let [repository, snapshot, namespace, claim] = [repository, snapshot, namespace, claim].map(str::to_owned);
            return Ok(Self { repository, snapshot, namespace, claim });
        }
        Err(format!("snapshotID {text} was not written by this data mover"))
    }
}

/// Of a namespace or a claim.
fn is_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.len() <= 253 && name.bytes().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let (repository, snapshot) = ("a".repeat(64), "0".repeat(64));
        let text = format!("estiba1:{repository}:{snapshot}:/shop/data");
        let id: SnapshotId = text.parse().unwrap();
        assert_eq!((id.namespace.as_str(), id.claim.as_str(), id.to_string()), ("shop", "data", text.clone()));
        let kopia = "36e8b8d3b8e2f1b3a0f5b2d6c1e0f9a8";
        let wrong = [
            kopia,
            "estiba1",
            "estiba2:a:b:/c/d",
            &text.replace("/shop", "shop"),
            &text.to_uppercase(),
            "estiba1:a:b:/shop/data",
            &text.replace("data", "da/ta"),
        ];
        for wrong in wrong {
            assert!(wrong.parse::<SnapshotId>().unwrap_err().contains("not written by this"), "{wrong}");
        }
        assert!("".parse::<SnapshotId>().unwrap_err().contains("stored nothing"));
    }
}
