//! `mover verify`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use contract::{ExitCode, Line, VerifySummary};
use repository::snapshots::Stored;

use super::{Opened, open, split};
use crate::cli::args::Verify;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{requests, summary};
use crate::restore::{self, Extras, Overwrite, ReadBack, Request, RestoreMode, Zeros};
use crate::source::exclude::Excludes;

pub(super) fn run(settings: &Settings, args: Verify) -> Result<ExitCode, CommandError> {
    let (wanted, subpath) = split(&args.snapshot);
    let Opened { repository, lock, stored: Stored { id, snapshot }, index } = open(settings, wanted, args.latest)?;
    let request = Request {
        snapshot,
        subpath,
        target: PathBuf::new(),
        includes: Excludes::default(),
        excludes: Excludes::default(),
        overwrite: Overwrite::Refuse,
        extras: Extras::Keep,
        mode: RestoreMode::Nowhere,
        read_back: ReadBack::No,
        zeros: Zeros::Write,
        shares: settings.shares,
    };
    let report = &settings.report;
    let counts = report.during(|| restore::run(&repository, &index, &request, report))?;
    lock.release()?;
    let summary = VerifySummary {
        snapshot_id: id.hex(),
        files: counts.files.load(Ordering::Relaxed),
        dirs: counts.dirs.load(Ordering::Relaxed),
        others: counts.others.load(Ordering::Relaxed),
        bytes: counts.bytes.load(Ordering::Relaxed),
        errors: report.errors(),
        seconds: report.seconds(),
        requests: requests(repository.counters()),
    };
    report.last(&Line::VerifySummary(summary.clone()), || summary::verify(&summary))?;
    Ok(if summary.errors > 0 { ExitCode::Failure } else { ExitCode::Success })
}
