//! `mover prune`.

use std::path::Path;

use contract::{ExitCode, Line, PruneSummary, Requests, Severity};
use repository::format::lock::LockMode;
use repository::lock::Lock;
use repository::prune::{self, Options, Planned};

use crate::cli::args::Prune;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{requests, summary};

pub(super) fn run(settings: &Settings, args: &Prune) -> Result<ExitCode, CommandError> {
    let max_repack_bytes = args.max_repack_size.map_or(u64::MAX, |size| size.0);
    let options = Options {
        max_unused: args.max_unused.0,
        max_repack_bytes,
        shares: settings.shares.without_sources(),
        batch_blobs: prune::BATCH_BLOBS,
        may_empty: args.allow_empty,
    };
    let repository = settings.open()?;
    // Looking alone is in nobody's way.
    let mode = if args.dry_run { LockMode::Shared } else { LockMode::Exclusive };
    let lock = Lock::acquire(&repository, mode, settings.retry_lock)?;
    let report = &settings.report;
    let planned = report.during(|| {
        let planned = prune::look(&repository, &options)?;
        report.progress().set_totals(0, planned.packs.repacked());
        if !args.dry_run {
            prune::run(&repository, &planned, &options, &|bytes| report.progress().add(0, bytes))?;
        }
        Ok::<_, CommandError>(planned)
    })?;
    lock.release()?;
    if planned.lost > 0 {
        let problem = format!("{} packs that the index named were not there; nothing needs them, but something removed them", planned.lost);
        report.item(Path::new("data/"), &problem, Severity::Warning);
    }
    let summary = PruneSummary {
        blobs_needed: planned.needed_blobs,
        bytes_needed: planned.needed_bytes,
        blobs_unused: planned.unused_blobs,
        bytes_before: planned.bytes_before,
        bytes_freed: planned.freed(),
        bytes_unused_after: planned.packs.unused_after(),
        packs_kept: planned.packs.keep.len() as u64,
        packs_repacked: planned.packs.repack.len() as u64,
        bytes_repacked: planned.packs.repacked(),
        packs_removed: (planned.packs.remove.len() + planned.orphans.len()) as u64,
        seconds: report.seconds(),
        dry_run: args.dry_run,
        requests: if args.dry_run { estimate(&planned, &options) } else { requests(repository.counters()) },
    };
    report.last(&Line::PruneSummary(summary.clone()), || summary::prune(&summary))?;
    Ok(ExitCode::Success)
}

/// What it would take, without the looking.
fn estimate(planned: &Planned, options: &Options) -> Requests {
    let (put, get, delete) = planned.requests(options);
    let bytes = planned.packs.repacked();
    Requests { put, get, delete, head: put + delete, bytes_sent: bytes, bytes_received: bytes, ..Requests::default() }
}
