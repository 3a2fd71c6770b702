//! `mover ls`.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use contract::ExitCode;
use repository::error::Error;
use repository::format::node::Node;
use repository::id::BlobId;
use repository::read::Trees;

use super::entry::{self, Format};
use super::{Opened, open};
use crate::cli::args::Ls;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::restore::find_node;

pub(super) fn run(settings: &Settings, args: Ls) -> Result<ExitCode, CommandError> {
    let Opened { repository, lock, stored: found, index } = open(settings, &args.snapshot, args.latest)?;
    let trees = Trees::new(&repository, &index, settings.shares.tree_bytes);
    let format = Format::new(settings, args.long);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if matches!(format, Format::Json) {
        writeln!(out, "{}", super::snapshots::json(&found)?)?;
    }
    let path = args.path.unwrap_or_else(|| Path::new("/").to_owned());
    let mut listing = Listing {
        settings,
        trees: &trees,
        out: &mut out,
        format,
        depth: args.depth.map_or(usize::MAX, |depth| depth as usize),
        skip: args.skip,
        left: args.limit.unwrap_or(u64::MAX),
    };
    match find_node(&trees, &found.snapshot, &path)? {
        None => listing.below(&found.snapshot.tree, b"")?,
        Some(node) => match node.subtree {
            Some(tree) => listing.below(&tree, path.as_os_str().as_bytes())?,
            None => listing.entry(path.as_os_str().as_bytes(), &node)?,
        },
    }
    out.flush()?;
    lock.release()?;
    Ok(ExitCode::Success)
}

struct Listing<'a> {
    settings: &'a Settings,
    trees: &'a Trees,
    out: &'a mut dyn Write,
    format: Format,
    /// Levels that are listed.
    depth: usize,
    /// Entries that are left out before the first.
    skip: u64,
    /// Entries that may still be listed.
    left: u64,
}

impl Listing<'_> {
    /// Everything below a directory, each before what it holds; always in the same order, so that it can be gone on with.
    fn below(&mut self, tree: &BlobId, path: &[u8]) -> Result<(), CommandError> {
        let path = path.strip_suffix(b"/").unwrap_or(path).to_vec();
        let mut levels = vec![(path, self.trees.open(tree)?)];
        while let Some((path, nodes)) = levels.last_mut() {
            if self.settings.stop.is_stopped() {
                return Err(Error::Stopped.into());
            }
            if self.left == 0 {
                return Ok(());
            }
            let Some(node) = nodes.next_node()? else {
                levels.pop();
                continue;
            };
            let at = [path.as_slice(), b"/", &node.name].concat();
            self.entry(&at, &node)?;
            if let Some(subtree) = node.subtree.filter(|_| levels.len() < self.depth) {
                levels.push((at, self.trees.open(&subtree)?));
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &[u8], node: &Node) -> Result<(), CommandError> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(());
        }
        if self.left > 0 {
            self.left -= 1;
            entry::write(self.out, self.format, None, path, node)?;
        }
        Ok(())
    }
}
