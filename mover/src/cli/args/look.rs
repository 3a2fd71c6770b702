//! What looks at snapshots and changes nothing.

use std::path::PathBuf;

use clap::Args;

use super::{Chosen, Filter, Latest};
use crate::cli::values::TimePoint;

#[derive(Debug, Args)]
pub(crate) struct Snapshots {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only snapshots that are not younger than this
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<TimePoint>,
    /// Leave out so many of the newest: those that were listed before
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip: usize,
    /// Only so many of the newest
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// `latest`, or the first digits of an id
    pub(crate) snapshot: String,
    /// Directory or file to list
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) latest: Latest,
    /// Modes, owners, sizes and times too
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Levels below PATH [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) depth: Option<u32>,
    /// Leave out so many entries: those that were listed before
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip: u64,
    /// So many entries at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mover find '*.conf' --path /shop/data\n  mover find /shop/data/orders --long\nThen:\n  mover restore SNAPSHOT:PATH TARGET"
)]
pub(crate) struct Find {
    /// What to look for; without a slash at the start it matches anywhere
    #[arg(value_name = "PATTERN", required = true)]
    pub(crate) patterns: Vec<String>,
    /// Only in these [default: all that the filters let through]
    #[arg(short, long = "snapshot", value_name = "SNAPSHOT", conflicts_with_all = ["host", "paths", "tags"])]
    pub(crate) snapshots: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Modes, owners, sizes and times too
    #[arg(short, long)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "+ added, - removed, M content changed, T is of another kind, U only mode, owner, time or attributes changed,\n? content changed, but neither size nor time: damage of the source, or a program that sets times back\n\nExample:\n  mover diff 1a2b3c4d latest"
)]
pub(crate) struct Diff {
    /// The one before: `latest`, or the first digits of an id; SNAPSHOT:PATH for a part of it
    #[arg(value_name = "BEFORE")]
    pub(crate) from: String,
    /// The one after
    #[arg(value_name = "AFTER")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Also where only mode, owner, time or attributes differ
    #[arg(long)]
    pub(crate) metadata: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The paths in an archive begin at the directory. Owners, modes, times to the nanosecond, extended attributes, hard links\nand devices are in it; sockets are not.\n\nExample:\n  mover dump latest /shop/data | tar -x --xattrs --xattrs-include='*' -C /mnt"
)]
pub(crate) struct Dump {
    /// `latest`, or the first digits of an id
    pub(crate) snapshot: String,
    /// File or directory to write out [default: all that `restore` would restore]
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) latest: Latest,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// `latest`, or the first digits of an id; SNAPSHOT:PATH for a part of it
    pub(crate) snapshot: String,
    #[command(flatten)]
    pub(crate) latest: Latest,
}
