//! What differs between two trees. Directories that are the same are not read.

use crate::error::{Error, Result};
use crate::format::node::{Node, NodeKind};
use crate::id::BlobId;
use crate::read::{TreeStream, Trees, check_depth};
use crate::stop::Stop;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is in the second tree alone.
    Added,
    /// It is in the first tree alone.
    Removed,
    /// Its content differs.
    Content,
    /// Its content differs, its size and its time do not.
    ContentAlone,
    /// It is another kind of entry.
    Kind,
    /// Mode, owner, times or attributes differ, and nothing else.
    Metadata,
}

/// Told of each difference: the path, and the entry before and after. A directory comes before what is in it.
pub type OnChange<'a> = &'a mut dyn FnMut(Change, &[u8], Option<&Node>, Option<&Node>) -> Result<()>;

struct Level {
    path: Vec<u8>,
    sides: [Option<Side>; 2],
}

/// One of the two, and its entry that was read ahead.
struct Side {
    nodes: TreeStream,
    next: Option<Node>,
}

/// Compares two trees.
///
/// # Errors
/// A tree that cannot be read; those of `on_change`; the stop.
pub fn run(trees: &Trees, stop: &Stop, roots: [&BlobId; 2], on_change: OnChange<'_>) -> Result<()> {
    let mut levels = Vec::new();
    push(trees, &mut levels, Vec::new(), roots.map(Some))?;
    while let Some(level) = levels.last_mut() {
        if stop.is_stopped() {
            return Err(Error::Stopped);
        }
        let [before, after] = level.next()?;
        let Some(name) = before.as_ref().or(after.as_ref()).map(|node| &node.name) else {
            levels.pop();
            continue;
        };
        let path = [level.path.as_slice(), b"/", name].concat();
        if let Some(change) = compare(before.as_ref(), after.as_ref()) {
            on_change(change, &path, before.as_ref(), after.as_ref())?;
        }
        let below = [&before, &after].map(|node| node.as_ref().and_then(|node| node.subtree.as_ref()));
        push(trees, &mut levels, path, below)?;
    }
    Ok(())
}

/// Goes into a directory, unless it is the same on both sides.
fn push(trees: &Trees, levels: &mut Vec<Level>, path: Vec<u8>, roots: [Option<&BlobId>; 2]) -> Result<()> {
    if roots[0] == roots[1] {
        return Ok(());
    }
    check_depth(levels.len())?;
    let open = |root: Option<&BlobId>| root.map(|id| Side::new(trees.open(id)?)).transpose();
    levels.push(Level { path, sides: [open(roots[0])?, open(roots[1])?] });
    Ok(())
}

impl Side {
    fn new(mut nodes: TreeStream) -> Result<Self> {
        let next = nodes.next_node()?;
        Ok(Self { nodes, next })
    }

    fn take(&mut self) -> Result<Option<Node>> {
        let next = self.nodes.next_node()?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

impl Level {
    /// The entries of the next name.
    fn next(&mut self) -> Result<[Option<Node>; 2]> {
        let name = |side: &Option<Side>| side.as_ref()?.next.as_ref().map(|node| node.name.clone());
        let names = [name(&self.sides[0]), name(&self.sides[1])];
        let first = names.iter().flatten().min().cloned();
        let mut take = |i: usize| match &mut self.sides[i] {
            Some(side) if names[i].is_some() && names[i] == first => side.take(),
            _ => Ok(None),
        };
        Ok([take(0)?, take(1)?])
    }
}

fn compare(before: Option<&Node>, after: Option<&Node>) -> Option<Change> {
    let (Some(before), Some(after)) = (before, after) else {
        return Some(if before.is_none() { Change::Added } else { Change::Removed });
    };
    if before.kind != after.kind {
        return Some(Change::Kind);
    }
    let content = |node: &Node| (node.content.clone(), node.link_target.clone(), node.device);
    if content(before) != content(after) {
        let is_alone = before.kind == NodeKind::File && before.size == after.size && before.mtime == after.mtime;
        return Some(if is_alone { Change::ContentAlone } else { Change::Content });
    }
    let metadata =
        |node: &Node| (node.mode, node.uid, node.gid, node.mtime, node.user.clone(), node.group.clone(), node.xattrs.clone(), node.size);
    (metadata(before) != metadata(after)).then_some(Change::Metadata)
}
