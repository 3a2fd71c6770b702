//! Builds trees bottom up from what the walk says, in its order.

use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use repository::error::{Error, Result};
use repository::format::node::Node;
use repository::id::BlobId;
use repository::write::TreeWriter;

use super::Context;
use super::walk::Event;

/// A directory that is being built.
struct Level {
    node: Option<Box<Node>>,
    parent_tree: Option<BlobId>,
    tree: TreeWriter,
}

/// Returns the root tree, or nothing after a failure, which the context then holds.
pub(super) fn run(context: &Context<'_>, events_rx: Receiver<Event>) -> Option<BlobId> {
    let tree = assemble(context, &events_rx).map_err(|error| context.fail(error)).ok();
    // Whoever still wants to tell something must not wait; the failure is known by now.
    drop(events_rx);
    tree
}

fn assemble(context: &Context<'_>, events_rx: &Receiver<Event>) -> Result<BlobId> {
    let mut sealer = context.writer.sealer();
    let mut levels: Vec<Level> = Vec::new();
    let push = |levels: &mut Vec<Level>, node: &Node| match levels.last_mut() {
        Some(level) => level.tree.push(node),
        None => Err(Error::Refused("an entry outside of any directory".to_owned())),
    };
    for event in events_rx {
        if context.is_over() {
            break;
        }
        match event {
            Event::Enter { node, parent_tree } => levels.push(Level { node, parent_tree, tree: TreeWriter::default() }),
            Event::Leaf(node) => push(&mut levels, &node)?,
            Event::File(file) => {
                if let Some(node) = file.wait(|| context.is_over()) {
                    push(&mut levels, &node)?;
                }
            }
            Event::Leave => {
                let Some(Level { node, parent_tree, tree }) = levels.pop() else { break };
                let (id, _) = tree.finish(context.writer, &mut sealer)?;
                let Some(mut node) = node else { return Ok(id) };
                count_dir(context, id, parent_tree);
                node.subtree = Some(id);
                push(&mut levels, &node)?;
            }
        }
    }
    Err(Error::Stopped)
}

fn count_dir(context: &Context<'_>, id: BlobId, parent_tree: Option<BlobId>) {
    let counts = context.counts;
    let count = match parent_tree {
        None => &counts.dirs_new,
        Some(parent) if parent == id => &counts.dirs_unchanged,
        Some(_) => &counts.dirs_changed,
    };
    count.fetch_add(1, Ordering::Relaxed);
}
