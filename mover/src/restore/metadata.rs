//! Gives what was restored its owner, mode, attributes and times, in the order that lets each survive the next.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use contract::Severity;
use repository::format::node::{Node, NodeKind, Xattr, unix_permissions};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Context;
use crate::source::metadata::{entry_path, fd_path};

const SETUID_SETGID: u32 = 0o6000;

/// A regular file; or a directory, after everything in it.
pub(super) fn apply_open(context: &Context<'_>, fd: BorrowedFd<'_>, node: &Node, path: &Path) {
    let owned = owner(context, path, || {
        let stat = rustix::fs::fstat(fd)?;
        if (stat.st_uid, stat.st_gid) == (node.uid, node.gid) { Ok(()) } else { rustix::fs::fchown(fd, uid(node), gid(node)) }
    });
    let by_fd = fd_path(fd);
    let set = |xattr: &Xattr| set_xattr(context, path, &xattr.name, xattr::set_deref(&by_fd, &xattr.name, &xattr.value));
    // An owner without special rights needs write permission for these, which the mode may take away.
    node.xattrs.iter().filter(|xattr| xattr.name.starts_with("user.")).for_each(set);
    // A program may not run as somebody it does not belong to.
    let mode = permissions(node, owned);
    attempt(context, path, "mode", rustix::fs::fchmod(fd, mode));
    // Capabilities are lost when the owner changes, so they come after; an ACL sets mode bits of its own.
    node.xattrs.iter().filter(|xattr| !xattr.name.starts_with("user.")).for_each(set);
    attempt(context, path, "times", rustix::fs::futimens(fd, &times(node)));
}

/// Makes a link, device or pipe.
pub(super) fn make_special(dir: BorrowedFd<'_>, name: &CStr, node: &Node) -> Result<(), Errno> {
    let make = |kind: FileType| rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, node.device);
    match node.kind {
        NodeKind::Symlink => rustix::fs::symlinkat(OsStr::from_bytes(&node.link_target), dir, name),
        NodeKind::BlockDevice => make(FileType::BlockDevice),
        NodeKind::CharDevice => make(FileType::CharacterDevice),
        NodeKind::Fifo => make(FileType::Fifo),
        NodeKind::File | NodeKind::Dir | NodeKind::Socket => Err(Errno::INVAL),
    }
}

/// A link, device or pipe: by name, for they cannot be opened.
pub(super) fn apply_special(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, node: &Node, path: &Path) {
    let owned = owner(context, path, || {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (stat.st_uid, stat.st_gid) == (node.uid, node.gid) {
            return Ok(());
        }
        rustix::fs::chownat(dir, name, uid(node), gid(node), AtFlags::SYMLINK_NOFOLLOW)
    });
    let by_name = entry_path(dir, name);
    if node.kind != NodeKind::Symlink {
        attempt(context, path, "mode", rustix::fs::chmodat(dir, name, permissions(node, owned), AtFlags::empty()));
    }
    for xattr in &node.xattrs {
        set_xattr(context, path, &xattr.name, xattr::set(&by_name, &xattr.name, &xattr.value));
    }
    attempt(context, path, "times", rustix::fs::utimensat(dir, name, &times(node), AtFlags::SYMLINK_NOFOLLOW));
}

/// Whether the owner is the one it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owned {
    Yes,
    No,
}

fn owner(context: &Context<'_>, path: &Path, set: impl FnOnce() -> Result<(), Errno>) -> Owned {
    match set() {
        Ok(()) => Owned::Yes,
        Err(Errno::PERM) => {
            // Said once: without the right, it is the same for every item.
            if context.counts.owners_not_set.fetch_add(1, Ordering::Relaxed) == 0 {
                context.report.item(
                    path,
                    "its owner cannot be set without root's rights, nor can others'; only counted from here on",
                    Severity::Warning,
                );
            }
            Owned::No
        }
        Err(error) => {
            context.error(path, &format!("its owner cannot be set: {error}"));
            Owned::No
        }
    }
}

fn permissions(node: &Node, owned: Owned) -> Mode {
    let bits = unix_permissions(node.mode);
    Mode::from_raw_mode(if owned == Owned::Yes { bits } else { bits & !SETUID_SETGID })
}

fn attempt(context: &Context<'_>, path: &Path, what: &str, result: Result<(), Errno>) {
    if let Err(error) = result {
        context.error(path, &format!("its {what} cannot be set: {error}"));
    }
}

fn set_xattr(context: &Context<'_>, path: &Path, name: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        context.error(path, &format!("its attribute {name} cannot be set: {error}"));
    }
}

fn uid(node: &Node) -> Option<Uid> {
    Some(Uid::from_raw(node.uid))
}

fn gid(node: &Node) -> Option<Gid> {
    Some(Gid::from_raw(node.gid))
}

fn times(node: &Node) -> Timestamps {
    let timespec = |time: repository::format::time::Time| Timespec { tv_sec: time.seconds(), tv_nsec: i64::from(time.nanos()) };
    Timestamps { last_access: timespec(node.atime), last_modification: timespec(node.mtime) }
}
