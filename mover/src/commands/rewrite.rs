//! `mover rewrite`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use contract::{ExitCode, Line, RewriteSummary};
use repository::format::lock::LockMode;
use repository::format::node::Node;
use repository::id::ObjectId;
use repository::index::Index;
use repository::lock::Lock;
use repository::rewrite::{Outcome, Rewriter, Rules};
use repository::write::WriteMode;
use repository::{Error, Repository};

use super::snapshots::chosen;
use crate::cli::args::Rewrite;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::Output;
use crate::report::human::count;
use crate::source::exclude::Excludes;

pub(super) fn run(settings: &Settings, args: Rewrite) -> Result<ExitCode, CommandError> {
    let excludes = Excludes::new(args.excludes).map_err(CommandError::usage)?;
    let repository = settings.open()?;
    // As `tag`: a policy that is applied beside it could take the new one for the double of the old.
    let forgets = args.forget && !args.dry_run;
    if forgets {
        repository.may_remove()?;
    }
    let mode = if forgets { LockMode::Exclusive } else { LockMode::Shared };
    let lock = Lock::acquire(&repository, mode, settings.retry_lock)?;
    let all = chosen(&repository, args.chosen)?;
    let index = Arc::new(Index::load(&repository, settings.shares.index_bytes)?);
    let mode = if args.dry_run { WriteMode::DryRun } else { WriteMode::Store };
    let (report, mut rules) = (&settings.report, LeaveOut { excludes: &excludes, settings, left_out: 0 });
    let (changed, saved) = report.during(|| {
        let mut rewriter = Rewriter::start(&repository, &index, settings.shares, mode)?;
        let mut changed = 0;
        for stored in &all {
            changed += u64::from(rewriter.snapshot(stored, &mut rules)? == Outcome::Changed);
        }
        Ok::<_, Error>((changed, rewriter.finish(|snapshot| snapshot.excludes.extend(excludes.patterns().iter().cloned()))?))
    })?;
    forget(&repository, &saved, forgets)?;
    lock.release()?;
    let summary = RewriteSummary {
        snapshots: all.len() as u64,
        changed,
        saved: saved.iter().map(|(old, new)| (old.hex(), new.hex())).collect(),
        left_out: rules.left_out,
        forgotten: forgets,
        dry_run: args.dry_run,
    };
    let what = format!("{} of {} snapshots have it: {} items", count(changed), count(summary.snapshots), count(summary.left_out));
    let done = match (args.dry_run, args.forget) {
        (true, _) => "nothing was changed",
        (false, true) => "each is saved again without them, and the old ones are removed; `mover prune` frees what only those needed",
        (false, false) => "each is saved again without them; the old ones are still there (--forget removes them)",
    };
    report.last(&Line::RewriteSummary(summary), || format!("{what}; {done}"))?;
    Ok(ExitCode::Success)
}

/// Removes the old ones, if that is wanted: what took their places is saved by now.
pub(super) fn forget(repository: &Repository, saved: &[(ObjectId, ObjectId)], is_wanted: bool) -> Result<(), CommandError> {
    let old = saved.iter().filter(|(old, new)| is_wanted && old != new);
    Ok(old.map(|(old, _)| *old).try_for_each(|old| repository.remove_snapshot(old))?)
}

struct LeaveOut<'a> {
    excludes: &'a Excludes,
    settings: &'a Settings,
    left_out: u64,
}

impl Rules for LeaveOut<'_> {
    fn stays(&mut self, path: &[u8], _: &mut Node) -> repository::Result<bool> {
        let path = Path::new(OsStr::from_bytes(path));
        let stays = !self.excludes.matches(path);
        if !stays {
            self.left_out += 1;
            if self.settings.report.output() == Output::Verbose {
                self.settings.report.say(&format!("left out: {}", crate::source::display(path)));
            }
        }
        Ok(stays)
    }
}
