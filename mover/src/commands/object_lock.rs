//! `mover lock-report` and `mover lock-extend`.

use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use contract::{ExitCode, Line, Protection, ProtectionSummary, Severity};
use jiff::{SignedDuration, Timestamp};
use repository::format::lock::LockMode;
use repository::lock::Lock;
use repository::object_lock::{self, Extend, Needed};
use repository::store::{Retention, RetentionMode};

use super::reading;
use crate::cli::args::{LockExtend, LockReport};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::human::{bytes, count, local_time};
use crate::report::{Output, requests};

/// Objects that are named to people; machines are told of all.
const MOST_NAMED: u64 = 20;

pub(super) fn report(settings: &Settings, args: &LockReport) -> Result<ExitCode, CommandError> {
    let summary = run(settings, None, args.at_least.map(|time| time.0))?;
    Ok(if args.at_least.is_some() && summary.too_short > 0 { ExitCode::Failure } else { ExitCode::Success })
}

pub(super) fn extend(settings: &Settings, args: &LockExtend) -> Result<ExitCode, CommandError> {
    let retain = settings.retain().ok_or(CommandError::Usage {
        message: "nobody said for how long".to_owned(),
        hint: Some("say --s3-retain governance:30d or compliance:30d, or set MOVER_S3_RETAIN"),
    })?;
    let at_least = args.at_least.map_or(retain.period / 2, |time| time.0);
    if at_least > retain.period {
        return Err(CommandError::usage("--at-least is longer than --s3-retain, so all of it would be extended for ever"));
    }
    run(settings, Some(Extend { retain, at_least }), None)?;
    Ok(ExitCode::Success)
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    summary: ProtectionSummary,
    until: Option<Timestamp>,
}

fn run(settings: &Settings, extend: Option<Extend>, at_least: Option<Duration>) -> Result<ProtectionSummary, CommandError> {
    let repository = settings.open()?;
    let report = &settings.report;
    let now = Timestamp::now();
    let at_least = SignedDuration::try_from(at_least.unwrap_or_default()).unwrap_or(SignedDuration::MAX);
    let wanted = now.saturating_add(at_least).unwrap_or(Timestamp::MAX);
    let found = Mutex::new(Found::default());
    let on_needed = |needed: &Needed| {
        let mut found = found.lock().expect("no holder panics");
        found.count(needed, wanted);
        let is_short = !needed.lasts_until(wanted);
        if report.output() == Output::Json {
            report.line(&Line::Protection(protection(needed)));
        } else if is_short && found.summary.too_short <= MOST_NAMED {
            let problem = match needed.retention {
                Some(Retention { until, .. }) => format!("retained only until {}", local_time(&until.to_string())),
                None => "not retained: whoever has keys for that can remove it for good".to_owned(),
            };
            report.item(Path::new(&needed.name.path()), &problem, Severity::Warning);
        }
    };
    let (lock, ()) = match extend {
        Some(_) => (Lock::acquire(&repository, LockMode::Shared, settings.retry_lock)?, ()),
        None => reading(settings, &repository, || Ok(()))?,
    };
    report.during(|| object_lock::run(&repository, &settings.shares, extend, &on_needed))?;
    lock.release()?;
    let Found { summary, until } = found.into_inner().expect("no holder panics");
    let until = until.filter(|_| summary.unprotected == 0).map(|until| until.to_string());
    let summary = ProtectionSummary { until, seconds: report.seconds(), requests: requests(repository.counters()), ..summary };
    report.last(&Line::ProtectionSummary(summary.clone()), || text(&summary))?;
    Ok(summary)
}

impl Found {
    fn count(&mut self, needed: &Needed, wanted: Timestamp) {
        let Self { summary, until } = self;
        summary.objects += 1;
        summary.bytes += needed.size;
        match needed.retention.map(|retention| retention.mode) {
            Some(RetentionMode::Compliance) => summary.compliance += 1,
            Some(RetentionMode::Governance) => summary.governance += 1,
            None => {}
        }
        summary.legal_holds += u64::from(needed.has_legal_hold);
        summary.extended += u64::from(needed.is_extended);
        summary.too_short += u64::from(!needed.lasts_until(wanted));
        match needed.retention {
            Some(Retention { until: end, .. }) => *until = Some(until.map_or(end, |first| first.min(end))),
            None => {
                summary.unprotected += 1;
                summary.bytes_unprotected += needed.size;
            }
        }
    }
}

fn protection(needed: &Needed) -> Protection {
    let mode = needed.retention.map(|retention| match retention.mode {
        RetentionMode::Governance => "governance".to_owned(),
        RetentionMode::Compliance => "compliance".to_owned(),
    });
    Protection {
        path: needed.name.path(),
        bytes: needed.size,
        mode,
        until: needed.retention.map(|retention| retention.until.to_string()),
        legal_hold: needed.has_legal_hold,
        extended: needed.is_extended,
    }
}

fn text(summary: &ProtectionSummary) -> String {
    let ProtectionSummary { objects, compliance, governance, legal_holds, unprotected, too_short, extended, .. } = *summary;
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    row("needed", format!("{} in {} objects: config, keys, snapshots, index files, packs", bytes(summary.bytes), count(objects)));
    let by_mode = format!("{} by compliance, {} by governance", count(compliance), count(governance));
    row("retained", format!("{by_mode}; {} are under a legal hold", count(legal_holds)));
    if extended > 0 {
        row("extended", format!("{} objects", count(extended)));
    }
    if too_short > MOST_NAMED {
        row("named", format!("{MOST_NAMED} of {} that are not retained for long enough; --json names all", count(too_short)));
    }
    let result = match &summary.until {
        None => format!("{} objects ({}) are not protected", count(unprotected), bytes(summary.bytes_unprotected)),
        Some(until) if governance > 0 => {
            format!("all of it is protected until {}, save from s3:BypassGovernanceRetention", local_time(until))
        }
        Some(until) => format!("all of it is protected until {}, from everybody", local_time(until)),
    };
    row("result", result);
    text
}
