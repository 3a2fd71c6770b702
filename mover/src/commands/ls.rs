//! `mover ls`.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use contract::ExitCode;
use repository::error::Error;
use repository::format::node::{Node, NodeKind, unix_permissions};
use repository::id::BlobId;
use repository::read::Trees;

use super::{Opened, open};
use crate::cli::args::Ls;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::Output;
use crate::restore::find_node;

pub(super) fn run(settings: &Settings, args: Ls) -> Result<ExitCode, CommandError> {
    let Opened { repository, lock, stored: found, index } = open(settings, &args.snapshot, args.filter, args.before)?;
    let trees = Trees::new(&repository, &index, settings.shares.tree_bytes);
    let format = match (settings.report.output(), args.long) {
        (Output::Json, _) => Format::Json,
        (_, true) => Format::Long,
        (_, false) => Format::Short,
    };
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

#[derive(Clone, Copy)]
enum Format {
    Short,
    Long,
    Json,
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
            entry(self.out, self.format, path, node)?;
        }
        Ok(())
    }
}

fn entry(out: &mut dyn Write, format: Format, path: &[u8], node: &Node) -> Result<(), CommandError> {
    let shown = crate::source::display(Path::new(std::ffi::OsStr::from_bytes(path)));
    match format {
        Format::Short => writeln!(out, "{shown}")?,
        Format::Long => {
            let link = if node.kind == NodeKind::Symlink { format!(" -> {}", node.link_target.escape_ascii()) } else { String::new() };
            let (mode, time) = (mode(node), node.mtime.to_string());
            writeln!(out, "{mode} {:>6} {:>6} {:>14} {time:<30} {shown}{link}", node.uid, node.gid, node.size)?;
        }
        Format::Json => {
            let json = serde_json::json!({
                "message_type": "node", "path": shown, "type": node.kind.as_str(), "mode": format!("{:04o}", unix_permissions(node.mode)),
                "uid": node.uid, "gid": node.gid, "size": node.size, "mtime": node.mtime.to_string(), "ctime": node.ctime.to_string(),
                "inode": node.inode, "links": node.links,
            });
            writeln!(out, "{json}")?;
        }
    }
    Ok(())
}

/// As `ls -l` shows it.
fn mode(node: &Node) -> String {
    let bits = unix_permissions(node.mode);
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::BlockDevice => 'b',
        NodeKind::CharDevice => 'c',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letters) in [(6, 0o4000, ['s', 'S']), (3, 0o2000, ['s', 'S']), (0, 0o1000, ['t', 'T'])] {
        let (read, write, execute) = (bits >> shift & 4 != 0, bits >> shift & 2 != 0, bits >> shift & 1 != 0);
        text.push(if read { 'r' } else { '-' });
        text.push(if write { 'w' } else { '-' });
        text.push(match (bits & special != 0, execute) {
            (true, true) => letters[0],
            (true, false) => letters[1],
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
