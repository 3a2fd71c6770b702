//! `mover check`.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::{CheckSummary, ExitCode, Line, Severity};
use repository::check::{self, Counts, ReadData};

use super::reading;
use crate::cli::args::Check;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{requests, summary};

pub(super) fn run(settings: &Settings, args: &Check) -> Result<ExitCode, CommandError> {
    let read = match (args.read_data, args.read_data_subset) {
        (true, _) => ReadData::All,
        (false, Some(share)) => ReadData::Share(share.0),
        (false, None) => ReadData::No,
    };
    let repository = settings.open()?;
    let (lock, ()) = reading(settings, &repository, || Ok(()))?;
    let (report, counts) = (&settings.report, Counts::default());
    let on_finding = |finding: check::Finding| {
        let severity = match finding.severity {
            check::Severity::Error => Severity::Error,
            check::Severity::Hint => Severity::Warning,
        };
        report.item(Path::new(&finding.object), &finding.problem, severity);
    };
    report.during(|| check::run(&repository, read, &settings.shares, &counts, &on_finding))?;
    lock.release()?;
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let summary = CheckSummary {
        snapshots: get(&counts.snapshots),
        trees: get(&counts.trees),
        packs: get(&counts.packs),
        blobs: get(&counts.blobs),
        packs_read: get(&counts.packs_read),
        bytes_read: get(&counts.bytes_read),
        errors: report.errors(),
        hints: report.warnings(),
        seconds: report.seconds(),
        requests: requests(repository.counters()),
    };
    let errors = summary.errors;
    report.last(&Line::CheckSummary(summary.clone()), || summary::check(&summary))?;
    Ok(if errors > 0 { ExitCode::Failure } else { ExitCode::Success })
}
