//! Gives what was restored its owner, mode, attributes and times, in the order that lets each survive the next.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use contract::Severity;
use repository::format::node::{Node, NodeKind, Xattr, unix_permissions};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Context;
use crate::source::metadata::{entry_path, fd_path, kind};

const SETUID_SETGID: u32 = 0o6000;

/// A regular file; or a directory, after everything in it. What a directory handed down to it goes, an ACL for instance; and where
/// all is right already nothing is set, for every change makes the next backup look again.
pub(super) fn apply(context: &Context<'_>, fd: BorrowedFd<'_>, node: &Node, path: &Path) {
    let by_fd = fd_path(fd);
    let there = xattrs(&by_fd);
    let is_extra = |name: &OsStr| is_content(name) && !node.xattrs.iter().any(|xattr| xattr.name.as_bytes() == name.as_bytes());
    let extra: Vec<&OsStr> = there.iter().map(|(name, _)| name.as_os_str()).filter(|name| is_extra(name)).collect();
    let has = |xattr: &Xattr| there.iter().any(|(name, value)| name.as_bytes() == xattr.name.as_bytes() && *value == xattr.value);
    let is_right = rustix::fs::fstat(fd).is_ok_and(|stat| is_as_stated(&stat, node));
    if is_right && extra.is_empty() && node.xattrs.iter().all(has) {
        return;
    }
    for name in extra {
        if let Err(error) = xattr::remove_deref(&by_fd, name) {
            context.error(path, &format!("its attribute {} cannot be removed: {error}", name.display()));
        }
    }
    set(context, fd, node, path);
}

fn set(context: &Context<'_>, fd: BorrowedFd<'_>, node: &Node, path: &Path) {
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

/// Attributes that can be read, with their values.
fn xattrs(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let names = xattr::list_deref(path).into_iter().flatten();
    names.filter_map(|name| xattr::get_deref(path, &name).ok().flatten().map(|value| (name, value))).collect()
}

/// Whether an attribute belongs to the entry, and not to the machine that it is on.
fn is_content(name: &OsStr) -> bool {
    const ALSO: [&str; 3] = ["system.posix_acl_access", "system.posix_acl_default", "security.capability"];
    name.as_bytes().starts_with(b"user.") || ALSO.iter().any(|also| name == *also)
}

fn is_as_stated(stat: &Stat, node: &Node) -> bool {
    let is_timed = stat.st_mtime == node.mtime.seconds() && u32::try_from(stat.st_mtime_nsec) == Ok(node.mtime.nanos());
    // Links have no modes of their own.
    let has_mode = node.kind == NodeKind::Symlink || stat.st_mode & 0o7777 == unix_permissions(node.mode);
    is_timed && has_mode && (stat.st_uid, stat.st_gid) == (node.uid, node.gid)
}

/// Whether what stands at a name is the link, device or pipe that belongs there; `None`: nothing is there.
pub(super) fn is_special(dir: BorrowedFd<'_>, name: &CStr, node: &Node) -> Result<Option<bool>, Errno> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    let is_same = kind(&stat) == Some(node.kind)
        && match node.kind {
            NodeKind::Symlink => rustix::fs::readlinkat(dir, name, Vec::new())?.as_bytes() == node.link_target,
            NodeKind::BlockDevice | NodeKind::CharDevice => stat.st_rdev == node.device,
            NodeKind::File | NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => true,
        };
    Ok(Some(is_same))
}

/// Whether its owner, mode or time is not what it should be, or it has attributes, which are not compared.
pub(super) fn differs_special(dir: BorrowedFd<'_>, name: &CString, node: &Node) -> bool {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    !node.xattrs.is_empty() || !stat.is_ok_and(|stat| is_as_stated(&stat, node))
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
        attempt(context, path, "mode", chmod(dir, name, node, permissions(node, owned)));
    }
    for xattr in &node.xattrs {
        set_xattr(context, path, &xattr.name, xattr::set(&by_name, &xattr.name, &xattr.value));
    }
    attempt(context, path, "times", rustix::fs::utimensat(dir, name, &times(node), AtFlags::SYMLINK_NOFOLLOW));
}

/// Of a device or pipe; a link that somebody put in its place is not followed.
fn chmod(dir: BorrowedFd<'_>, name: &CStr, node: &Node, mode: Mode) -> Result<(), Errno> {
    let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if kind(&rustix::fs::fstat(&fd)?) != Some(node.kind) {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(fd_path(fd.as_fd()), mode)
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
