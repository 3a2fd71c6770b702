//! What snapshots hold, and what that takes.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::node::NodeKind;
use crate::id::BlobId;
use crate::index::Index;
use crate::read::{TreeStream, Trees, check_depth};
use crate::snapshots::Stored;
use crate::stop::Stop;

/// What is in a directory, with all below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, devices, pipes and sockets.
    pub others: u64,
    /// Bytes of files.
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.dirs += other.dirs;
        self.others += other.others;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Blobs, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blobs {
    /// How many.
    pub count: u64,
    /// Bytes before they are compressed.
    pub plain: u64,
    /// Bytes as stored.
    pub stored: u64,
}

/// What some snapshots hold, and what that takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// As if each snapshot were restored.
    pub restored: Totals,
    /// Their chunks.
    pub data: Blobs,
    /// Their trees.
    pub trees: Blobs,
    /// Blobs that they need and that are in no index.
    pub lost: HashSet<(BlobId, BlobKind)>,
}

struct Level {
    id: BlobId,
    nodes: TreeStream,
    totals: Totals,
}

/// Counts. Each directory is read once, however many snapshots hold it.
///
/// # Errors
/// A tree that cannot be read; the stop.
pub fn run(trees: &Trees, index: &Index, stop: &Stop, snapshots: &[Stored]) -> Result<Stats> {
    let mut stats = Stats::default();
    let mut known: HashMap<BlobId, Totals> = HashMap::new();
    for stored in snapshots {
        let root = stored.snapshot.tree;
        if !known.contains_key(&root) {
            walk(trees, index, stop, root, &mut known, &mut stats)?;
        }
        stats.restored.add(&known[&root]);
    }
    Ok(stats)
}

fn walk(trees: &Trees, index: &Index, stop: &Stop, root: BlobId, known: &mut HashMap<BlobId, Totals>, stats: &mut Stats) -> Result<()> {
    let open = |id: BlobId, stats: &mut Stats| -> Result<Level> {
        stats.count(index, &id, BlobKind::Tree);
        Ok(Level { id, nodes: trees.open(&id)?, totals: Totals::default() })
    };
    let mut levels = vec![open(root, stats)?];
    while let Some(level) = levels.last_mut() {
        if stop.is_stopped() {
            return Err(Error::Stopped);
        }
        let Some(node) = level.nodes.next_node()? else {
            let Level { id, totals, .. } = levels.pop().expect("there is a last one");
            known.insert(id, totals);
            if let Some(above) = levels.last_mut() {
                above.totals.add(&totals);
            }
            continue;
        };
        match (node.kind, node.subtree) {
            (NodeKind::Dir, subtree) => {
                level.totals.dirs += 1;
                let Some(tree) = subtree else { continue };
                if let Some(totals) = known.get(&tree) {
                    level.totals.add(totals);
                } else {
                    check_depth(levels.len())?;
                    levels.push(open(tree, stats)?);
                }
            }
            (NodeKind::File, _) => {
                level.totals.files += 1;
                level.totals.bytes = level.totals.bytes.saturating_add(node.size);
                node.content.iter().flatten().for_each(|id| stats.count(index, id, BlobKind::Data));
            }
            _ => level.totals.others += 1,
        }
    }
    Ok(())
}

impl Stats {
    /// Counts a blob, the first time it is met.
    fn count(&mut self, index: &Index, id: &BlobId, kind: BlobKind) {
        if index.is_needed(id, kind) {
            return;
        }
        if !index.mark(id, kind, &|_| true) {
            self.lost.insert((*id, kind));
            return;
        }
        let blob = index.location(id, kind).expect("marked just now").blob;
        let count = if kind == BlobKind::Tree { &mut self.trees } else { &mut self.data };
        count.count += 1;
        count.plain += u64::from(blob.plain_len());
        count.stored += u64::from(blob.stored);
    }
}
