//! `mover repair`.

use std::path::Path;

use contract::{ExitCode, Line, RepairSummary, Severity};
use repository::format::lock::LockMode;
use repository::id::PackId;
use repository::lock::Lock;
use repository::object::ObjectName;
use repository::repair::{self, Mode, Wrong};

use crate::cli::args::RepairWhat;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{Output, human};

pub(super) fn run(settings: &Settings, what: &RepairWhat) -> Result<ExitCode, CommandError> {
    let RepairWhat::Index { apply } = *what;
    let repository = settings.open()?;
    // Looking alone is in nobody's way.
    let (mode, lock) = if apply { (Mode::Apply, LockMode::Exclusive) } else { (Mode::Look, LockMode::Shared) };
    let lock = Lock::acquire(&repository, lock, settings.retry_lock)?;
    let wrong = repair::index(&repository, mode)?;
    lock.release()?;
    say(settings, &wrong);
    let summary = RepairSummary {
        index_files_removed: wrong.unreadable.len() as u64,
        packs_named: wrong.unnamed.len() as u64,
        packs_forgotten: wrong.misnamed.len() as u64,
        packs_unreadable: wrong.lost.len() as u64,
        dry_run: !apply,
    };
    settings.report.end(&Line::RepairSummary(summary.clone()));
    if matches!(settings.report.output(), Output::Text | Output::Verbose) {
        settings.report.print(&shown(&summary, !wrong.is_nothing()))?;
    }
    Ok(ExitCode::Success)
}

/// Each thing that is wrong.
fn say(settings: &Settings, wrong: &Wrong) {
    let item = |object: String, problem: &str, severity| settings.report.item(Path::new(&object), problem, severity);
    let pack = |id: &PackId| ObjectName::pack(*id).path();
    wrong.unreadable.iter().for_each(|(name, why)| item(name.path(), why, Severity::Warning));
    wrong.unnamed.iter().for_each(|id| item(pack(id), "is there, and no index file names it as it is", Severity::Warning));
    wrong.misnamed.iter().for_each(|id| item(pack(id), "is named, and is not there as that index file says", Severity::Error));
    wrong.lost.iter().for_each(|(id, why)| item(pack(id), why, Severity::Error));
}

fn shown(summary: &RepairSummary, is_needed: bool) -> String {
    if !is_needed {
        return "the index says what is there: nothing to repair".to_owned();
    }
    let (named, forgotten) = (human::count(summary.packs_named), human::count(summary.packs_forgotten));
    let files = human::count(summary.index_files_removed);
    let what = format!("{named} packs named again, {forgotten} no longer named, {files} unreadable index files removed");
    let next = if summary.dry_run { "nothing was changed: say --apply to do it" } else { "`mover check` says what is still lost" };
    format!("{what}; {next}")
}
