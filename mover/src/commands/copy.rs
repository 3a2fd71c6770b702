//! `mover copy`.

use contract::{CopySummary, ExitCode, Line};
use repository::copy::{self, Watcher};
use repository::format::lock::LockMode;
use repository::lock::Lock;
use repository::write::WriteMode;

use super::{reading, snapshots};
use crate::cli::args::Copy;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::human::{bytes, count};
use crate::report::{Progress, requests};

pub(super) fn run(settings: &Settings, args: Copy) -> Result<ExitCode, CommandError> {
    let from = settings.open_other(&args.from)?;
    let to = settings.open_now()?;
    if from.config().id == to.config().id {
        return Err(CommandError::usage("that is one repository, or a copy of its files: there is nothing to copy"));
    }
    let (read, ()) = reading(settings, &from, || Ok(()))?;
    let write = Lock::acquire(&to, LockMode::Shared, settings.retry_lock)?;
    let wanted = snapshots::chosen(&from, args.chosen)?;
    let mode = if args.dry_run { WriteMode::DryRun } else { WriteMode::Store };
    let report = &settings.report;
    let shares = settings.shares;
    let copied = report.during(|| copy::run(&from, &to, &wanted, shares, mode, report.progress()))?;
    write.release()?;
    read.release()?;
    let summary = CopySummary {
        snapshots_copied: if args.dry_run { wanted.len() as u64 - copied.known } else { copied.saved.len() as u64 },
        snapshots_known: copied.known,
        saved: copied.saved.iter().map(|(old, new)| (old.hex(), new.hex())).collect(),
        blobs: copied.blobs,
        bytes: copied.bytes,
        dry_run: args.dry_run,
        seconds: report.seconds(),
        requests_from: requests(from.counters()),
        requests: requests(to.counters()),
    };
    let done = if args.dry_run { "would be copied" } else { "copied" };
    let what = format!("{} snapshots {done}, {} were there", count(summary.snapshots_copied), count(summary.snapshots_known));
    let sent = format!("{} in {} blobs that this repository lacked", bytes(summary.bytes), count(summary.blobs));
    report.last(&Line::CopySummary(summary), || format!("{what}; {sent}"))?;
    Ok(ExitCode::Success)
}

impl Watcher for Progress {
    fn planned(&self, bytes: u64) {
        self.set_totals(0, bytes);
    }

    fn copied(&self, bytes: u64) {
        self.add(0, bytes);
    }
}
