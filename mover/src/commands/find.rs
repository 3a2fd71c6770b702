//! `mover find`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use contract::{ExitCode, FindSummary, Line};
use repository::crypto::sha256;
use repository::error::Error;
use repository::id::BlobId;
use repository::read::{TreeStream, Trees, check_depth};
use repository::snapshots::Stored;

use super::entry::{self, Format};
use super::{Opened, filter, open_with, shown_time, snapshots};
use crate::cli::args::Find;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::human::count;
use crate::source::exclude::Excludes;

/// Directories that are remembered to hold nothing of what is looked for: 50 MB at most.
const MAX_EMPTY: usize = 1_000_000;

pub(super) fn run(settings: &Settings, args: Find) -> Result<ExitCode, CommandError> {
    let patterns = Excludes::new(args.patterns).map_err(CommandError::usage)?;
    let filter = filter(args.filter, None);
    let Opened { repository, lock, stored: all, index } =
        open_with(settings, |repository| snapshots::named(repository, &args.snapshots, &filter))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut search = Search {
        settings,
        trees: Trees::new(&repository, &index, settings.shares.tree_bytes),
        patterns,
        format: Format::new(settings, args.long),
        out: &mut out,
        empty: HashSet::new(),
        summary: FindSummary::default(),
    };
    for stored in all.iter().rev() {
        search.snapshot(stored)?;
        search.out.flush()?;
    }
    let summary = search.summary;
    drop(out);
    lock.release()?;
    let (matches, with_matches, looked_at) = (count(summary.matches), count(summary.with_matches), count(summary.snapshots));
    let text = || format!("{matches} entries in {with_matches} of {looked_at} snapshots");
    settings.report.last(&Line::FindSummary(summary), text)?;
    Ok(ExitCode::Success)
}

struct Search<'a> {
    settings: &'a Settings,
    trees: Trees,
    patterns: Excludes,
    format: Format,
    out: &'a mut dyn Write,
    /// Directories at their paths, in which nothing was found: other snapshots hold most of them, too.
    empty: HashSet<[u8; 32]>,
    summary: FindSummary,
}

struct Level {
    path: Vec<u8>,
    key: [u8; 32],
    nodes: TreeStream,
    has_matches: bool,
}

impl Search<'_> {
    fn snapshot(&mut self, stored: &Stored) -> Result<(), CommandError> {
        self.summary.snapshots += 1;
        let before = self.summary.matches;
        let mut levels = Vec::new();
        self.enter(&mut levels, Vec::new(), &stored.snapshot.tree)?;
        while let Some(level) = levels.last_mut() {
            if self.settings.stop.is_stopped() {
                return Err(Error::Stopped.into());
            }
            let Some(node) = level.nodes.next_node()? else {
                let Level { key, has_matches, .. } = levels.pop().expect("there is a last one");
                if has_matches {
                    levels.iter_mut().for_each(|above| above.has_matches = true);
                } else if self.empty.len() < MAX_EMPTY {
                    self.empty.insert(key);
                }
                continue;
            };
            let path = [level.path.as_slice(), b"/", &node.name].concat();
            if self.patterns.matches(Path::new(OsStr::from_bytes(&path))) {
                level.has_matches = true;
                if self.summary.matches == before {
                    self.head(stored)?;
                }
                self.summary.matches += 1;
                entry::write(self.out, self.format, Some(stored.id), &path, &node)?;
            }
            if let Some(tree) = &node.subtree {
                self.enter(&mut levels, path, tree)?;
            }
        }
        self.summary.with_matches += u64::from(self.summary.matches > before);
        Ok(())
    }

    fn enter(&self, levels: &mut Vec<Level>, path: Vec<u8>, tree: &BlobId) -> Result<(), CommandError> {
        let key = sha256(&[&tree.0[..], &path].concat());
        if !self.empty.contains(&key) {
            check_depth(levels.len())?;
            levels.push(Level { path, key, nodes: self.trees.open(tree)?, has_matches: false });
        }
        Ok(())
    }

    fn head(&mut self, stored: &Stored) -> std::io::Result<()> {
        match self.format {
            Format::Json => Ok(()),
            Format::Short | Format::Long => {
                let paths = stored.snapshot.paths.join(" ");
                writeln!(self.out, "snapshot {} of {}, {} {paths}", stored.id.short(), shown_time(stored), stored.snapshot.hostname)
            }
        }
    }
}
