//! Further names of files.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use repository::format::node::{Node, NodeKind};
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::super::Overwrite;
use super::super::batch::{Batch, PlannedLink};
use super::super::target::{TargetDir, look};
use super::{Plan, make_room};
use crate::source::metadata::kind;

/// The longest name that Linux has.
const LONGEST_NAME: usize = 255;
/// At the end of the name of a link, until it is in its place.
const LINKED: &[u8] = b".estiba-link";

impl Plan<'_> {
    /// Makes an entry another name of one that is there already, if the snapshot says so.
    pub(super) fn is_linked(&mut self, dir: &Arc<TargetDir>, name: &CString, node: &Node) -> bool {
        if node.links < 2 || node.inode == 0 {
            return false;
        }
        let link = (node.inode, node.device_id);
        if let Some(first) = self.links.get(&link).cloned() {
            if node.kind == NodeKind::File {
                self.batch.links.push(PlannedLink { first, dir: dir.clone(), name: name.clone() });
                return true;
            }
            // Where links cannot be made, a copy is better than nothing.
            return !self.writes() || self.hard_link(dir, name, &first).is_ok();
        }
        self.links.insert(link, (dir.clone(), name.clone()));
        false
    }

    pub(super) fn hard_link(&mut self, dir: &Arc<TargetDir>, name: &CString, first: &(Arc<TargetDir>, CString)) -> Result<(), Errno> {
        let from = rustix::io::fcntl_dupfd_cloexec(self.dirs.get(&first.0)?, 0)?;
        let to = self.dirs.get(dir)?;
        let inode = |stat: Stat| (stat.st_dev, stat.st_ino);
        // One that was lost costs no other name that is still there.
        let first_inode = inode(look(from.as_fd(), &first.1)?.ok_or(Errno::NOENT)?);
        if look(to, name)?.is_some_and(|there| inode(there) == first_inode) {
            return Ok(());
        }
        // What is there goes when the link is there.
        let mut made = name.as_bytes().to_vec();
        made.truncate(LONGEST_NAME - LINKED.len());
        let made = CString::new([&made, LINKED].concat()).expect("neither holds a zero byte");
        // One that was killed may have left it.
        let _ = rustix::fs::unlinkat(to, &made, AtFlags::empty());
        rustix::fs::linkat(&from, &first.1, to, &made, AtFlags::empty())?;
        let there = look(to, name)?.map(|stat| kind(&stat));
        let is_replaced = there.is_some_and(|kind| kind != Some(NodeKind::Dir));
        let may_replace = matches!(self.context.request.overwrite, Overwrite::Always | Overwrite::IfChanged);
        let moved = if is_replaced && may_replace { Ok(()) } else { make_room(self.context, to, name, &dir.entry(name.to_bytes())) };
        let moved = moved.and_then(|()| rustix::fs::renameat(to, &made, to, name));
        if moved.is_err() {
            let _ = rustix::fs::unlinkat(to, &made, AtFlags::empty());
        }
        moved
    }

    /// Of files that were lost no further name is made in later batches: the next one is the first then.
    pub(super) fn forget_lost(&mut self, batch: &Batch) {
        for file in batch.files.iter().filter(|file| file.is_damaged.load(Ordering::Relaxed)) {
            if let Some(node) = file.node.as_ref().filter(|node| node.links > 1) {
                self.links.remove(&(node.inode, node.device_id));
            }
        }
    }
}

/// Whether a file of a batch could not be restored.
pub(super) fn is_lost(batch: &Batch, file: &(Arc<TargetDir>, CString)) -> bool {
    batch.files.iter().any(|planned| planned.is_damaged.load(Ordering::Relaxed) && planned.sink.is(file))
}
