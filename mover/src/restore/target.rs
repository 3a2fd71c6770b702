//! The directory that is restored into. Entries are reached name by name from its descriptor, links never followed.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Overwrite, RestoreMode};
use crate::source::DirHandle;

/// The target, open.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) dir: DirHandle,
}

impl Target {
    /// Opens the target, creating it if its parent is there.
    pub(super) fn open(path: &Path, overwrite: Overwrite) -> Result<Self, String> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!("cannot create target {}: {error}", path.display())),
            _ => Self::check(path, overwrite),
        }
    }

    /// Opens the target if it is there.
    pub(super) fn open_existing(path: &Path, overwrite: Overwrite) -> Result<Option<Self>, String> {
        if path.symlink_metadata().is_err() { Ok(None) } else { Self::check(path, overwrite).map(Some) }
    }

    fn check(path: &Path, overwrite: Overwrite) -> Result<Self, String> {
        let dir = DirHandle::open(path).map_err(|error| format!("cannot open target {}: {error}", path.display()))?;
        let names = dir.names().map_err(|error| format!("cannot list target {}: {error}", path.display()))?;
        // What mkfs makes is no content.
        let found = names.iter().find(|name| name.as_bytes() != b"lost+found");
        if let (Some(found), Overwrite::Refuse) = (found, overwrite) {
            let (shown, found) = (path.display(), found.to_string_lossy());
            return Err(format!(
                "target {shown} is not empty: {found:?} is there; choose an empty directory, or say --overwrite always, if-changed or never"
            ));
        }
        Ok(Self { dir })
    }

    /// Makes all that was written survive a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.dir)?)
    }
}

/// A directory below the target, by its names: descriptors are opened when needed, so that any number may wait.
#[derive(Debug)]
pub(super) struct TargetDir {
    above: Option<Arc<TargetDir>>,
    name: CString,
}

impl TargetDir {
    /// The target itself.
    pub(super) fn root() -> Arc<Self> {
        Arc::new(Self { above: None, name: CString::default() })
    }

    /// Whether it is the target itself.
    pub(super) fn is_root(&self) -> bool {
        self.above.is_none()
    }

    /// A directory in this one.
    pub(super) fn below(self: &Arc<Self>, name: CString) -> Arc<Self> {
        Arc::new(Self { above: Some(self.clone()), name })
    }

    /// Path below the target, for messages and patterns.
    pub(super) fn path(&self) -> PathBuf {
        let mut path = self.above.as_ref().map_or_else(PathBuf::new, |above| above.path());
        if self.above.is_some() {
            path.push(OsStr::from_bytes(self.name.to_bytes()));
        }
        path
    }

    /// Path of something in it, below the target.
    pub(super) fn entry(&self, name: &[u8]) -> PathBuf {
        self.path().join(OsStr::from_bytes(name))
    }

    /// Opens it from the target on, name by name.
    fn open(&self, target: &Target) -> Result<OwnedFd, Errno> {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(TargetDir { above: Some(above), name }) = at {
            names.push(name);
            at = Some(above);
        }
        let mut fd = rustix::io::dup(&target.dir)?;
        for name in names.into_iter().rev() {
            fd = rustix::fs::openat(&fd, name, DIR_FLAGS, Mode::empty())?;
        }
        Ok(fd)
    }
}

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory that was opened last: most entries lie in the same one as the entry before. One per thread.
#[derive(Debug)]
pub(super) struct OpenDir<'a> {
    target: Option<&'a Target>,
    last: Option<(Arc<TargetDir>, OwnedFd)>,
}

impl<'a> OpenDir<'a> {
    pub(super) fn new(target: Option<&'a Target>) -> Self {
        Self { target, last: None }
    }

    pub(super) fn get(&mut self, dir: &Arc<TargetDir>) -> Result<BorrowedFd<'_>, Errno> {
        if !self.last.as_ref().is_some_and(|(last, _)| Arc::ptr_eq(last, dir)) {
            let target = self.target.ok_or(Errno::NOENT)?;
            self.last = Some((dir.clone(), dir.open(target)?));
        }
        Ok(self.last.as_ref().expect("set just now").1.as_fd())
    }
}

/// Where the bytes of a file go.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    File { dir: Arc<TargetDir>, name: CString },
    Device(Arc<File>),
}

impl Sink {
    /// Whether it is the file of that name.
    pub(super) fn is(&self, other: &(Arc<TargetDir>, CString)) -> bool {
        matches!(self, Self::File { dir, name } if Arc::ptr_eq(dir, &other.0) && *name == other.1)
    }

    /// Opens for writing; whatever stands at the name must be the file that was made there.
    pub(super) fn open(&self, dirs: &mut OpenDir<'_>, access: OFlags) -> Result<SinkFile, Errno> {
        match self {
            Self::Device(file) => Ok(SinkFile::Device(file.clone())),
            Self::File { dir, name } => {
                let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                Ok(SinkFile::File(File::from(rustix::fs::openat(dirs.get(dir)?, name, flags, Mode::empty())?)))
            }
        }
    }
}

/// An open sink.
#[derive(Debug)]
pub(super) enum SinkFile {
    File(File),
    Device(Arc<File>),
}

impl std::ops::Deref for SinkFile {
    type Target = File;
    fn deref(&self) -> &File {
        match self {
            Self::File(file) => file,
            Self::Device(file) => file,
        }
    }
}

/// Opens a block device that nobody else uses.
pub(super) fn open_device(path: &Path, mode: RestoreMode) -> io::Result<File> {
    // EXCL without CREAT, on a block device, means: not while it is mounted.
    let flags = match mode {
        RestoreMode::Write => OFlags::RDWR | OFlags::EXCL,
        RestoreMode::DryRun | RestoreMode::Nowhere => OFlags::RDONLY,
    };
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// What stands at a name, if anything.
pub(super) fn look(dir: BorrowedFd<'_>, name: &CString) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
