//! The commands, a file each: from settings to an exit code.

mod backup;
mod check;
mod dump;
mod forget;
mod generate;
mod init;
mod key;
mod ls;
mod prune;
mod repair;
mod restore;
mod snapshots;
mod unlock;

use contract::ExitCode;
use repository::snapshots::{Filter, Stored};

use crate::cli::args::{self, Command};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::cli::values::TimePoint;

pub(crate) fn run(settings: &Settings, command: Command) -> Result<ExitCode, CommandError> {
    match command {
        Command::Init { if_missing } => init::run(settings, if if_missing { init::Existing::Keep } else { init::Existing::Refuse }),
        Command::Backup(args) => backup::run(settings, *args),
        Command::Restore(args) => restore::run(settings, *args),
        Command::Snapshots(args) => snapshots::run(settings, args),
        Command::Ls(args) => ls::run(settings, args),
        Command::Dump(args) => dump::run(settings, args),
        Command::Check(args) => check::run(settings, &args),
        Command::Forget(args) => forget::run(settings, *args),
        Command::Prune(args) => prune::run(settings, &args),
        Command::Repair(args) => repair::run(settings, &args.what),
        Command::Key(args) => key::run(settings, args.action),
        Command::Unlock(args) => unlock::run(settings, &args),
        Command::Completions { shell } => generate::completions(settings, shell),
        Command::Man { directory } => generate::man(&directory),
    }
}

fn filter(args: args::Filter, before: Option<TimePoint>) -> Filter {
    Filter { host: args.host, paths: args.paths, tags: args.tags, before: before.map(|time| time.0) }
}

/// A time as `snapshots` shows it.
fn shown_time(stored: &Stored) -> String {
    stored.snapshot.time.local().strftime("%Y-%m-%d %H:%M:%S").to_string()
}
