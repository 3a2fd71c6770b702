//! What can be typed. The doc comments are the help texts.

mod look;
mod maintenance;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use self::look::{Diff, Dump, Find, Ls, Snapshots, Stats, Verify};
pub(crate) use self::maintenance::{
    Check, Forget, GroupKey, Keep, Key, KeyAction, LockExtend, LockReport, Prune, Repair, RepairWhat, Rewrite, Tag, TagChange, Unlock,
};
use super::values::{Bytes, Rate, Retain, Span, TimePoint};

/// Backs up directories, block devices and streams into a deduplicating, encrypted repository, and restores them
///
/// The repository has restic's format: stock `restic` can restore, check and prune it, today and without this program.
#[derive(Debug, Parser)]
#[command(name = "mover", version, max_term_width = 100, propagate_version = true, disable_help_subcommand = true)]
#[command(
    after_help = "Examples:\n  mover -r /srv/repo init\n  mover -r s3://bucket/prefix backup /var/lib/data\n  mover -r s3://bucket/prefix restore latest /var/lib/data\n\nExit codes: 0 done, 1 failed, 3 done but some items could not be read or restored, 10 no repository,\n11 locked by somebody else, 12 wrong password, 75 interrupted and resumable, 130 interrupted"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the repository is: a path, file:///path, s3://bucket/prefix, or s3:http://host:9000/bucket/prefix
    /// [env: MOVER_REPOSITORY or RESTIC_REPOSITORY]
    #[arg(short, long, global = true, value_name = "R")]
    pub(crate) repository: Option<String>,
    /// File whose first line is the password [env: MOVER_PASSWORD_FILE; MOVER_PASSWORD holds the password itself; restic's names work too]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Memory for everything in flight; peak memory stays below this plus 64 MiB
    #[arg(long, global = true, value_name = "SIZE", default_value = "256MiB", env = "MOVER_MEMORY")]
    pub(crate) memory: Bytes,
    /// Print one JSON object a line, for machines
    #[arg(long, global = true, conflicts_with_all = ["quiet", "verbose"])]
    pub(crate) json: bool,
    /// Print errors and what was asked for, nothing else
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print every request that is tried again
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Write the last JSON line, the summary or the error, to this file as well: where Kubernetes looks for a
    /// container's termination message, for instance
    #[arg(long, global = true, value_name = "FILE", env = "MOVER_RESULT_FILE")]
    pub(crate) result_file: Option<PathBuf>,
    /// Say this in the JSON lines of a run as `run`, so that its reader knows whose it is
    #[arg(long, global = true, value_name = "TEXT", env = "MOVER_RUN")]
    pub(crate) run: Option<String>,
    /// Wait this long for others to release the repository
    #[arg(long, global = true, value_name = "TIME", default_value = "0s")]
    pub(crate) retry_lock: Span,
    /// Read without a lock, where only reading is allowed, or a lock was left behind; what is pruned meanwhile may be missed
    #[arg(long, global = true)]
    pub(crate) no_lock: bool,
    /// Send at most this much a second
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) limit_upload: Option<Rate>,
    /// Receive at most this much a second
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) limit_download: Option<Rate>,
    #[command(flatten)]
    pub(crate) s3: S3,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "S3")]
pub(crate) struct S3 {
    /// URL of the server, if it is not AWS [env: AWS_ENDPOINT_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// Region [env: AWS_REGION]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) s3_region: Option<String>,
    /// How the bucket is named in requests
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub(crate) s3_addressing: Addressing,
    /// Write only where nothing is (`If-None-Match: *`), for credentials that may do no more: docs/immutable.md
    #[arg(long, global = true, env = "MOVER_S3_CREATE_ONLY")]
    pub(crate) s3_create_only: bool,
    /// Retain what is written: governance:30d or compliance:30d, in buckets with object lock. Nobody, you included, can end or
    /// shorten what compliance retains: docs/immutable.md
    #[arg(long, global = true, value_name = "MODE:TIME", env = "MOVER_S3_RETAIN")]
    pub(crate) s3_retain: Option<Retain>,
    /// Read what was there then, whatever was removed or replaced since, in buckets that keep versions; without a lock. With `copy`
    /// it is what is copied from
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) s3_as_of: Option<TimePoint>,
    /// PEM file of certificates to trust beside the system's [env: AWS_CA_BUNDLE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) s3_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Addressing {
    /// By path where an endpoint is given, otherwise by host
    Auto,
    /// https://server/bucket/..
    Path,
    /// https://bucket.server/..
    Host,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a repository where nothing is yet
    Init {
        /// If one is there that the password opens, leave it as it is
        #[arg(long)]
        if_missing: bool,
        /// Cut files as another repository does, so that copies from it and backups here share their data
        #[arg(long)]
        copy_chunker_params: bool,
        #[command(flatten)]
        from: From,
    },
    /// Save directories, files, a block device or a stream as a snapshot
    Backup(Box<Backup>),
    /// Write a snapshot, or part of one, to a directory or a block device
    Restore(Box<Restore>),
    /// List snapshots
    Snapshots(Snapshots),
    /// List what a snapshot holds
    Ls(Ls),
    /// Look for files in snapshots, the newest first
    Find(Find),
    /// Say what differs between two snapshots
    Diff(Diff),
    /// Say how much is stored, and for what
    Stats(Stats),
    /// Write a file of a snapshot to standard output, or a directory as a tar archive
    Dump(Dump),
    /// Look for damage
    Check(Check),
    /// Restore a snapshot to nowhere: every byte is read, opened, hashed and compared
    Verify(Verify),
    /// Remove snapshots that a policy does not keep; what only they need stays stored until it is pruned
    Forget(Box<Forget>),
    /// Free what no snapshot needs; on S3 beside backups, elsewhere while nobody else writes
    Prune(Prune),
    /// Make the repository say again what is there; without --apply only say what is wrong
    Repair(Repair),
    /// Copy snapshots from another repository into this one; what it has is not sent again
    Copy(Box<Copy>),
    /// Save snapshots again with some of their files left out
    Rewrite(Rewrite),
    /// Give snapshots other tags
    Tag(Tag),
    /// List, add, remove and change passwords
    Key(Key),
    /// Remove locks that were left behind
    Unlock(Unlock),
    /// Say until when what snapshots need can be neither removed nor replaced (S3 object lock)
    LockReport(LockReport),
    /// Retain what snapshots need for longer (S3 object lock)
    LockExtend(LockExtend),
    /// Print completions for a shell
    Completions {
        /// Which
        shell: Shell,
    },
    /// Write the manual pages to a directory
    #[command(hide = true)]
    Man {
        /// Where to
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// What to save; a symbolic link named here is followed
    #[arg(value_name = "PATH", required_unless_present = "stdin")]
    pub(crate) paths: Vec<PathBuf>,
    /// Save a block device or an image of one: blocks of 4 MiB, zeros neither read twice nor stored twice
    #[arg(long, conflicts_with = "stdin")]
    pub(crate) block: bool,
    /// Save what comes from standard input
    #[arg(long, requires = "stdin_filename", conflicts_with = "paths")]
    pub(crate) stdin: bool,
    /// Name of the stream in the snapshot
    #[arg(long, value_name = "NAME", requires = "stdin")]
    pub(crate) stdin_filename: Option<String>,
    /// Path that the snapshot gives the source, for instance /namespace/claim
    #[arg(long = "as", value_name = "PATH", conflicts_with = "stdin")]
    pub(crate) stored_as: Option<PathBuf>,
    /// Host that the snapshot names [default: this machine]
    #[arg(long, value_name = "NAME", env = "MOVER_HOST")]
    pub(crate) host: Option<String>,
    /// Tag of the snapshot; several by commas or by saying it again
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub(crate) tags: Vec<String>,
    /// Time that the snapshot states [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) time: Option<TimePoint>,
    /// Snapshot that unchanged files are taken from: auto (the newest of the same host and paths), none, or an id
    #[arg(long, value_name = "auto|none|ID", default_value = "auto")]
    pub(crate) parent: String,
    /// Leave out what matches; without a slash at the start it matches anywhere
    #[arg(short, long = "exclude", value_name = "PATTERN")]
    pub(crate) excludes: Vec<String>,
    /// File of patterns to leave out, one a line
    #[arg(long = "exclude-file", value_name = "FILE")]
    pub(crate) exclude_files: Vec<PathBuf>,
    /// Do not enter directories where another file system is mounted
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    /// Files with another inode number may count as unchanged
    #[arg(long)]
    pub(crate) ignore_inode: bool,
    /// Files whose metadata changed later may count as unchanged
    #[arg(long)]
    pub(crate) ignore_ctime: bool,
    /// Do everything but store
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Save sources that hold nothing; otherwise they are an error, for a lost mount looks the same
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Save no snapshot if it would hold what its parent holds
    #[arg(long)]
    pub(crate) skip_if_unchanged: bool,
    /// If a snapshot with all of the tags is there already, report that one: a run that is repeated makes no second
    #[arg(long, requires = "tags", conflicts_with = "dry_run")]
    pub(crate) once: bool,
    /// Says what the source is, to the last byte: the handle of a volume's snapshot, for instance. A run that is interrupted keeps
    /// what is done (exit code 75), and the next one with the same id, host and paths, on any machine, goes on from there
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["stdin", "dry_run"])]
    pub(crate) source_id: Option<String>,
    /// How long an interrupted run may take to keep what is done
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "source_id")]
    pub(crate) grace: Span,
    /// How often what is done is kept on the way: a run that is killed (power, kill -9) loses no more
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "source_id")]
    pub(crate) record_every: Span,
    /// How hard to compress
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) compression: CompressionLevel,
    /// Do not open each blob again after sealing it
    #[arg(long)]
    pub(crate) no_extra_verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionLevel {
    /// Not at all
    Off,
    /// zstd 1
    Fast,
    /// zstd 3
    Default,
    /// zstd 12
    Better,
}

/// Which snapshots count.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only snapshots of this host
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// Only snapshots of this path
    #[arg(long = "path", value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Only snapshots with this tag
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub(crate) tags: Vec<String>,
}

/// Some snapshots.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Only these [default: all that the filters let through]
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["host", "paths", "tags"])]
    pub(crate) snapshots: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// Which is meant by `latest`.
#[derive(Debug, Args)]
pub(crate) struct Latest {
    /// With `latest`: the newest that is not younger than this, for instance 2h or 2026-11-20T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<TimePoint>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// `latest`, or the first digits of an id; SNAPSHOT:PATH for a part of it
    pub(crate) snapshot: String,
    /// Directory or block device to write to
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) latest: Latest,
    /// Restore only what matches
    #[arg(short, long = "include", value_name = "PATTERN")]
    pub(crate) includes: Vec<String>,
    /// Leave out what matches
    #[arg(short, long = "exclude", value_name = "PATTERN", conflicts_with = "includes")]
    pub(crate) excludes: Vec<String>,
    /// What to do with files that are there already; without this a target that is not empty is refused
    #[arg(long, value_enum)]
    pub(crate) overwrite: Option<OverwriteMode>,
    /// Remove what the snapshot does not have from the directories that are restored; --dry-run shows it first. What --exclude
    /// leaves out stays, and after an error nothing more goes
    #[arg(long, requires = "overwrite")]
    pub(crate) delete: bool,
    /// Say what would be done, write nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Read everything back and compare it
    #[arg(long)]
    pub(crate) verify: bool,
    /// Leave holes where there are only zeros
    #[arg(long)]
    pub(crate) sparse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverwriteMode {
    /// Compare all of their content, and write what differs
    Always,
    /// Believe those of the same size and time; compare the others, and write what differs
    IfChanged,
    /// Keep them all
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct From {
    /// The repository to copy from [env: MOVER_FROM_REPOSITORY or RESTIC_FROM_REPOSITORY]
    #[arg(long, visible_alias = "from-repo", value_name = "R")]
    pub(crate) from_repository: Option<String>,
    /// File whose first line is its password [env: MOVER_FROM_PASSWORD_FILE; MOVER_FROM_PASSWORD holds the password itself;
    /// restic's names work too]
    #[arg(long, value_name = "FILE")]
    pub(crate) from_password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The same data is stored once only if both repositories cut files alike: create the other one with\n  mover init --copy-chunker-params --from-repository R\n\nExample:\n  mover -r /mnt/disk copy --from-repository s3://bucket/prefix latest"
)]
pub(crate) struct Copy {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    #[command(flatten)]
    pub(crate) from: From,
    /// Say what would be copied; change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}
