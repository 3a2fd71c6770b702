//! `mover diff`.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use contract::{DiffSummary, Difference, Entries, ExitCode, Line};
use repository::diff::{self, Change};
use repository::format::node::{Node, NodeKind};
use repository::id::BlobId;
use repository::read::Trees;
use repository::snapshots::Stored;

use super::{Opened, filter, open_with, split};
use crate::cli::args::Diff;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::Output;
use crate::report::human::{bytes, count, letter};
use crate::restore::find_node;
use crate::source::display;

pub(super) fn run(settings: &Settings, args: Diff) -> Result<ExitCode, CommandError> {
    let filter = filter(args.filter, None);
    let [from, to] = [&args.from, &args.to].map(|text| split(text));
    let both =
        open_with(settings, |repository| Ok([repository.find_snapshot(from.0, &filter)?, repository.find_snapshot(to.0, &filter)?]))?;
    let Opened { repository, lock, stored: [before, after], index } = both;
    let trees = Trees::new(&repository, &index, settings.shares.tree_bytes);
    let roots = [root(&trees, &before, from.1)?, root(&trees, &after, to.1)?];
    let (report, mut summary) = (&settings.report, DiffSummary { from: before.id.hex(), to: after.id.hex(), ..DiffSummary::default() });
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    let compared = diff::run(&trees, &settings.stop, [&roots[0], &roots[1]], &mut |change, path, before, after| {
        tally(&mut summary, change, before, after);
        if failed.is_none() && (change != Change::Metadata || args.metadata) && report.output() != Output::Quiet {
            let path = display(Path::new(OsStr::from_bytes(path)));
            failed = show(&mut out, report.output() == Output::Json, change, path, before, after).err();
        }
        // Nobody reads on.
        if failed.is_some() { Err(repository::Error::Stopped) } else { Ok(()) }
    });
    failed.map_or(Ok(()), Err)?;
    compared?;
    out.flush()?;
    drop(out);
    lock.release()?;
    report.last(&Line::DiffSummary(summary.clone()), || text(&summary))?;
    Ok(ExitCode::Success)
}

fn root(trees: &Trees, stored: &Stored, path: Option<PathBuf>) -> Result<BlobId, CommandError> {
    let Some(path) = path else { return Ok(stored.snapshot.tree) };
    match find_node(trees, &stored.snapshot, &path)? {
        None => Ok(stored.snapshot.tree),
        Some(node) => node
            .subtree
            .ok_or_else(|| CommandError::usage(format!("{} is not a directory in snapshot {}", path.display(), stored.id.short()))),
    }
}

fn tally(summary: &mut DiffSummary, change: Change, before: Option<&Node>, after: Option<&Node>) {
    let entries = match change {
        Change::Added => &mut summary.added,
        Change::Removed => &mut summary.removed,
        Change::Content | Change::ContentAlone | Change::Kind => &mut summary.changed,
        Change::Metadata => return summary.metadata += 1,
    };
    let Some(node) = after.or(before) else { return };
    match node.kind {
        NodeKind::File => {
            entries.files += 1;
            entries.bytes = entries.bytes.saturating_add(node.size);
        }
        NodeKind::Dir => entries.dirs += 1,
        _ => entries.others += 1,
    }
}

fn show(
    out: &mut dyn Write,
    is_json: bool,
    change: Change,
    path: String,
    before: Option<&Node>,
    after: Option<&Node>,
) -> std::io::Result<()> {
    let change = match change {
        Change::Added => contract::Change::Added,
        Change::Removed => contract::Change::Removed,
        Change::Content => contract::Change::Content,
        Change::ContentAlone => contract::Change::ContentAlone,
        Change::Kind => contract::Change::Kind,
        Change::Metadata => contract::Change::Metadata,
    };
    if is_json {
        let size = |node: Option<&Node>| node.map(|node| node.size);
        let line = Line::Difference(Difference { path, change, size_before: size(before), size_after: size(after) });
        return writeln!(out, "{}", line.to_json(None));
    }
    let slash = if after.or(before).is_some_and(|node| node.kind == NodeKind::Dir) { "/" } else { "" };
    writeln!(out, "{}  {path}{slash}", letter(change))
}

fn text(summary: &DiffSummary) -> String {
    let row = |name: &str, Entries { files, dirs, others, bytes: size }: Entries| {
        let [files, dirs, others] = [files, dirs, others].map(count);
        format!("{name:<8} {files:>10} files, {dirs:>10} dirs, {others:>10} others, {}\n", bytes(size))
    };
    let rows = [row("added", summary.added), row("removed", summary.removed), row("changed", summary.changed)].concat();
    format!("{rows}{:<8} {:>10} entries have another mode, owner, time or attributes alone\n", "", count(summary.metadata))
}
