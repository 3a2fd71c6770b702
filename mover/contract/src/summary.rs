//! What commands came to: a summary each, and the lines that a `diff` and a `forget` say on the way.

use serde::{Deserialize, Serialize};

use super::Requests;

/// What a backup did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// The repository's.
    pub repository_id: String,
    /// The snapshot was there already, by an earlier run with the same tags: nothing was done.
    pub was_there: bool,
    /// Of the new snapshot; none in a dry run, and none if nothing had changed and that was to be skipped.
    pub snapshot_id: Option<String>,
    /// What unchanged files were taken from.
    pub parent_id: Option<String>,
    /// Root tree of the snapshot.
    pub tree_id: String,
    /// Files the parent had not.
    pub files_new: u64,
    /// Files the parent had otherwise.
    pub files_changed: u64,
    /// Files taken from the parent.
    pub files_unchanged: u64,
    /// Directories the parent had not.
    pub dirs_new: u64,
    /// Directories the parent had otherwise.
    pub dirs_changed: u64,
    /// Directories of the same tree.
    pub dirs_unchanged: u64,
    /// Sockets: never saved.
    pub sockets_skipped: u64,
    /// Files in the snapshot.
    pub total_files: u64,
    /// Bytes of files in the snapshot.
    pub total_bytes: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Files that an interrupted run had read, whole or in part.
    #[serde(default)]
    pub files_resumed: u64,
    /// Bytes of them: neither read nor sent again.
    #[serde(default)]
    pub bytes_resumed: u64,
    /// Blobs of content that were new.
    pub data_blobs: u64,
    /// Blobs of directories that were new.
    pub tree_blobs: u64,
    /// Bytes that were new.
    pub bytes_added: u64,
    /// Bytes that they take in the repository.
    pub bytes_stored: u64,
    /// Items that could not be read: exit code 3 if above zero.
    pub errors: u64,
    /// Items that changed while they were read.
    pub warnings: u64,
    /// From start to end.
    pub seconds: f64,
    /// What was asked of the store.
    pub requests: Requests,
    /// True: nothing was stored.
    pub dry_run: bool,
}

/// What a verification read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifySummary {
    /// Of what.
    pub snapshot_id: String,
    /// Files that were read, whole or not.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, devices and pipes.
    pub others: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Items that cannot be restored as they were: exit code 1 if above zero.
    pub errors: u64,
    /// From start to end.
    pub seconds: f64,
    /// What was asked of the store.
    pub requests: Requests,
}

/// What a restore did, or in a dry run would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreSummary {
    /// Where from.
    pub snapshot_id: String,
    /// Files written.
    pub files_restored: u64,
    /// Files left as they were.
    pub files_skipped: u64,
    /// Directories made or given their metadata.
    pub dirs_restored: u64,
    /// Links, devices and pipes.
    pub others_restored: u64,
    /// Bytes of files written.
    pub bytes_restored: u64,
    /// Bytes that were there already: of files that are as they were, and of those that differed elsewhere.
    #[serde(default)]
    pub bytes_in_place: u64,
    /// Entries that the snapshot does not have, and that were removed.
    #[serde(default)]
    pub deleted: u64,
    /// Such entries that stayed because of errors; each counted without what is in it.
    #[serde(default)]
    pub extras_kept: u64,
    /// Bytes of packs to fetch.
    pub bytes_to_fetch: u64,
    /// Requests for packs.
    pub pack_requests: u64,
    /// Bytes read back and compared; 0 if that was not asked for.
    pub bytes_verified: u64,
    /// Items that could not be restored as they were: exit code 3 if above zero.
    pub errors: u64,
    /// Items whose owner could not be set for lack of permission.
    pub owners_not_set: u64,
    /// From start to end.
    pub seconds: f64,
    /// What was asked of the store.
    pub requests: Requests,
    /// True: nothing was written.
    pub dry_run: bool,
}

/// What a check looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckSummary {
    /// Snapshots whose trees were walked.
    pub snapshots: u64,
    /// Trees read.
    pub trees: u64,
    /// Packs in the index.
    pub packs: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Packs read and hashed.
    pub packs_read: u64,
    /// Bytes read and hashed.
    pub bytes_read: u64,
    /// Findings that mean damage.
    pub errors: u64,
    /// Findings that cost space or time alone.
    pub hints: u64,
    /// From start to end.
    pub seconds: f64,
    /// What was asked of the store.
    pub requests: Requests,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its id.
    pub id: String,
    /// The point in time that it shows.
    pub time: String,
    /// Machine or cluster.
    pub host: String,
    /// What was saved.
    pub paths: Vec<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Why it stays; without a reason it goes.
    pub reasons: Vec<String>,
}

/// What a forget did, or in a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetSummary {
    /// Snapshots that stay.
    pub kept: u64,
    /// Snapshots that are gone.
    pub removed: u64,
    /// True: nothing was removed.
    pub dry_run: bool,
}

/// What a prune did, or in a dry run would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneSummary {
    /// Blobs that snapshots need.
    pub blobs_needed: u64,
    /// Bytes of these, as stored.
    pub bytes_needed: u64,
    /// Blobs that nothing needs.
    pub blobs_unused: u64,
    /// Bytes of packs before.
    pub bytes_before: u64,
    /// Bytes that are free afterwards.
    pub bytes_freed: u64,
    /// Bytes that nothing needs, and that stay as `--max-unused` and `--max-repack-size` let them, or because they are retained.
    pub bytes_unused_after: u64,
    /// Packs that stay.
    pub packs_kept: u64,
    /// Packs of which a part was stored again.
    pub packs_repacked: u64,
    /// Bytes of that part.
    pub bytes_repacked: u64,
    /// Packs of which nothing was needed, those that no index file named among them.
    pub packs_removed: u64,
    /// Packs that are condemned, and that stay until those have ended who began before. A later prune removes them.
    pub packs_waiting: u64,
    /// Bytes of these.
    pub bytes_waiting: u64,
    /// Who these are, in words.
    pub waits_for: Vec<String>,
    /// Packs that would go or be packed again, and that are retained (object lock): they stay until that ends.
    pub packs_retained: u64,
    /// Bytes of these that nothing needs.
    pub bytes_retained: u64,
    /// When the last of them can go; none if there is none, or a legal hold keeps one.
    pub retained_until: Option<String>,
    /// What was removed stays as old versions, and takes its room, until a rule of the bucket or somebody removes those.
    pub keeps_versions: bool,
    /// From start to end.
    pub seconds: f64,
    /// True: nothing was changed.
    pub dry_run: bool,
    /// What was asked of the store; in a dry run, about what would be.
    pub requests: Requests,
}

/// What a repair of packs did, or without `--apply` would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairPacksSummary {
    /// Packs that were read.
    pub packs_read: u64,
    /// Those that are damaged, or gone, and that go.
    pub packs_damaged: u64,
    /// Their blobs that can be read, and are stored again.
    pub blobs_saved: u64,
    /// Their blobs of which no copy can be read.
    pub blobs_lost: u64,
    /// True: nothing was changed.
    pub dry_run: bool,
}

/// What a copy did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopySummary {
    /// Snapshots that were copied.
    pub snapshots_copied: u64,
    /// Snapshots that were there already.
    pub snapshots_known: u64,
    /// Ids there and here; none in a dry run.
    pub saved: Vec<(String, String)>,
    /// Blobs that were lacking here.
    pub blobs: u64,
    /// Bytes of these, as they are stored there.
    pub bytes: u64,
    /// True: nothing was changed.
    pub dry_run: bool,
    /// From start to end.
    pub seconds: f64,
    /// What was asked of the store that was copied from.
    pub requests_from: Requests,
    /// What was asked of the store that was copied to.
    pub requests: Requests,
}

/// What a repair of snapshots or a rewrite did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteSummary {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Those that lose something.
    pub changed: u64,
    /// Old and new ids; none if nothing was changed.
    pub saved: Vec<(String, String)>,
    /// Files and directories that are left out, in all snapshots together.
    pub left_out: u64,
    /// Whether the old ones were removed.
    pub forgotten: bool,
    /// True: nothing was changed.
    pub dry_run: bool,
}

/// What giving other tags did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagSummary {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Old and new ids of those that have other tags now.
    pub saved: Vec<(String, String)>,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Path as text; bytes that are not UTF-8 are escaped.
    pub path: String,
    /// How.
    pub change: Change,
    /// Bytes before, if it was there.
    pub size_before: Option<u64>,
    /// Bytes after, if it is still there.
    pub size_after: Option<u64>,
}

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there.
    Added,
    /// It is no longer there.
    Removed,
    /// Its content.
    Content,
    /// Its content, but neither its size nor its time.
    ContentAlone,
    /// Its kind.
    Kind,
    /// Mode, owner, times or attributes alone.
    Metadata,
}

/// What differs between two snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffSummary {
    /// The one before.
    pub from: String,
    /// The one after.
    pub to: String,
    /// What was not there.
    pub added: Entries,
    /// What is no longer there.
    pub removed: Entries,
    /// What was there and has other content, or is of another kind; its bytes after.
    pub changed: Entries,
    /// Entries whose mode, owner, times or attributes alone differ.
    pub metadata: u64,
}

/// A number of entries of snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, devices, pipes and sockets.
    pub others: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindSummary {
    /// Snapshots that were looked through.
    pub snapshots: u64,
    /// Those in which something was found.
    pub with_matches: u64,
    /// Entries found, in all of them.
    pub matches: u64,
}

/// What snapshots hold, and what that takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsSummary {
    /// Snapshots that were counted.
    pub snapshots: u64,
    /// As if each were restored.
    pub restored: Entries,
    /// Their chunks, each once.
    pub data: Blobs,
    /// Their directories, each once.
    pub trees: Blobs,
    /// Blobs that they need and that are in no index.
    pub blobs_lost: u64,
    /// Packs in the index.
    pub packs: u64,
    /// Bytes of these, for these snapshots or others, or for none.
    pub bytes_in_packs: u64,
}

/// Blobs, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blobs {
    /// How many.
    pub count: u64,
    /// Bytes before they are compressed.
    pub bytes: u64,
    /// Bytes as stored.
    pub bytes_stored: u64,
}

/// Until when one object that snapshots need can be neither removed nor replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Path in the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// `governance`, `compliance`, or none.
    pub mode: Option<String>,
    /// Until then.
    pub until: Option<String>,
    /// It is under a legal hold, too.
    pub legal_hold: bool,
    /// Its retention was made longer just now.
    pub extended: bool,
}

/// Until when all that snapshots need can be neither removed nor replaced.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProtectionSummary {
    /// Objects that snapshots need.
    pub objects: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Those that nobody can remove.
    pub compliance: u64,
    /// Those that only `s3:BypassGovernanceRetention` can remove.
    pub governance: u64,
    /// Those under a legal hold, which whoever may set it may end: it protects nothing here.
    pub legal_holds: u64,
    /// Those that whoever has keys can remove, and not only hide.
    pub unprotected: u64,
    /// Bytes of these.
    pub bytes_unprotected: u64,
    /// Those that are not retained for as long as `--at-least` says.
    pub too_short: u64,
    /// Those whose retention was made longer.
    pub extended: u64,
    /// All of it until then; none if something is unprotected.
    pub until: Option<String>,
    /// From start to end.
    pub seconds: f64,
    /// What was asked of the store.
    pub requests: Requests,
}

/// What a repair of the index did, or without `--apply` would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairSummary {
    /// Index files that cannot be read, and go.
    pub index_files_removed: u64,
    /// Packs that are there and are named again.
    pub packs_named: u64,
    /// Packs that are not there as an index file says, and are no longer named so.
    pub packs_forgotten: u64,
    /// Packs that are there and whose own list cannot be read.
    pub packs_unreadable: u64,
    /// True: nothing was changed.
    pub dry_run: bool,
}
