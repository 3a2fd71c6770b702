//! `mover prune`.

use std::path::Path;

use contract::{ExitCode, Line, PruneSummary, Requests, Severity};
use repository::prune::{self, Options, Outcome, Planned, Watch, Way};

use super::reading;
use crate::cli::args::Prune;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{requests, summary};

pub(super) fn run(settings: &Settings, args: &Prune) -> Result<ExitCode, CommandError> {
    let max_repack_bytes = args.max_repack_size.map_or(u64::MAX, |size| size.0);
    let options = Options {
        max_unused: args.max_unused.0,
        max_repack_bytes,
        shares: settings.shares,
        batch_blobs: prune::BATCH_BLOBS,
        may_empty: args.allow_empty,
    };
    let repository = settings.open()?;
    let report = &settings.report;
    let on_planned = |planned: &Planned| report.progress().set_totals(0, planned.packs.repacked());
    let on_repacked = |bytes| report.progress().add(0, bytes);
    let Outcome { planned, removed, waiting } = report.during(|| {
        if args.dry_run {
            // Looking alone is in nobody's way.
            let (lock, ()) = reading(settings, &repository, || Ok(()))?;
            let planned = prune::look(&repository, &options)?;
            lock.release()?;
            return Ok(Outcome { removed: planned.goes(), planned, waiting: None });
        }
        let watch = Watch { on_planned: &on_planned, on_repacked: &on_repacked };
        prune::run(&repository, &options, Way::of(&repository)?, settings.retry_lock, watch)
    })?;
    if planned.lost > 0 {
        let problem = format!("{} packs that the index named were not there; nothing needs them, but something removed them", planned.lost);
        report.item(Path::new("data/"), &problem, Severity::Warning);
    }
    let summary = PruneSummary {
        blobs_needed: planned.needed_blobs,
        bytes_needed: planned.needed_bytes,
        blobs_unused: planned.unused_blobs,
        bytes_before: planned.bytes_before,
        bytes_freed: removed.bytes.saturating_sub(planned.packs.repacked()),
        bytes_unused_after: planned.packs.unused_after(),
        packs_kept: planned.packs.keep.len() as u64,
        packs_repacked: planned.packs.repack.len() as u64,
        bytes_repacked: planned.packs.repacked(),
        packs_removed: removed.packs.saturating_sub(planned.packs.repack.len() as u64),
        packs_waiting: waiting.as_ref().map_or(0, |waiting| waiting.packs),
        bytes_waiting: waiting.as_ref().map_or(0, |waiting| waiting.bytes),
        waits_for: waiting.map(|waiting| waiting.holders).unwrap_or_default(),
        packs_retained: planned.retained.packs.len() as u64,
        bytes_retained: planned.retained.bytes,
        retained_until: planned.retained.until.map(|until| until.to_string()),
        keeps_versions: planned.is_versioned,
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
