//! What a mover says to whoever started it: one JSON object a line on standard output (`--json`), and an exit code.
//! The schema in words: `docs/json.md`.

mod summary;

use serde::{Deserialize, Serialize};

pub use self::summary::*;

/// Exit codes; where restic has a code for it, the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// All done.
    Success = 0,
    /// Failed; nothing new is visible.
    Failure = 1,
    /// The snapshot was saved or restored, but some items were not: they are listed.
    Incomplete = 3,
    /// There is no repository.
    NoRepository = 10,
    /// Somebody else holds a lock that excludes this.
    Locked = 11,
    /// Wrong password.
    WrongPassword = 12,
    /// Interrupted, and what was done can be gone on from.
    Resumable = 75,
    /// Interrupted.
    Interrupted = 130,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum Line {
    /// How far it is; about once a second.
    Status(Status),
    /// An item that was left out, or is not as it should be.
    Item(Item),
    /// A request that failed and is tried again.
    Retry(Retry),
    /// Others are at work, and are waited for.
    Waiting(Waiting),
    /// The end of a backup.
    BackupSummary(BackupSummary),
    /// The end of a restore.
    RestoreSummary(RestoreSummary),
    /// The end of a verification.
    VerifySummary(VerifySummary),
    /// The end of a check.
    CheckSummary(CheckSummary),
    /// What becomes of one snapshot.
    Verdict(Verdict),
    /// The end of a forget.
    ForgetSummary(ForgetSummary),
    /// The end of a prune.
    PruneSummary(PruneSummary),
    /// The end of a repair of the index.
    RepairSummary(RepairSummary),
    /// The end of a repair of packs.
    RepairPacksSummary(RepairPacksSummary),
    /// The end of a copy.
    CopySummary(CopySummary),
    /// The end of what saves snapshots again.
    RewriteSummary(RewriteSummary),
    /// The end of what gives snapshots other tags.
    TagSummary(TagSummary),
    /// One path that differs between two snapshots.
    Difference(Difference),
    /// The end of a comparison.
    DiffSummary(DiffSummary),
    /// The end of a search.
    FindSummary(FindSummary),
    /// What is stored, and for what.
    StatsSummary(StatsSummary),
    /// Until when one object that snapshots need is retained.
    Protection(Protection),
    /// Until when all of them are.
    ProtectionSummary(ProtectionSummary),
    /// Why the command failed.
    Error(Failure),
}

impl Line {
    /// The line without its end; `run` says whose it is.
    #[must_use]
    pub fn to_json(&self, run: Option<&str>) -> String {
        let said = Said { run: run.map(str::to_owned), line: self.clone() };
        serde_json::to_string(&said).expect("strings and numbers always serialise")
    }
}

/// A line, and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// What `--run` gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// What was said.
    #[serde(flatten)]
    pub line: Line,
}

/// How far a backup, restore or check is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Since the start.
    pub seconds_elapsed: f64,
    /// Until the end, if it can be told.
    pub seconds_remaining: Option<f64>,
    /// Bytes a second over the last seconds.
    pub bytes_per_second: f64,
    /// Files done.
    pub files_done: u64,
    /// Bytes of files done.
    pub bytes_done: u64,
    /// All files, once known.
    pub total_files: Option<u64>,
    /// All bytes, once known.
    pub total_bytes: Option<u64>,
    /// Items with errors so far.
    pub errors: u64,
    /// What is being worked on.
    pub current_file: Option<String>,
    /// What is restored: `latest` is looked up once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
}

/// What is the matter with one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Path as text; bytes that are not UTF-8 are escaped.
    pub path: String,
    /// In words.
    pub problem: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The item is missing or incomplete: exit code 3.
    Error,
    /// Worth knowing.
    Warning,
}

/// Others are at work, and are waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who holds which lock.
    pub problem: String,
    /// Then the command ends with exit code 11, or leaves what it cannot do.
    pub seconds_at_most: f64,
}

/// A request that is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// What failed.
    pub problem: String,
    /// Until the next try.
    pub seconds_until_next_try: f64,
}

/// What was asked of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Objects written.
    pub put: u64,
    /// Objects or parts of them read.
    pub get: u64,
    /// Objects asked for size and age.
    pub head: u64,
    /// Lists.
    pub list: u64,
    /// Objects removed.
    pub delete: u64,
    /// Requests made again after a failure.
    pub retries: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// Why the command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What failed, to what, why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Another try would fail in the same way.
    #[serde(default)]
    pub is_final: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_lines() {
        let item = Line::Item(Item { path: "/a".to_owned(), problem: "permission denied".to_owned(), severity: Severity::Error });
        assert_eq!(item.to_json(None), r#"{"message_type":"item","path":"/a","problem":"permission denied","severity":"error"}"#);
        let error = Line::Error(Failure { code: ExitCode::Locked as u8, message: "locked".to_owned(), hint: None, is_final: false });
        assert_eq!(error.to_json(None), r#"{"message_type":"error","code":11,"message":"locked","hint":null,"is_final":false}"#);
        assert_eq!(serde_json::from_str::<Line>(&error.to_json(None)).unwrap(), error);
    }
}
