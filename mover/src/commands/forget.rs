//! `mover forget`.

use std::fmt::Write;

use contract::{ExitCode, ForgetSummary, Line};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use repository::Repository;
use repository::format::lock::LockMode;
use repository::lock::Lock;
use repository::retention::{self, Group, GroupBy, Period, Policy, Verdict};
use repository::snapshots::{self, Filter, Stored};

use super::snapshots::table;
use super::{filter, shown_time};
use crate::cli::args::{self, Forget, GroupKey};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{Output, human};

pub(super) fn run(settings: &Settings, args: Forget) -> Result<ExitCode, CommandError> {
    let by_id = !args.ids.is_empty();
    let policy = policy(&args.keep, args.remove_last);
    if !by_id && policy.is_empty() {
        return Err(CommandError::Usage {
            message: "nothing says what to keep".to_owned(),
            hint: Some("say --keep-daily 7, for instance, or name snapshots; --dry-run shows what would happen"),
        });
    }
    let has = |key| args.group_by.contains(&key);
    let by = GroupBy { host: has(GroupKey::Host), paths: has(GroupKey::Paths), tags: has(GroupKey::Tags) };
    let repository = settings.open()?;
    // Data goes only when it is pruned: others may write meanwhile, a prune may not.
    let lock = Lock::acquire(&repository, LockMode::Shared, settings.retry_lock)?;
    let groups = if by_id { named(&repository, &args, by)? } else { decided(&repository, args.filter, &policy, by)? };
    let (mut kept, mut removed) = (0, 0);
    for (group, verdicts) in &groups {
        show(settings, group, verdicts, args.dry_run)?;
        for verdict in verdicts {
            if !verdict.reasons.is_empty() {
                kept += 1;
                continue;
            }
            if settings.stop.is_stopped() {
                return Err(repository::Error::Stopped.into());
            }
            if !args.dry_run {
                repository.remove_snapshot(verdict.stored.id)?;
            }
            removed += 1;
        }
    }
    lock.release()?;
    let summary = Line::ForgetSummary(ForgetSummary { kept, removed, dry_run: args.dry_run });
    let (kept, removed) = (human::count(kept), human::count(removed));
    settings.report.last(&summary, || {
        if args.dry_run {
            format!("would keep {kept} snapshots and remove {removed}; nothing was removed")
        } else {
            format!("{kept} snapshots stay, {removed} are removed; what only those needed goes with `mover prune`")
        }
    })?;
    Ok(ExitCode::Success)
}

fn policy(keep: &args::Keep, may_empty: bool) -> Policy {
    let periods = [
        (Period::Last, keep.keep_last),
        (Period::Hourly, keep.keep_hourly),
        (Period::Daily, keep.keep_daily),
        (Period::Weekly, keep.keep_weekly),
        (Period::Monthly, keep.keep_monthly),
        (Period::Yearly, keep.keep_yearly),
    ];
    Policy {
        periods: periods.into_iter().filter_map(|(period, count)| Some((period, count?.0))).collect(),
        within: keep.keep_within.map(|within| within.0),
        tags: keep.keep_tag.iter().map(|tags| tags.split(',').map(|tag| tag.trim().to_owned()).collect()).collect(),
        may_empty,
    }
}

type Decided = Vec<(Group, Vec<Verdict>)>;

fn decided(repository: &Repository, wanted: args::Filter, policy: &Policy, by: GroupBy) -> Result<Decided, CommandError> {
    let all = repository.snapshots(&filter(wanted, None))?;
    let (zone, now) = (TimeZone::system(), Timestamp::now());
    let decide = |(group, all)| (group, retention::decide(all, policy, &zone, now));
    Ok(retention::group(all, by).into_iter().map(decide).collect())
}

/// Only those that were named, and no group's last complete one unless that is wanted.
fn named(repository: &Repository, args: &Forget, by: GroupBy) -> Result<Decided, CommandError> {
    let all = repository.snapshots(&Filter::default())?;
    let find = |wanted: &String| snapshots::find(&all, wanted);
    let ids = args.ids.iter().map(find).collect::<repository::Result<Vec<_>>>()?;
    let is_named = |stored: &Stored| ids.contains(&stored.id);
    let mut decided = Vec::new();
    for (group, all) in retention::group(all, by) {
        let stays_complete = all.iter().any(|stored| !is_named(stored) && retention::is_complete(stored));
        let had_complete = all.iter().any(retention::is_complete);
        if had_complete && !stays_complete && !args.remove_last {
            return Err(CommandError::Usage {
                message: format!("that would remove the last complete snapshot of {}", name(&group)),
                hint: Some("say --remove-last if that is what you want"),
            });
        }
        let verdict = |stored: Stored| Verdict { stored, reasons: Vec::new() };
        let gone: Vec<Verdict> = all.into_iter().filter(is_named).map(verdict).collect();
        if !gone.is_empty() {
            decided.push((group, gone));
        }
    }
    Ok(decided)
}

fn name(group: &Group) -> String {
    let mut parts = Vec::new();
    parts.extend(group.host.iter().map(|host| format!("host {host}")));
    parts.extend(group.paths.iter().map(|paths| paths.join(" ")));
    parts.extend(group.tags.iter().map(|tags| format!("tags {}", tags.join(","))));
    if parts.is_empty() { "all snapshots".to_owned() } else { parts.join(", ") }
}

fn show(settings: &Settings, group: &Group, verdicts: &[Verdict], is_dry_run: bool) -> Result<(), CommandError> {
    match settings.report.output() {
        Output::Quiet => return Ok(()),
        Output::Json => {
            let line = |Verdict { stored, reasons }: &Verdict| {
                let snapshot = &stored.snapshot;
                contract::Verdict {
                    id: stored.id.hex(),
                    time: snapshot.time.0.to_string(),
                    host: snapshot.hostname.clone(),
                    paths: snapshot.paths.clone(),
                    tags: snapshot.tags.clone(),
                    reasons: reasons.clone(),
                }
            };
            verdicts.iter().for_each(|verdict| settings.report.line(&Line::Verdict(line(verdict))));
            return Ok(());
        }
        Output::Text | Output::Verbose => {}
    }
    let goes = if is_dry_run { "would go" } else { "goes" };
    let rows: Vec<[String; 4]> = verdicts
        .iter()
        .map(|Verdict { stored, reasons }| {
            let why = if reasons.is_empty() { goes.to_owned() } else { format!("stays: {}", reasons.join(", ")) };
            [stored.id.short(), shown_time(stored), stored.snapshot.tags.join(","), why]
        })
        .collect();
    let mut text = String::new();
    writeln!(text, "{}\n{}", name(group), table(["ID", "TIME", "TAGS", "WHAT BECOMES OF IT"], &rows)).expect("strings take all");
    settings.report.print(&text)?;
    Ok(())
}
