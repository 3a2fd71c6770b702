//! Directories of the parent, and of what an interrupted run had done, read beside ours: all are sorted by name, so one pass over
//! each is enough.

use jiff::Timestamp;
use repository::error::Result;
use repository::format::node::{Node, NodeKind};
use repository::id::BlobId;
use repository::read::{TreeStream, Trees};

/// What must be equal for a file to count as unchanged, beside size and time of last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChangeTest {
    pub(crate) inode: Compare,
    pub(crate) ctime: Compare,
}

/// Whether something is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Yes,
    Ignore,
}

/// A file changed this short a time before the parent began to read may have changed again without a new time: file
/// systems count in ticks, the coarsest in two seconds.
const UNSAFE_SECS: i64 = 2;

impl ChangeTest {
    /// Whether `now`, just looked at, is what `then`, of the parent, was.
    pub(super) fn is_unchanged(self, now: &Node, then: &Node, parent_start: Timestamp) -> bool {
        // Times of last content change can be set at will; times of metadata change are the kernel's.
        let changed_last = if self.ctime == Compare::Yes { now.ctime } else { now.mtime };
        then.kind == NodeKind::File
            && now.size == then.size
            && now.mtime == then.mtime
            && (self.ctime == Compare::Ignore || now.ctime == then.ctime)
            && (self.inode == Compare::Ignore || now.inode == then.inode)
            && changed_last.seconds() < parent_start.as_second() - UNSAFE_SECS
    }
}

/// Whether `now`, just looked at, is what an interrupted run has read as `then`, or a part of it: that the source is the same to
/// the last byte is what its id says, also where another copy of it is mounted.
pub(super) fn is_of_same_source(now: &Node, then: &Node) -> bool {
    then.kind == NodeKind::File && now.mtime == then.mtime && then.size <= now.size
}

/// A directory as it was before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Earlier {
    /// In the parent.
    pub(super) parent: Option<BlobId>,
    /// In what an interrupted run of the same source had done.
    pub(super) done: Option<BlobId>,
}

/// An entry as it was before.
#[derive(Debug, Default)]
pub(super) struct Then {
    pub(super) parent: Option<Node>,
    pub(super) done: Option<Node>,
}

impl Then {
    /// Of a directory.
    pub(super) fn trees(&self) -> Earlier {
        let tree = |node: &Option<Node>| node.as_ref().and_then(|node| node.subtree);
        Earlier { parent: tree(&self.parent), done: tree(&self.done) }
    }
}

/// One directory of the parent, or of what was done.
#[derive(Debug, Default)]
pub(super) struct ParentDir {
    stream: Option<TreeStream>,
    ahead: Option<Node>,
}

impl ParentDir {
    /// Opens a tree of the parent, if there is one.
    pub(super) fn open(trees: &Trees, tree: Option<BlobId>) -> Result<Self> {
        let stream = tree.map(|tree| trees.open(&tree)).transpose()?;
        Ok(Self { stream, ahead: None })
    }

    /// The next entry after those that were asked for.
    pub(super) fn next(&mut self) -> Result<Option<Node>> {
        match (self.ahead.take(), &mut self.stream) {
            (Some(node), _) => Ok(Some(node)),
            (None, Some(stream)) => stream.next_node(),
            (None, None) => Ok(None),
        }
    }

    /// Its entry of that name. Names must be asked for in ascending order.
    pub(super) fn find(&mut self, name: &[u8]) -> Result<Option<Node>> {
        loop {
            if self.ahead.is_none() {
                let Some(stream) = &mut self.stream else { return Ok(None) };
                self.ahead = stream.next_node()?;
                if self.ahead.is_none() {
                    self.stream = None;
                    return Ok(None);
                }
            }
            match self.ahead.as_ref().map(|ahead| ahead.name.as_slice().cmp(name)) {
                Some(std::cmp::Ordering::Less) => self.ahead = None,
                Some(std::cmp::Ordering::Equal) => return Ok(self.ahead.take()),
                Some(std::cmp::Ordering::Greater) | None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use repository::format::time::Time;

    use super::*;

    #[test]
    fn what_counts_as_unchanged() {
        let start = Timestamp::from_second(1000).unwrap();
        let mut then = Node::new(b"f".to_vec(), NodeKind::File);
        (then.size, then.inode, then.mtime, then.ctime) = (5, 7, Time::new(900, 1), Time::new(990, 1));
        let strict = ChangeTest { inode: Compare::Yes, ctime: Compare::Yes };
        let lax = ChangeTest { inode: Compare::Ignore, ctime: Compare::Ignore };
        let with = |change: &dyn Fn(&mut Node)| {
            let mut node = then.clone();
            change(&mut node);
            node
        };
        type Change<'a> = &'a dyn Fn(&mut Node);
        let cases: [(Change<'_>, bool, bool); 6] = [
            (&|_| {}, true, true),
            (&|node| node.size = 6, false, false),
            (&|node| node.mtime = Time::new(900, 2), false, false),
            (&|node| node.ctime = Time::new(991, 1), false, true),
            (&|node| node.inode = 8, false, true),
            (&|node| node.uid = 8, true, true),
        ];
        for (i, (change, is_strict, is_lax)) in cases.iter().enumerate() {
            let now = with(*change);
            assert_eq!(strict.is_unchanged(&now, &then, start), *is_strict, "{i}");
            assert_eq!(lax.is_unchanged(&now, &then, start), *is_lax, "{i}");
        }
        // Changed so shortly before the parent was read that it may have changed again since.
        for (ctime, is_safe) in [(997, true), (998, false), (1000, false), (1001, false)] {
            let mut now = then.clone();
            now.ctime = Time::new(ctime, 0);
            assert_eq!(strict.is_unchanged(&now, &now.clone(), start), is_safe, "{ctime}");
        }
        let link = Node::new(b"f".to_vec(), NodeKind::Symlink);
        assert!(!lax.is_unchanged(&then, &link, start));
    }
}
