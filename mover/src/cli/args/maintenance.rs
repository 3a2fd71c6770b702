//! What keeps a repository in order: retention, pruning, checks, repairs, keys and locks.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Chosen, Filter};
use crate::cli::values::{Age, Bytes, Count, MaxUnused, Share, Span};

#[derive(Debug, Args)]
#[command(
    after_help = "Whatever any rule wants stays. What would stay without those snapshots that lack items stays, too, and the\nlast complete one of a group stays unless --remove-last says otherwise. Days, weeks, months and years are those of this machine's time zone (TZ).\n\nExample:\n  mover forget --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run"
)]
pub(crate) struct Forget {
    /// Forget these and no others, by the first digits of their ids
    #[arg(value_name = "ID", conflicts_with_all = ["host", "paths", "tags"])]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) keep: Keep,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Snapshots follow one another that have these in common; an empty text takes all together
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "host,paths")]
    pub(crate) group_by: Vec<GroupKey>,
    /// Let the last complete snapshot of a group go, too
    #[arg(long)]
    pub(crate) remove_last: bool,
    /// Say what would stay, and why, and what would go; remove nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Keep")]
#[group(id = "rules", multiple = true, conflicts_with = "ids")]
pub(crate) struct Keep {
    /// The newest N snapshots (N may be all, here and below)
    #[arg(short = 'l', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) keep_last: Option<Count>,
    /// The newest of each of the last N hours that have snapshots
    #[arg(short = 'H', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) keep_hourly: Option<Count>,
    /// The newest of each of the last N days that have snapshots
    #[arg(short = 'd', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) keep_daily: Option<Count>,
    /// The newest of each of the last N weeks that have snapshots
    #[arg(short = 'w', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) keep_weekly: Option<Count>,
    /// The newest of each of the last N months that have snapshots
    #[arg(short = 'm', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) keep_monthly: Option<Count>,
    /// The newest of each of the last N years that have snapshots
    #[arg(short = 'y', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) keep_yearly: Option<Count>,
    /// All that are not older than the newest by more than this, for instance 30d or 1y6m
    #[arg(long, value_name = "AGE")]
    pub(crate) keep_within: Option<Age>,
    /// All with this tag, or with all of these; may be said again
    #[arg(long, value_name = "TAG,..")]
    pub(crate) keep_tag: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroupKey {
    /// Machine or cluster
    Host,
    /// What was saved
    #[value(alias = "path")]
    Paths,
    /// All tags
    #[value(alias = "tag")]
    Tags,
    /// All together
    #[value(name = "")]
    Nothing,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Read every byte of every pack
    #[arg(long, conflicts_with = "read_data_subset")]
    pub(crate) read_data: bool,
    /// Read that share of the packs, chosen at random, for instance 5%
    #[arg(long, value_name = "SHARE")]
    pub(crate) read_data_subset: Option<Share>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "On S3 it works beside backups. What is to go is removed when nobody is at work any more who began before it was chosen; it says who that is, waits for them as long as --retry-lock says, and otherwise leaves it to the next prune.\nIn a local repository it is refused while somebody works there, and others while it works (exit code 11), unless they wait with --retry-lock. One that was ended in the middle has lost nothing: the next one goes on.\n\nExample:\n  mover forget --keep-daily 7 && mover prune --max-unused 10% --dry-run"
)]
pub(crate) struct Prune {
    /// What may stay though nothing needs it: a share of what is stored in the end, a size, or unlimited. Less costs more requests and traffic
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    pub(crate) max_unused: MaxUnused,
    /// Prune also where there is no snapshot at all: everything goes
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Store at most so many bytes again; the rest is for the next time
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_repack_size: Option<Bytes>,
    /// Say what would be done; change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(subcommand)]
    pub(crate) what: RepairWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RepairWhat {
    /// Name the packs that are there, from their own lists, and no others; files and snapshots stay as they are
    #[command(
        after_help = "Packs that are gone are no longer named: the next backup stores again what it still has of them. `mover check` says which files\nare lost. Without --apply, packs of a backup that is under way count too: it names them soon. It waits for nobody unless --retry-lock says so.\n\nExample:\n  mover repair index && mover repair index --apply"
    )]
    Index {
        /// Do it
        #[arg(long)]
        apply: bool,
    },
    /// Read packs from end to end; store again what can be read of those that are damaged, and remove them
    #[command(
        after_help = "What is lost then is in no index any more: the next backup that has it stores it again. `mover repair snapshots` comes after it.\n\nExample:\n  mover repair packs && mover repair packs --apply"
    )]
    Packs {
        /// Only those whose ids begin so [default: all]
        #[arg(value_name = "PACK")]
        packs: Vec<String>,
        /// Do it
        #[arg(long)]
        apply: bool,
    },
    /// Save snapshots that lack something again, without what is lost
    #[command(
        after_help = "The new ones bear the tag estiba:incomplete, and never displace a complete one. After `repair index` and `repair packs`.\n\nExample:\n  mover repair snapshots && mover repair snapshots --apply --forget"
    )]
    Snapshots {
        /// Only these [default: all]
        #[arg(value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
        /// Do it
        #[arg(long)]
        apply: bool,
        /// Remove the old ones, once the new ones are saved
        #[arg(long, requires = "apply")]
        forget: bool,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Packs stay as they are until `mover prune`.\n\nExample:\n  mover rewrite --exclude '*.tmp' --dry-run && mover rewrite --exclude '*.tmp' --forget"
)]
pub(crate) struct Rewrite {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Leave out what matches
    #[arg(short, long = "exclude", value_name = "PATTERN", required = true)]
    pub(crate) excludes: Vec<String>,
    /// Remove the old ones, once the new ones are saved
    #[arg(long)]
    pub(crate) forget: bool,
    /// Say what would be left out; change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each is saved again with its new tags, and the old one is removed: its id changes, its first id is kept as `original`.\nestiba:incomplete stays unless --remove names it: it keeps a snapshot that lacks items from displacing a complete one.\n\nExample:\n  mover tag --add before-upgrade latest"
)]
pub(crate) struct Tag {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    #[command(flatten)]
    pub(crate) change: TagChange,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Change")]
#[group(id = "change", required = true, multiple = true)]
pub(crate) struct TagChange {
    /// These instead of what there is; an empty text takes all away
    #[arg(long, value_name = "TAG", value_delimiter = ',', conflicts_with_all = ["add", "remove"])]
    pub(crate) set: Option<Vec<String>>,
    /// These too
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub(crate) add: Vec<String>,
    /// Not these
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) action: KeyAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// List passwords by id, user and time
    List,
    /// Add a password
    Add {
        /// File whose first line is the new password
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
    /// Remove a password
    Remove {
        /// First digits of its id
        id: String,
    },
    /// Replace the password in use
    Passwd {
        /// File whose first line is the new password
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Unlock {
    /// Remove all locks, also fresh ones: only when it is certain that nobody is at work
    #[arg(long)]
    pub(crate) remove_all: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What snapshots need is `config`, keys, snapshots, index files, and packs; what they do not need does not count. Every object is\nasked for; --json prints a line for each. It needs s3:GetObjectRetention, and looks at that, not at\ncontent: `mover check --read-data` does. A legal hold counts for nothing, for whoever may set it may end it.\n\nExample:\n  mover lock-report --at-least 14d"
)]
pub(crate) struct LockReport {
    /// Fail (exit code 1) unless all of it is retained for so long from now on
    #[arg(long, value_name = "TIME")]
    pub(crate) at_least: Option<Span>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A backup retains what it writes, not what it finds stored: run this each night.\nIt needs s3:PutObjectRetention. Nothing is ever shortened, and what compliance retains stays so.\n\nExample:\n  mover lock-extend --s3-retain compliance:30d"
)]
pub(crate) struct LockExtend {
    /// Leave alone what is retained for so long anyway [default: half of --s3-retain]
    #[arg(long, value_name = "TIME")]
    pub(crate) at_least: Option<Span>,
}
