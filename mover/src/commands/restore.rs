//! `mover restore`.

use std::sync::atomic::{AtomicU64, Ordering};

use contract::{ExitCode, Line, RestoreSummary};
use repository::snapshots::Stored;

use super::{Opened, open, split};
use crate::backup::release;
use crate::cli::args::{OverwriteMode, Restore};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{requests, summary};
use crate::restore::{self, Counts, Extras, Overwrite, ReadBack, Request, RestoreMode, Zeros};
use crate::source::exclude::Excludes;

pub(super) fn run(settings: &Settings, args: Restore) -> Result<ExitCode, CommandError> {
    if args.delete && args.overwrite == Some(OverwriteMode::Never) {
        return Err(CommandError::usage("--delete makes a target what the snapshot is, and --overwrite never does not"));
    }
    let (wanted, subpath) = split(&args.snapshot);
    let includes = Excludes::new(args.includes).map_err(CommandError::usage)?;
    let excludes = Excludes::new(args.excludes).map_err(CommandError::usage)?;
    let Opened { repository, lock, stored: Stored { id, snapshot }, index } = open(settings, wanted, args.latest)?;
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
        extras: if args.delete { Extras::Delete } else { Extras::Keep },
        mode: if args.dry_run { RestoreMode::DryRun } else { RestoreMode::Write },
        read_back: if args.verify { ReadBack::Yes } else { ReadBack::No },
        zeros: if args.sparse { Zeros::Skip } else { Zeros::Write },
        shares: settings.shares,
    };
    let report = &settings.report;
    report.progress().set_snapshot(id.hex());
    let counts = report.during(|| restore::run(&repository, &index, &request, report))?;
    release(lock, report);
    let summary = summarize(&counts, id.hex(), settings, &request, requests(repository.counters()));
    report.last(&Line::RestoreSummary(summary.clone()), || summary::restore(&summary))?;
    Ok(if report.errors() > 0 { ExitCode::Incomplete } else { ExitCode::Success })
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
        bytes_in_place: get(&counts.bytes_in_place),
        deleted: get(&counts.deleted),
        extras_kept: get(&counts.extras_kept),
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
