//! What is in the target and not in the snapshot (`--delete`): found while the walk goes by, removed when what was planned is there.

use std::collections::HashSet;
use std::ffi::CString;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use repository::error::Result;
use rustix::fs::Dir;
use rustix::io::Errno;

use super::super::Extras;
use super::super::delete::{Extra, is_mounted};
use super::super::target::{TargetDir, look};
use super::{Included, Plan};

/// The names in a directory of the snapshot, by their hashes: of two that have the same one, the other is kept, too.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashSet<u64>,
    lower: HashSet<u64>,
}

impl Names {
    pub(super) fn insert(&mut self, name: &[u8]) {
        self.exact.insert(hash(name));
        self.lower.insert(hash(&name.to_ascii_lowercase()));
    }

    fn has(&self, name: &[u8]) -> bool {
        self.exact.contains(&hash(name))
    }

    fn has_in_any_case(&self, name: &[u8]) -> bool {
        self.lower.contains(&hash(&name.to_ascii_lowercase()))
    }
}

fn hash(name: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}

impl Plan<'_> {
    /// Of a directory that was saved, and at which nothing is mounted, what is not in the snapshot goes.
    pub(super) fn names(&mut self, dir: &Arc<TargetDir>) -> Option<Names> {
        let is_asked = self.context.request.extras == Extras::Delete && self.context.was_saved(&dir.path());
        (is_asked && !self.is_elsewhere(dir)).then(Names::default)
    }

    /// Whether a directory lies on another file system than the target, or cannot be looked at.
    fn is_elsewhere(&mut self, dir: &Arc<TargetDir>) -> bool {
        let Some(target) = self.target.filter(|_| !dir.is_root()) else { return false };
        let device = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| stat.st_dev).ok();
        let of_target = device(target.dir.as_fd());
        match self.dirs.get(dir) {
            Ok(fd) => device(fd) != of_target || is_mounted(fd),
            // In a dry run it may not be there yet.
            Err(_) => self.writes(),
        }
    }

    /// Finds what is in a directory of the target and not in the snapshot.
    pub(super) fn extras(&mut self, dir: &Arc<TargetDir>, names: &Names) -> Result<()> {
        let entries = match self.dirs.get(dir).and_then(Dir::read_from) {
            Ok(entries) => entries,
            // What is not there yet, in a dry run, has nothing in it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.writes() => return Ok(()),
            Err(error) => return self.lose_extras(dir, error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.lose_extras(dir, error),
            };
            let (name, bytes) = (entry.file_name(), entry.file_name().to_bytes());
            // What mkfs makes is no content.
            let is_ours = matches!(bytes, b"." | b"..") || dir.is_root() && bytes == b"lost+found";
            if !is_ours
                && !names.has(bytes)
                && !self.is_known_otherwise(dir, bytes, names)
                && self.included(dir, bytes) == Some(Included::Yes)
                && !self.context.was_excluded(&dir.entry(bytes))
            {
                self.batch.extras.push(Extra { dir: dir.clone(), name: name.to_owned() });
                self.work_off_if_full()?;
            }
        }
        Ok(())
    }

    /// Whether upper and lower case are one here, and the snapshot has the name in another case.
    fn is_known_otherwise(&mut self, dir: &Arc<TargetDir>, name: &[u8], names: &Names) -> bool {
        let flipped: Vec<u8> =
            name.iter().map(|byte| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }).collect();
        if flipped == name || !names.has_in_any_case(name) {
            return false;
        }
        let mut inode = |name: Vec<u8>| {
            let stat = self.dirs.get(dir).and_then(|fd| look(fd, &CString::new(name).map_err(|_| Errno::INVAL)?)).ok().flatten();
            stat.map(|stat| (stat.st_dev, stat.st_ino))
        };
        inode(flipped) == inode(name.to_vec())
    }

    fn lose_extras(&self, dir: &TargetDir, error: Errno) -> Result<()> {
        self.context.error(&dir.path(), &format!("what is in it cannot be listed, so nothing more of it goes: {error}"));
        Ok(())
    }
}
