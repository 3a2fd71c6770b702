//! What the snapshot does not have goes (`--delete`), once what was planned before it is there.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use repository::format::node::NodeKind;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Statx, StatxAttributes, StatxFlags};
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

/// Removes them; or says what would be removed. After an error they stay: what was to take their place may
/// be missing.
pub(super) fn run(context: &Context<'_>, dirs: &mut OpenDir<'_>, extras: Vec<Extra>) {
    for extra in extras {
        if context.repository.stop().is_stopped() {
            return;
        }
        let path = extra.dir.entry(extra.name.to_bytes());
        if context.report.errors() > 0 {
            add(&context.counts.extras_kept, 1);
            continue;
        }
        let removed =
            dirs.get(&extra.dir).map_err(|error| error.to_string()).and_then(|dir| below(context, dir, &extra.name, &path, Act::Remove, 0));
        if let Err(why) = removed {
            context.error(&path, &format!("it is not in the snapshot, and cannot be removed: {why}"));
        }
    }
}

/// Makes room for something else: removes an entry, if nothing in it has to stay.
pub(super) fn remove(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, path: &Path) -> Result<(), String> {
    if !below(context, dir, name, path, Act::Look, 0)? {
        return Err("something in it is excluded, or a socket".to_owned());
    }
    below(context, dir, name, path, Act::Remove, 0).map(drop)
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Nothing, and nothing is said.
    Look,
    /// Entries go; or in a dry run it is said which.
    Remove,
}

/// Whether something is mounted at a directory; what cannot be told counts as such.
pub(super) fn is_mounted(dir: BorrowedFd<'_>) -> bool {
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::empty());
    let is_known = |stat: &Statx| stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    !stat.is_ok_and(|stat| is_known(&stat) && !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether an entry is gone, with all that is in it. Links are not followed, other file systems not entered; what is excluded stays, and
/// so do sockets, which no snapshot has.
fn below(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, path: &Path, act: Act, depth: usize) -> Result<bool, String> {
    let failed = |error: Errno| format!("{}: {error}", path.display());
    if context.repository.stop().is_stopped() {
        return Ok(false);
    }
    if context.request.excludes.matches(&Path::new("/").join(path)) || context.was_excluded(path) {
        return Ok(false);
    }
    let Some(stat) = look(dir, name).map_err(failed)? else { return Ok(true) };
    match kind(&stat) {
        Some(NodeKind::Socket) => return Ok(false),
        Some(NodeKind::Dir) => {}
        _ => return gone(context, dir, name, path, act, AtFlags::empty()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed)?;
    let is_other_device = rustix::fs::fstat(dir).map_err(failed)?.st_dev != stat.st_dev;
    if is_other_device || is_mounted(open.as_fd()) {
        return Err(format!("another file system is mounted at {}", path.display()));
    }
    if depth >= MAX_DEPTH {
        return Err(format!("{} is nested more than {MAX_DEPTH} deep", path.display()));
    }
    let entries: Result<Vec<_>, Errno> = Dir::read_from(&open).map_err(failed)?.collect();
    let mut is_empty = true;
    for entry in entries.map_err(failed)? {
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            is_empty &= below(context, open.as_fd(), &name.to_owned(), &path, act, depth + 1)?;
        }
    }
    if is_empty { gone(context, dir, name, path, act, AtFlags::REMOVEDIR) } else { Ok(false) }
}

fn gone(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, path: &Path, act: Act, flags: AtFlags) -> Result<bool, String> {
    if act == Act::Look {
        return Ok(true);
    }
    context.plan(contract::Change::Removed, path);
    if context.writes() {
        rustix::fs::unlinkat(dir, name, flags).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    add(&context.counts.deleted, 1);
    Ok(true)
}
