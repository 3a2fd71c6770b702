//! What the snapshot does not have goes (`--delete`), once what was planned before it is there.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repository::format::node::NodeKind;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::target::{OpenDir, TargetDir, look};
use super::{Context, add};
use crate::source::metadata::kind;

/// Directories nested deeper are left for somebody to look at.
const MAX_DEPTH: usize = 1000;

/// An entry that the snapshot does not have.
#[derive(Debug)]
pub(super) struct Extra {
    pub(super) dir: Arc<TargetDir>,
    pub(super) name: CString,
}

impl Extra {
    fn path(&self) -> PathBuf {
        self.dir.path().join(OsStr::from_bytes(self.name.to_bytes()))
    }
}

/// Removes them; or says what would be removed. After an error they stay: what was to take their place may
/// be missing.
pub(super) fn run(context: &Context<'_>, dirs: &mut OpenDir<'_>, extras: Vec<Extra>) {
    for extra in extras {
        let path = extra.path();
        if context.report.errors() > 0 {
            add(&context.counts.extras_kept, 1);
            continue;
        }
        context.plan(contract::Change::Removed, &path);
        if context.writes() {
            let removed = dirs.get(&extra.dir).map_err(|error| error.to_string()).and_then(|dir| remove(context, dir, &extra.name, &path));
            if let Err(why) = removed {
                context.error(&path, &format!("it is not in the snapshot, and cannot be removed: {why}"));
            }
        } else {
            add(&context.counts.deleted, 1);
        }
    }
}

/// Removes an entry, and all that is in it. Links are not followed, other file systems not entered, and what is excluded stays.
pub(super) fn remove(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, path: &Path) -> Result<(), String> {
    let device = rustix::fs::fstat(dir).map_err(|error| error.to_string())?.st_dev;
    below(context, dir, name, path, device, 0).map(drop)
}

/// Whether it is gone.
fn below(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, path: &Path, device: u64, depth: usize) -> Result<bool, String> {
    let failed = |error: Errno| format!("{}: {error}", path.display());
    if context.request.excludes.matches(&Path::new("/").join(path)) {
        return Ok(false);
    }
    let Some(stat) = look(dir, name).map_err(failed)? else { return Ok(true) };
    if kind(&stat) != Some(NodeKind::Dir) {
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(failed)?;
        add(&context.counts.deleted, 1);
        return Ok(true);
    }
    if stat.st_dev != device {
        return Err(format!("another file system is mounted at {}", path.display()));
    }
    if depth >= MAX_DEPTH {
        return Err(format!("{} is nested more than {MAX_DEPTH} deep", path.display()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed)?;
    let mut is_empty = true;
    let entries: Result<Vec<_>, Errno> = Dir::read_from(&open).map_err(failed)?.collect();
    for entry in entries.map_err(failed)? {
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            is_empty &= below(context, open.as_fd(), &name.to_owned(), &path.join(OsStr::from_bytes(name.to_bytes())), device, depth + 1)?;
        }
    }
    if is_empty {
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed)?;
        add(&context.counts.deleted, 1);
    }
    Ok(is_empty)
}
