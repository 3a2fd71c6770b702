//! How runs are, line by line.

use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::process::ExitCode;

use futures::StreamExt;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use plugin::api::run::Phase;
use plugin::api::{RunStatus, VolumeBackup, VolumeRestore};
use plugin::run::Run;

use crate::{Error, changes};

/// What a run has to show in its end.
pub(crate) trait Result: Run {
    fn snapshot(&self) -> Option<&str>;
}

impl Result for VolumeBackup {
    fn snapshot(&self) -> Option<&str> {
        Some(&self.status.as_ref()?.result.as_ref()?.snapshot_id)
    }
}

impl Result for VolumeRestore {
    fn snapshot(&self) -> Option<&str> {
        self.status.as_ref()?.result.as_ref()?;
        self.status.as_ref()?.snapshot_id.as_deref()
    }
}

/// Prints what changes; on a terminal progress stays in its line.
pub(crate) async fn follow<K: Result>(runs: Api<K>, name: &str) -> std::result::Result<ExitCode, Error> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut changes = pin!(changes(runs, name));
    let mut last = String::new();
    while let Some(change) = changes.next().await {
        let Some(run) = change? else { return Err(format!("{}/{name} is not there", K::kind(&()).to_lowercase()).into()) };
        let status = run.run_status().cloned().unwrap_or_default();
        let text = line(&status, run.snapshot());
        if text != last {
            let was_progress = is_terminal && last.contains('%') && text.contains('%');
            let mut out = std::io::stdout().lock();
            let start = if was_progress { "\x1b[1A\x1b[2K" } else { "" };
            writeln!(out, "{start}{text}")?;
            last = text;
        }
        if status.phase.is_end() {
            if let Some(tail) = &status.log_tail {
                eprintln!("the mover's last words:\n{tail}");
            }
            return Ok(if status.phase == Phase::Completed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Err("the watch ended".into())
}

/// A line for each run, the oldest first.
pub(crate) async fn status(backups: &Api<VolumeBackup>, restores: &Api<VolumeRestore>) -> kube::Result<()> {
    let mut lines = lines(backups.list(&ListParams::default()).await?.items);
    lines.extend(self::lines(restores.list(&ListParams::default()).await?.items));
    lines.sort();
    if lines.is_empty() {
        println!("no backups, no restores");
    }
    lines.into_iter().for_each(|(_, line)| println!("{line}"));
    Ok(())
}

fn lines<K: Result>(runs: Vec<K>) -> Vec<(Option<jiff::Timestamp>, String)> {
    let of = |run: K| {
        let kind = K::kind(&()).trim_start_matches("Volume").to_lowercase();
        let name = format!("{}/{}", run.namespace().unwrap_or_default(), run.name_any());
        let status = run.run_status().cloned().unwrap_or_default();
        let since = run.meta().creation_timestamp.as_ref().map(|time| time.0);
        (since, format!("{kind:<8} {name:<40} {}", line(&status, run.snapshot())))
    };
    runs.into_iter().map(of).collect()
}

fn line(status: &RunStatus, snapshot: Option<&str>) -> String {
    let said = match (&status.progress, snapshot) {
        (Some(progress), None) => {
            let eta = progress.eta.as_ref().map(|eta| format!(", {eta} left")).unwrap_or_default();
            format!("{}{eta}", progress.shown)
        }
        (_, Some(id)) => format!("snapshot {}, {}", short(id), status.message),
        (None, None) if status.message.is_empty() => "it begins".to_owned(),
        (None, None) => status.message.clone(),
    };
    let node = status.attempt.as_ref().map(|attempt| format!(" on {}", attempt.node)).filter(|node| !said.contains(node));
    let node = node.unwrap_or_default();
    format!("{:<18} {said}{node}", format!("{:?}", status.phase))
}

/// An id as people read it.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin::api::run::{Attempt, Progress};

    #[test]
    fn a_line_says_what_it_is_about() {
        let mut status = RunStatus { phase: Phase::Prepared, message: "place 1 of 2: a runs 1 of 1".to_owned(), ..RunStatus::default() };
        assert_eq!(line(&status, None), "Prepared           place 1 of 2: a runs 1 of 1");
        status.phase = Phase::InProgress;
        status.attempt = Some(Attempt { number: 1, node: "a".to_owned(), slot: 1 });
        status.progress = Some(Progress { shown: "42 %, 9.0 MiB/s".to_owned(), eta: Some("3m20s".to_owned()), ..Progress::default() });
        assert_eq!(line(&status, None), "InProgress         42 %, 9.0 MiB/s, 3m20s left on a");
        status.phase = Phase::Completed;
        status.message = "the data is in the repository".to_owned();
        assert_eq!(line(&status, Some("0123456789")), "Completed          snapshot 01234567, the data is in the repository on a");
    }
}
