//! `mover restore`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::{ExitCode, Line, RestoreSummary};
use repository::format::lock::LockMode;
use repository::index::Index;
use repository::lock::Lock;
use repository::snapshots::Stored;

use super::filter;
use crate::backup::release;
use crate::cli::args::{OverwriteMode, Restore};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{Output, requests, summary};
use crate::restore::{self, Counts, Overwrite, ReadBack, Request, RestoreMode, Zeros};
use crate::source::exclude::Excludes;

pub(super) fn run(settings: &Settings, args: Restore) -> Result<ExitCode, CommandError> {
    let (wanted, subpath) = split(&args.snapshot);
    if args.before.is_some() && wanted != "latest" {
        return Err(CommandError::usage("--before goes with `latest`: an id is one point in time already"));
    }
    let includes = Excludes::new(args.includes).map_err(CommandError::usage)?;
    let excludes = Excludes::new(args.excludes).map_err(CommandError::usage)?;
    let repository = settings.open()?;
    let filter = filter(args.filter, args.before);
    // Snapshots before the index: what they need was stored before them.
    let read = || {
        let found = repository.find_snapshot(wanted, &filter)?;
        Ok((found, Arc::new(Index::load(&repository, settings.shares.index_bytes)?)))
    };
    let (lock, (Stored { id, snapshot }, index)) = Lock::acquire_and(&repository, LockMode::Shared, settings.retry_lock, read)?;
    let request = Request {
        snapshot,
        subpath,
        target: args.target,
        includes,
        excludes,
        overwrite: match args.overwrite {
            None => Overwrite::Refuse,
            Some(OverwriteMode::Always) => Overwrite::Always,
            Some(OverwriteMode::IfChanged) => Overwrite::IfChanged,
            Some(OverwriteMode::Never) => Overwrite::Never,
        },
        mode: if args.dry_run { RestoreMode::DryRun } else { RestoreMode::Write },
        read_back: if args.verify { ReadBack::Yes } else { ReadBack::No },
        zeros: if args.sparse { Zeros::Skip } else { Zeros::Write },
        shares: settings.shares,
    };
    let report = &settings.report;
    // All of it, or what was stored under one path, and nothing else was.
    let is_whole = request.subpath.as_ref().is_none_or(|path| matches!(request.snapshot.paths.as_slice(), [one] if path == Path::new(one)));
    if is_whole && let Some(totals) = &request.snapshot.summary {
        report.progress().set_totals(totals.total_files_processed, totals.total_bytes_processed);
    }
    let counts = report.during(|| restore::run(&repository, &index, &request, report))?;
    release(lock, report);
    let summary = summarize(&counts, id.hex(), settings, &request, requests(repository.counters()));
    report.end(&Line::RestoreSummary(summary.clone()));
    match report.output() {
        Output::Json | Output::Quiet => {}
        Output::Text | Output::Verbose => report.print(&summary::restore(&summary))?,
    }
    Ok(if report.errors() > 0 { ExitCode::Incomplete } else { ExitCode::Success })
}

/// `SNAPSHOT:PATH`.
fn split(text: &str) -> (&str, Option<PathBuf>) {
    match text.split_once(':') {
        Some((snapshot, path)) => (snapshot, Some(PathBuf::from(path))),
        None => (text, None),
    }
}

fn summarize(counts: &Counts, snapshot_id: String, settings: &Settings, request: &Request, requests: contract::Requests) -> RestoreSummary {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    RestoreSummary {
        snapshot_id,
        files_restored: get(&counts.files),
        files_skipped: get(&counts.skipped),
        dirs_restored: get(&counts.dirs),
        others_restored: get(&counts.others),
        bytes_restored: get(&counts.bytes),
        bytes_to_fetch: get(&counts.fetch_bytes),
        pack_requests: get(&counts.fetch_requests),
        bytes_verified: get(&counts.verified_bytes),
        errors: settings.report.errors(),
        owners_not_set: get(&counts.owners_not_set),
        seconds: settings.report.seconds(),
        requests,
        dry_run: request.mode == RestoreMode::DryRun,
    }
}
