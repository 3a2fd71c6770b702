//! What is to be backed up: entries of directories by descriptor and name, never by a path that may be swapped under us.

pub(crate) mod exclude;
pub(crate) mod metadata;
pub(crate) mod roots;

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

/// An open directory and the path it was reached by, for messages.
#[derive(Debug)]
pub(crate) struct DirHandle {
    fd: OwnedFd,
    pub(crate) path: PathBuf,
}

impl AsFd for DirHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOATIME);

impl DirHandle {
    /// Opens a directory that the user named; a symbolic link to one is followed.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let fd = without_noatime(DIR_FLAGS, |flags| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens a directory in this one; a symbolic link is refused.
    pub(crate) fn open_dir(&self, name: &CStr) -> Result<Self, Errno> {
        let flags = DIR_FLAGS.union(OFlags::NOFOLLOW);
        let fd = without_noatime(flags, |flags| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))?;
        Ok(Self { fd, path: self.join(name) })
    }

    /// Opens a file in this directory for reading; never follows a link, never waits for the other end of a pipe.
    pub(crate) fn open_file(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME;
        without_noatime(flags, |flags| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))
    }

    /// What an entry is; links are not followed.
    pub(crate) fn stat(&self, name: &CStr) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// All names, sorted by bytes, as trees want them.
    pub(crate) fn names(&self) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        // Some file systems list an entry twice while it is renamed.
        names.dedup();
        Ok(names)
    }

    /// The path of an entry, for messages.
    pub(crate) fn join(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }
}

/// Only the owner may ask for access times to be left alone; others read without.
fn without_noatime<T>(flags: OFlags, open: impl Fn(OFlags) -> Result<T, Errno>) -> Result<T, Errno> {
    match open(flags) {
        Err(Errno::PERM) => open(flags.difference(OFlags::NOATIME)),
        other => other,
    }
}

/// What a path that the user named is; links are not followed.
pub(crate) fn stat_path(path: &Path) -> Result<Stat, Errno> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

/// Paths as people and logs get them: what is not printable is escaped.
pub(crate) fn display(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
