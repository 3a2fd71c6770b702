//! Snapshots again, with some of what is in them left out. What stays the same is neither read nor stored again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::budget::Shares;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::node::Node;
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, ObjectId};
use crate::index::Index;
use crate::read::{TreeStream, Trees};
use crate::repository::Repository;
use crate::snapshots::Stored;
use crate::write::{Sealer, TreeWriter, Verify, WriteMode, WriteOptions, Writer};

/// Trees nested deeper than any file system allows.
const MAX_DEPTH: usize = 50_000;

/// What stays.
pub trait Rules {
    /// Whether an entry stays; asked for each, a directory before what is in it.
    ///
    /// # Errors
    /// What ends it all.
    fn stays(&mut self, path: &[u8], node: &Node) -> Result<bool>;

    /// A directory cannot be read: it stays, and is empty then.
    ///
    /// # Errors
    /// What ends it all: the error itself, where nothing may be lost.
    fn lose(&mut self, path: &[u8], error: Error) -> Result<()>;

    /// Whether what stays depends on nothing but the entry itself: then the same directory is looked at once.
    fn is_the_same_everywhere(&self) -> bool;
}

/// Writes snapshots again.
#[derive(Debug)]
pub struct Rewriter {
    repository: Arc<Repository>,
    trees: Trees,
    writer: Writer,
    sealer: Sealer,
    /// Directories of which all stays, with all that is below.
    intact: HashSet<BlobId>,
    mode: WriteMode,
    changed: Vec<(ObjectId, Snapshot)>,
}

/// A directory that is being written again.
struct Level {
    path: Vec<u8>,
    id: BlobId,
    /// None: it cannot be read.
    nodes: Option<TreeStream>,
    again: TreeWriter,
    is_changed: bool,
    /// The directory itself, in the one above.
    node: Option<Node>,
}

impl Rewriter {
    /// Whoever writes holds a lock.
    ///
    /// # Errors
    /// A version 1 repository; no threads to be had.
    pub fn start(repository: &Arc<Repository>, index: &Arc<Index>, shares: Shares, mode: WriteMode) -> Result<Self> {
        let options = WriteOptions { shares, compression: Compression::default(), verify: Verify::Sealed, mode };
        let writer = Writer::start(repository, index, options)?;
        let (trees, sealer) = (Trees::new(repository, index, shares.tree_bytes), writer.sealer());
        let repository = repository.clone();
        Ok(Self { repository, trees, writer, sealer, intact: HashSet::new(), mode, changed: Vec::new() })
    }

    /// One snapshot. True: it is another one then.
    ///
    /// # Errors
    /// Those of the store and of the rules.
    pub fn snapshot(&mut self, stored: &Stored, rules: &mut dyn Rules) -> Result<bool> {
        let tree = self.tree(&stored.snapshot.tree, rules)?;
        if tree == stored.snapshot.tree {
            return Ok(false);
        }
        // What was counted is no longer so.
        let original = stored.snapshot.original.or(Some(stored.id));
        self.changed.push((stored.id, Snapshot { tree, original, summary: None, ..stored.snapshot.clone() }));
        Ok(true)
    }

    /// Makes visible what was written again, changed a last time by `finish`; the old ones stay. The answer is the old and the
    /// new ids; none in a dry run.
    ///
    /// # Errors
    /// Those of the store.
    pub fn finish(self, mut finish: impl FnMut(&mut Snapshot)) -> Result<Vec<(ObjectId, ObjectId)>> {
        let (committed, _) = self.writer.finish()?;
        if self.mode == WriteMode::DryRun {
            return Ok(Vec::new());
        }
        let mut saved = Vec::new();
        for (old, mut snapshot) in self.changed {
            finish(&mut snapshot);
            saved.push((old, self.repository.save_snapshot(&snapshot, &committed)?));
        }
        Ok(saved)
    }

    fn tree(&mut self, root: &BlobId, rules: &mut dyn Rules) -> Result<BlobId> {
        let mut levels = vec![self.open(Vec::new(), *root, None, rules)?];
        loop {
            if self.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            let level = levels.last_mut().expect("one at least");
            let next = match level.nodes.as_mut().map_or(Ok(None), TreeStream::next_node) {
                Err(error) if is_damage(&error) => {
                    rules.lose(&level.path, error)?;
                    (level.nodes, level.again, level.is_changed) = (None, TreeWriter::default(), true);
                    None
                }
                next => next?,
            };
            let Some(node) = next else {
                let Level { id, again, is_changed, node, .. } = levels.pop().expect("one at least");
                let now = if is_changed { again.finish(&self.writer, &mut self.sealer)?.0 } else { id };
                if !is_changed && rules.is_the_same_everywhere() {
                    self.intact.insert(id);
                }
                let (Some(above), Some(mut node)) = (levels.last_mut(), node) else { return Ok(now) };
                above.is_changed |= is_changed;
                node.subtree = Some(now);
                above.again.push(&node)?;
                continue;
            };
            let path = [level.path.as_slice(), b"/", &node.name].concat();
            if !rules.stays(&path, &node)? {
                level.is_changed = true;
                continue;
            }
            match node.subtree {
                Some(tree) if !self.intact.contains(&tree) => {
                    if levels.len() >= MAX_DEPTH {
                        return Err(Error::Refused(format!("directories are nested more than {MAX_DEPTH} deep")));
                    }
                    levels.push(self.open(path, tree, Some(node), rules)?);
                }
                _ => level.again.push(&node)?,
            }
        }
    }

    fn open(&self, path: Vec<u8>, id: BlobId, node: Option<Node>, rules: &mut dyn Rules) -> Result<Level> {
        let nodes = match self.trees.open(&id) {
            Err(error) if is_damage(&error) => {
                rules.lose(&path, error)?;
                None
            }
            opened => Some(opened?),
        };
        let is_changed = nodes.is_none();
        Ok(Level { path, id, nodes, again: TreeWriter::default(), is_changed, node })
    }
}

const fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::MissingBlob { .. })
}
