//! `mover repair`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::{ExitCode, Line, RepairPacksSummary, RepairSummary, RewriteSummary, Severity};
use repository::check::Counts;
use repository::format::lock::LockMode;
use repository::id::PackId;
use repository::lock::Lock;
use repository::object::ObjectName;
use repository::repair::{self, Mode, index, packs};

use super::{rewrite, snapshots};
use crate::cli::args::RepairWhat;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::human::count;

pub(super) fn run(settings: &Settings, what: RepairWhat) -> Result<ExitCode, CommandError> {
    match what {
        RepairWhat::Index { apply } => of_index(settings, mode(apply)),
        RepairWhat::Packs { packs, apply } => of_packs(settings, &packs, mode(apply)),
        RepairWhat::Snapshots { snapshots, apply, forget } => of_snapshots(settings, &snapshots, mode(apply), forget),
    }
}

const fn mode(apply: bool) -> Mode {
    if apply { Mode::Apply } else { Mode::Look }
}

/// Looking alone is in nobody's way.
const fn lock_mode(mode: Mode) -> LockMode {
    match mode {
        Mode::Look => LockMode::Shared,
        Mode::Apply => LockMode::Exclusive,
    }
}

fn of_index(settings: &Settings, mode: Mode) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    let lock = Lock::acquire(&repository, lock_mode(mode), settings.retry_lock)?;
    let wrong = index::run(&repository, mode)?;
    lock.release()?;
    let item = |object: String, problem: &str, severity| settings.report.item(Path::new(&object), problem, severity);
    let pack = |id: &PackId| ObjectName::pack(*id).path();
    wrong.unreadable.iter().for_each(|(name, why)| item(name.path(), why, Severity::Warning));
    wrong.unnamed.iter().for_each(|id| item(pack(id), "is there, and no index file names it as it is", Severity::Warning));
    wrong.misnamed.iter().for_each(|id| item(pack(id), "is named, and is not there as that index file says", Severity::Error));
    wrong.lost.iter().for_each(|(id, why)| item(pack(id), why, Severity::Error));
    let summary = RepairSummary {
        index_files_removed: wrong.unreadable.len() as u64,
        packs_named: wrong.unnamed.len() as u64,
        packs_forgotten: wrong.misnamed.len() as u64,
        packs_unreadable: wrong.lost.len() as u64,
        dry_run: mode == Mode::Look,
    };
    let text = if wrong.is_nothing() {
        "the index says what is there: nothing to repair".to_owned()
    } else {
        let (named, forgotten) = (count(summary.packs_named), count(summary.packs_forgotten));
        let files = count(summary.index_files_removed);
        let what = format!("{named} packs named again, {forgotten} no longer named, {files} unreadable index files removed");
        format!("{what}; {}", next(mode, "`mover check` says what is still lost"))
    };
    settings.report.last(&Line::RepairSummary(summary), || text)?;
    Ok(ExitCode::Success)
}

fn of_packs(settings: &Settings, wanted: &[String], mode: Mode) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    let lock = Lock::acquire(&repository, lock_mode(mode), settings.retry_lock)?;
    let (report, counts) = (&settings.report, Counts::default());
    let wrong = report.during(|| packs::run(&repository, wanted, mode, settings.shares, &counts))?;
    lock.release()?;
    for (id, why) in &wrong.damaged {
        report.item(Path::new(&ObjectName::pack(*id).path()), why, Severity::Error);
    }
    for (kind, id) in &wrong.lost {
        report.item(Path::new(&format!("{kind} blob {}", id.hex())), "is lost: no copy of it can be read", Severity::Error);
    }
    let summary = RepairPacksSummary {
        packs_read: counts.to_read.0.load(Ordering::Relaxed),
        packs_damaged: wrong.damaged.len() as u64,
        blobs_saved: wrong.saved,
        blobs_lost: wrong.lost.len() as u64,
        dry_run: mode == Mode::Look,
    };
    let read = count(summary.packs_read);
    let text = if wrong.damaged.is_empty() {
        format!("{read} packs are whole: nothing to repair")
    } else {
        let (damaged, saved) = (count(summary.packs_damaged), count(summary.blobs_saved));
        let what = format!("{damaged} of {read} packs are damaged: {saved} blobs saved, {} lost", count(summary.blobs_lost));
        format!("{what}; {}", next(mode, "back the sources up again, then `mover repair snapshots` does without what is still lost"))
    };
    report.last(&Line::RepairPacksSummary(summary), || text)?;
    Ok(ExitCode::Success)
}

fn of_snapshots(settings: &Settings, wanted: &[String], mode: Mode, forget: bool) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    // As `tag`: a policy that is applied beside it could take the new one for the double of the old.
    if forget {
        repository.may_remove()?;
    }
    let lock_mode = if forget { LockMode::Exclusive } else { LockMode::Shared };
    let lock = Lock::acquire(&repository, lock_mode, settings.retry_lock)?;
    let all = snapshots::named(&repository, wanted, &repository::snapshots::Filter::default())?;
    let (report, left_out) = (&settings.report, AtomicU64::new(0));
    let on_lost = |snapshot: &repository::id::ObjectId, path: &[u8], why: &str| {
        left_out.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        report.item(Path::new(&format!("snapshot {}: {}", snapshot.short(), crate::source::display(path))), why, Severity::Error);
    };
    let shares = settings.shares;
    let repaired = report.during(|| repair::snapshots::run(&repository, &all, mode, shares, &on_lost))?;
    rewrite::forget(&repository, &repaired.saved, forget)?;
    lock.release()?;
    let summary = RewriteSummary {
        snapshots: all.len() as u64,
        changed: repaired.incomplete.len() as u64,
        saved: repaired.saved.iter().map(|(old, new)| (old.hex(), new.hex())).collect(),
        left_out: left_out.into_inner(),
        forgotten: forget && mode == Mode::Apply,
        dry_run: mode == Mode::Look,
    };
    let looked_at = count(summary.snapshots);
    let gone = count(repaired.lost.len() as u64);
    let text = if repaired.incomplete.is_empty() && repaired.lost.is_empty() {
        format!("{looked_at} snapshots lack nothing")
    } else {
        let gone = if repaired.lost.is_empty() { String::new() } else { format!(" ({gone} more lack all, and stay as they are)") };
        let what = format!("{} of {looked_at} snapshots lack {} items{gone}", count(summary.changed), count(summary.left_out));
        let done = if forget { "each is saved without them, and the old ones are removed" } else { "each is saved again without them" };
        format!("{what}; {}", next(mode, done))
    };
    report.last(&Line::RewriteSummary(summary), || text)?;
    Ok(ExitCode::Success)
}

fn next(mode: Mode, applied: &str) -> &str {
    match mode {
        Mode::Look => "nothing was changed: say --apply to do it",
        Mode::Apply => applied,
    }
}
