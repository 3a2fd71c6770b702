//! Snapshots again, with some of what is in them left out. What stays the same is not stored again.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::budget::Shares;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::node::Node;
use crate::format::snapshot::Snapshot;
use crate::format::tree::TreeEncoder;
use crate::id::{BlobId, ObjectId};
use crate::index::Index;
use crate::read::{TreeStream, Trees, check_depth};
use crate::repository::Repository;
use crate::snapshots::Stored;
use crate::write::{Sealer, TreeWriter, Verify, WriteMode, WriteOptions, Writer};

/// What stays.
pub trait Rules {
    /// Whether an entry stays, perhaps with another size; asked for each, a directory before what is in it.
    ///
    /// # Errors
    /// What ends it all.
    fn stays(&mut self, path: &[u8], node: &mut Node) -> Result<bool>;

    /// A directory cannot be read: it stays, and is empty then.
    ///
    /// # Errors
    /// What ends it all: the error itself, where nothing may be lost.
    fn lose(&mut self, _path: &[u8], error: Error) -> Result<()> {
        Err(error)
    }

    /// Whether what stays depends on nothing but the entry itself: then the same directory is looked at once.
    fn is_the_same_everywhere(&self) -> bool {
        false
    }

    /// Whether fields of entries that are not known here may be lost, where something beside them is.
    fn may_lose_fields(&self) -> bool {
        false
    }
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It stays as it is.
    Same,
    /// It is another one then.
    Changed,
    /// Its root cannot be read: nothing of it can be saved.
    Lost,
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
    /// All that was read, for its hash: whether nothing in it is unknown here.
    read: TreeEncoder<Hash>,
    is_changed: bool,
    /// Why it could not be written again as it is: that matters only if it must be.
    problem: Option<Error>,
    /// The directory itself, in the one above.
    node: Option<Node>,
}

/// Takes bytes for their hash.
#[derive(Debug, Default)]
struct Hash(Sha256);

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    /// One snapshot.
    ///
    /// # Errors
    /// Those of the store and of the rules; a directory that cannot be written again without losing more than what the rules
    /// leave out.
    pub fn snapshot(&mut self, stored: &Stored, rules: &mut dyn Rules) -> Result<Outcome> {
        let root = self.open(Vec::new(), stored.snapshot.tree, None, rules)?;
        if root.nodes.is_none() {
            return Ok(Outcome::Lost);
        }
        let (tree, is_changed) = self.tree(root, rules)?;
        if tree != stored.snapshot.tree {
            // What was counted is no longer so.
            let original = stored.snapshot.original.or(Some(stored.id));
            self.changed.push((stored.id, Snapshot { tree, original, summary: None, ..stored.snapshot.clone() }));
        }
        Ok(if is_changed { Outcome::Changed } else { Outcome::Same })
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

    fn tree(&mut self, root: Level, rules: &mut dyn Rules) -> Result<(BlobId, bool)> {
        let mut levels = vec![root];
        loop {
            if self.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            let level = levels.last_mut().expect("one at least");
            let next = match level.nodes.as_mut().map_or(Ok(None), TreeStream::next_node) {
                Err(error) if is_damage(&error) => {
                    // It is whole, and another program may know what it says: nobody is to lose it here.
                    if level.nodes.as_ref().is_some_and(TreeStream::is_foreign) {
                        return Err(Error::Refused(format!("it cannot be written again by this program: {error}")));
                    }
                    rules.lose(&level.path, error)?;
                    (level.nodes, level.again, level.problem, level.is_changed) = (None, TreeWriter::default(), None, true);
                    None
                }
                next => next?,
            };
            let Some(mut node) = next else {
                let level = levels.pop().expect("one at least");
                let (id, is_changed, node) = (level.id, level.is_changed, level.node);
                let now = if is_changed { self.again(level.again, level.problem)? } else { id };
                if is_changed && level.nodes.is_some() && !rules.may_lose_fields() {
                    let read = level.read.finish().expect("a hash takes all");
                    if <[u8; 32]>::from(read.0.finalize()) != id.0 {
                        let path = level.path.escape_ascii();
                        return Err(Error::Refused(format!(
                            "entries of directory {path} have fields that this program does not know and would lose"
                        )));
                    }
                }
                if !is_changed && rules.is_the_same_everywhere() {
                    self.intact.insert(id);
                }
                let (Some(above), Some(mut node)) = (levels.last_mut(), node) else { return Ok((now, is_changed)) };
                above.is_changed |= is_changed;
                node.subtree = Some(now);
                above.push(&node);
                continue;
            };
            if let Err(error) = level.read.push(&node) {
                level.problem.get_or_insert_with(|| refused(&error));
            }
            let path = [level.path.as_slice(), b"/", &node.name].concat();
            let size = node.size;
            if !rules.stays(&path, &mut node)? {
                level.is_changed = true;
                continue;
            }
            level.is_changed |= node.size != size;
            match node.subtree {
                Some(tree) if !self.intact.contains(&tree) => {
                    check_depth(levels.len())?;
                    levels.push(self.open(path, tree, Some(node), rules)?);
                }
                _ => level.push(&node),
            }
        }
    }

    fn again(&mut self, tree: TreeWriter, problem: Option<Error>) -> Result<BlobId> {
        problem.map_or(Ok(()), Err)?;
        Ok(tree.finish(&self.writer, &mut self.sealer)?.0)
    }

    fn open(&self, path: Vec<u8>, id: BlobId, node: Option<Node>, rules: &mut dyn Rules) -> Result<Level> {
        let nodes = match self.trees.open(&id) {
            Err(error) if is_damage(&error) => {
                rules.lose(&path, error)?;
                None
            }
            opened => Some(opened?),
        };
        let read = TreeEncoder::new(Hash::default()).expect("a hash takes all");
        let is_changed = nodes.is_none();
        Ok(Level { path, id, nodes, again: TreeWriter::default(), read, is_changed, problem: None, node })
    }
}

impl Level {
    fn push(&mut self, node: &Node) {
        if let Err(error) = self.again.push(node) {
            self.problem.get_or_insert(error);
        }
    }
}

fn refused(error: &io::Error) -> Error {
    Error::Refused(format!("a directory cannot be written again: {error}"))
}

const fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::MissingBlob { .. })
}
