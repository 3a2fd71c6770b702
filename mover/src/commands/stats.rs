//! `mover stats`.

use std::fmt::Write;

use contract::{Blobs, Entries, ExitCode, Line, StatsSummary};
use repository::read::Trees;
use repository::stats;

use super::{Opened, filter, open_with, snapshots};
use crate::cli::args::Stats;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::human::{bytes, count};

pub(super) fn run(settings: &Settings, args: Stats) -> Result<ExitCode, CommandError> {
    let (wanted, filter) = (args.chosen.snapshots, filter(args.chosen.filter, None));
    let Opened { repository, lock, stored: all, index } = open_with(settings, |repository| snapshots::named(repository, &wanted, &filter))?;
    let trees = Trees::new(&repository, &index, settings.shares.tree_bytes);
    let report = &settings.report;
    let stats::Stats { restored, data, trees, lost } = report.during(|| stats::run(&trees, &index, &settings.stop, &all))?;
    lock.release()?;
    let packs = index.packs();
    let blobs = |blobs: stats::Blobs| Blobs { count: blobs.count, bytes: blobs.plain, bytes_stored: blobs.stored };
    let summary = StatsSummary {
        snapshots: all.len() as u64,
        restored: Entries { files: restored.files, dirs: restored.dirs, others: restored.others, bytes: restored.bytes },
        data: blobs(data),
        trees: blobs(trees),
        blobs_lost: lost.len() as u64,
        packs: packs.len() as u64,
        bytes_in_packs: packs.iter().map(|pack| pack.size).sum(),
    };
    report.last(&Line::StatsSummary(summary.clone()), || text(&summary))?;
    Ok(ExitCode::Success)
}

fn text(summary: &StatsSummary) -> String {
    let StatsSummary { snapshots, restored, data, trees, blobs_lost, packs, bytes_in_packs } = summary;
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    let ratio = |before: u64, after: u64| if after == 0 { String::new() } else { format!(" ({:.2} : 1)", before as f64 / after as f64) };
    row("snapshots", count(*snapshots));
    let (files, dirs) = (count(restored.files), count(restored.dirs));
    row("restored", format!("{} in {files} files and {dirs} directories, all of them together", bytes(restored.bytes)));
    row("distinct", format!("{} in {} chunks{}", bytes(data.bytes), count(data.count), ratio(restored.bytes, data.bytes)));
    let stored = bytes(data.bytes_stored);
    row("stored", format!("{stored}{}, and {} of directories", ratio(data.bytes, data.bytes_stored), bytes(trees.bytes_stored)));
    let needed = data.bytes_stored + trees.bytes_stored;
    let other = bytes(bytes_in_packs.saturating_sub(needed));
    row(
        "packs",
        format!("{} in {} packs; {other} of that are their lists, for other snapshots, or for none", bytes(*bytes_in_packs), count(*packs)),
    );
    row("overall", format!("{} for {}{}", bytes(needed), bytes(restored.bytes), ratio(restored.bytes, needed)));
    if *blobs_lost > 0 {
        row("lost", format!("{} blobs are in no index: `mover check` says what is lost", count(*blobs_lost)));
    }
    text
}
