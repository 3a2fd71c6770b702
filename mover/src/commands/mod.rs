//! The commands, a file each: from settings to an exit code.

mod backup;
mod check;
mod copy;
mod diff;
mod dump;
mod entry;
mod find;
mod forget;
mod generate;
mod init;
mod key;
mod ls;
mod object_lock;
mod prune;
mod repair;
mod restore;
mod rewrite;
mod snapshots;
mod stats;
mod tag;
mod unlock;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use contract::ExitCode;
use repository::Repository;
use repository::format::lock::LockMode;
use repository::index::Index;
use repository::lock::Lock;
use repository::snapshots::{Filter, LATEST, Stored};

use crate::cli::args::{self, Command};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::cli::values::TimePoint;

pub(crate) fn run(settings: &Settings, command: Command) -> Result<ExitCode, CommandError> {
    if settings.no_lock && !may_go_without_lock(&command) {
        return Err(CommandError::usage("--no-lock and --s3-as-of go with commands that only read; this one takes a lock"));
    }
    match command {
        Command::Init { if_missing, copy_chunker_params, from } => {
            if from.from_repository.is_some() && !copy_chunker_params {
                return Err(CommandError::usage(
                    "--from-repository without --copy-chunker-params: the new repository would cut files otherwise",
                ));
            }
            let existing = if if_missing { init::Existing::Keep } else { init::Existing::Refuse };
            init::run(settings, existing, copy_chunker_params.then_some(&from))
        }
        Command::Backup(args) => backup::run(settings, *args),
        Command::Restore(args) => restore::run(settings, *args),
        Command::Snapshots(args) => snapshots::run(settings, args),
        Command::Ls(args) => ls::run(settings, args),
        Command::Find(args) => find::run(settings, args),
        Command::Diff(args) => diff::run(settings, args),
        Command::Stats(args) => stats::run(settings, args),
        Command::Dump(args) => dump::run(settings, args),
        Command::Check(args) => check::run(settings, &args),
        Command::Verify(args) => verify::run(settings, args),
        Command::Forget(args) => forget::run(settings, *args),
        Command::Prune(args) => prune::run(settings, &args),
        Command::Repair(args) => repair::run(settings, args.what),
        Command::Copy(args) => copy::run(settings, *args),
        Command::Rewrite(args) => rewrite::run(settings, args),
        Command::Tag(args) => tag::run(settings, args),
        Command::Key(args) => key::run(settings, args.action),
        Command::Unlock(args) => unlock::run(settings, &args),
        Command::LockReport(args) => object_lock::report(settings, &args),
        Command::LockExtend(args) => object_lock::extend(settings, &args),
        Command::Completions { shell } => generate::completions(settings, shell),
        Command::Man { directory } => generate::man(&directory),
    }
}

fn may_go_without_lock(command: &Command) -> bool {
    match command {
        Command::Init { copy_chunker_params: true, .. }
        | Command::Restore(_)
        | Command::Snapshots(_)
        | Command::Ls(_)
        | Command::Find(_)
        | Command::Diff(_)
        | Command::Stats(_)
        | Command::Dump(_)
        | Command::Check(_)
        | Command::Verify(_)
        | Command::Copy(_)
        | Command::Prune(args::Prune { dry_run: true, .. })
        | Command::Key(args::Key { action: args::KeyAction::List })
        | Command::LockReport(_)
        | Command::Completions { .. }
        | Command::Man { .. } => true,
        Command::Init { .. }
        | Command::Backup(_)
        | Command::Forget(_)
        | Command::Prune(_)
        | Command::Repair(_)
        | Command::Rewrite(_)
        | Command::Tag(_)
        | Command::Key(_)
        | Command::LockExtend(_)
        | Command::Unlock(_) => false,
    }
}

fn filter(args: args::Filter, before: Option<TimePoint>) -> Filter {
    Filter { host: args.host, paths: args.paths, tags: args.tags, before: before.map(|time| time.0) }
}

/// One or more snapshots, what is needed to read them, and the lock that keeps that.
struct Opened<T> {
    repository: Arc<Repository>,
    lock: Lock,
    stored: T,
    index: Arc<Index>,
}

/// Opens `latest`, or the beginning of an id.
fn open(settings: &Settings, wanted: &str, latest: args::Latest) -> Result<Opened<Stored>, CommandError> {
    if latest.before.is_some() && wanted != LATEST {
        return Err(CommandError::usage("--before goes with `latest`: an id is one point in time already"));
    }
    let filter = filter(latest.filter, latest.before);
    open_with(settings, |repository| repository.find_snapshot(wanted, &filter))
}

fn open_with<T: Send>(settings: &Settings, find: impl Fn(&Repository) -> repository::Result<T> + Sync) -> Result<Opened<T>, CommandError> {
    let repository = settings.open()?;
    // Snapshots before the index: what they need was stored before them.
    let read = || Ok((find(&repository)?, Arc::new(Index::load(&repository, settings.shares.index_bytes)?)));
    let (lock, (stored, index)) = reading(settings, &repository, read)?;
    Ok(Opened { repository, lock, stored, index })
}

/// The lock of whoever only reads, and what is read as soon as it is written; or without one, if that was asked for.
fn reading<T: Send>(
    settings: &Settings,
    repository: &Arc<Repository>,
    read: impl Fn() -> repository::Result<T> + Sync,
) -> repository::Result<(Lock, T)> {
    if settings.no_lock {
        return Ok((Lock::none(repository), read()?));
    }
    Lock::acquire_and(repository, LockMode::Shared, settings.retry_lock, |_| read())
}

/// `SNAPSHOT:PATH`.
fn split(text: &str) -> (&str, Option<PathBuf>) {
    match text.split_once(':') {
        Some((snapshot, path)) => (snapshot, Some(PathBuf::from(path))),
        None => (text, None),
    }
}

/// A time as `snapshots` shows it.
fn shown_time(stored: &Stored) -> String {
    stored.snapshot.time.local().strftime("%Y-%m-%d %H:%M:%S").to_string()
}
