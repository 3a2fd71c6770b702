//! A directory, in restic's layout.
//!
//! A file is written under a name of its own, synced, moved to its place without replacing anything it must not, and the
//! folder is synced: what `put` returned for is there after a power cut, and nobody sees half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags};

use super::{AsOf, Listed, PutMode, ReadRange, Retention, Stat, Store, StoreError, StoreErrorKind};
use crate::crypto::random;
use crate::id::ObjectId;
use crate::object::{Object, ObjectKind, ObjectName};

/// Between the id and what makes a name one of a kind, as in restic, while a file is written.
const TEMPORARY: &str = "-tmp-";

/// A repository in a local directory.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// A store at this path. Nothing is created until something is stored.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.path())
    }

    fn error(&self, verb: &'static str, object: &impl ToString, error: &io::Error) -> StoreError {
        let kind = match error.kind() {
            ErrorKind::NotFound => StoreErrorKind::NotFound,
            ErrorKind::AlreadyExists => StoreErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreErrorKind::Full,
            ErrorKind::UnexpectedEof => StoreErrorKind::Truncated,
            ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Other,
        };
        StoreError::new(self, kind, verb, object, error.to_string())
    }

    fn write(&self, object: &Object, mode: PutMode) -> io::Result<()> {
        let path = self.path(&object.name);
        let folder = path.parent().expect("every object lies in the root or below");
        let temporary = folder.join(format!("{}{TEMPORARY}{:016x}", object.name.id, u64::from_le_bytes(random())));
        let result = self.write_temporary(&temporary, folder, &object.body).and_then(|()| match mode {
            PutMode::Replace => fs::rename(&temporary, &path),
            PutMode::CreateNew => rename_new(&temporary, &path),
        });
        if result.is_err() {
            // It may not exist; what went wrong before is what matters.
            let _ = fs::remove_file(&temporary);
        }
        result?;
        File::open(folder)?.sync_all()
    }

    fn write_temporary(&self, temporary: &Path, folder: &Path, body: &[u8]) -> io::Result<()> {
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary);
        let mut file = match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.create_folder(folder)?;
                create()?
            }
            other => other?,
        };
        file.write_all(body)?;
        // As restic: read-only, against accidents. Some file systems have no modes.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o400));
        file.sync_all()
    }

    /// Whatever lies where objects of a kind do. What is gone by the time it is looked at was not there.
    fn for_each_file(&self, kind: ObjectKind, each: &mut dyn FnMut(&fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
        let folder = self.root.join(kind.folder());
        let folders =
            if kind == ObjectKind::Pack { (0..=255_u8).map(|first| folder.join(format!("{first:02x}"))).collect() } else { vec![folder] };
        let mut look = |folder: &Path| fs::read_dir(folder)?.try_for_each(|entry| absent_is_empty(each(&entry?)));
        folders.iter().try_for_each(|folder| absent_is_empty(look(folder)))
    }

    /// Creates a folder below the root (whose parent must exist) and syncs every folder that got a new entry.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        if folder != self.root {
            self.create_folder(parent)?;
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?.sync_all(),
        }
    }
}

/// Moves a file to a name that must be free.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can; a hard link fails on an existing name everywhere.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, _as_of: AsOf) -> Result<(), StoreError> {
        self.write(object, mode).map_err(|error| self.error("write", &object.name, &error))
    }

    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let fail = |error: &io::Error| self.error("read", name, error);
        let file = File::open(self.path(name)).map_err(|error| fail(&error))?;
        match range {
            ReadRange::Whole { limit } => {
                into.clear();
                // One byte more than allowed tells that there is more.
                (&file).take(limit.saturating_add(1)).read_to_end(into).map_err(|error| fail(&error))?;
                if into.len() as u64 > limit {
                    return Err(StoreError::new(self, StoreErrorKind::TooLarge, "read", name, format!("larger than {limit} bytes")));
                }
            }
            ReadRange::Part { offset, length } => {
                let length = usize::try_from(length).expect("memory is addressed in 64 bits");
                into.resize(length, 0);
                file.read_exact_at(into, offset).map_err(|error| fail(&error))?;
            }
        }
        Ok(())
    }

    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        let fail = |error: &io::Error| self.error("stat", name, error);
        let meta = fs::metadata(self.path(name)).map_err(|error| fail(&error))?;
        let written = meta.modified().map_err(|error| fail(&error))?;
        // A file from the future is as young as can be: never a reason to call something stale.
        let age = SystemTime::now().duration_since(written).unwrap_or(Duration::ZERO);
        Ok(Stat { size: meta.len(), age, ..Stat::default() })
    }

    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.for_each_file(kind, &mut |entry| {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ObjectId>().ok()) else { return Ok(()) };
            let meta = entry.metadata()?;
            if meta.is_file() {
                each(Listed { name: ObjectName::new(kind, id), size: meta.len() });
            }
            Ok(())
        })
        .map_err(|error| self.error("list", &kind, &error))
    }

    fn delete_as_of(&self, name: &ObjectName, _as_of: AsOf) -> Result<(), StoreError> {
        let path = self.path(name);
        let removed = fs::remove_file(&path).and_then(|()| File::open(path.parent().expect("in the root or below"))?.sync_all());
        absent_is_empty(removed).map_err(|error| self.error("delete", name, &error))
    }

    fn sweep(&self) -> Result<(), StoreError> {
        // Keys and locks are written by those, too, who are not alone.
        for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
            let swept = self.for_each_file(kind, &mut |entry| {
                let name = entry.file_name();
                let cut = name.to_str().and_then(|name| name.split_once(TEMPORARY));
                if cut.is_some_and(|(id, _)| id.parse::<ObjectId>().is_ok()) { fs::remove_file(entry.path()) } else { Ok(()) }
            });
            swept.map_err(|error| self.error("sweep", &kind, &error))?;
        }
        Ok(())
    }

    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn retain(&self, name: &ObjectName, _: Retention) -> Result<(), StoreError> {
        Err(StoreError::new(self, StoreErrorKind::Other, "retain", name, "only S3 can, in buckets with object lock"))
    }
}

fn absent_is_empty(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        super::super::conformance::run(&LocalStore::new(dir.path().join("repo")));
    }

    #[test]
    fn what_was_cut_off_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("repo"));
        store.sweep().unwrap();
        let put = |kind| {
            let object = Object::content_named(kind, bytes::Bytes::from_static(b"x"));
            store.put(&object, PutMode::Replace).unwrap();
            store.path(&object.name)
        };
        let (pack, lock) = (put(ObjectKind::Pack), put(ObjectKind::Lock));
        let cut_off = |path: &Path| PathBuf::from(format!("{}-tmp-0123", path.display()));
        let stays = [pack.clone(), lock.clone(), cut_off(&lock), pack.with_file_name("notes-tmp-of-mine")];
        let goes = cut_off(&pack);
        stays[2..].iter().chain([&goes]).for_each(|path| fs::write(path, b"half").unwrap());
        store.sweep().unwrap();
        assert!(stays.iter().all(|path| path.exists()) && !goes.exists());
    }

    #[test]
    fn a_parent_folder_that_is_missing_is_not_invented() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("typo/repo"));
        let object = Object::content_named(ObjectKind::Index, bytes::Bytes::from_static(b"x"));
        assert_eq!(store.put(&object, PutMode::Replace).unwrap_err().kind, StoreErrorKind::NotFound);
        assert!(!dir.path().join("typo").exists());
    }

    #[test]
    fn files_that_are_no_objects_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("index")).unwrap();
        fs::write(dir.path().join(format!("index/{}-tmp-1", "ab".repeat(32))), b"").unwrap();
        fs::write(dir.path().join("index/.DS_Store"), b"").unwrap();
        fs::create_dir(dir.path().join(format!("index/{}", "cd".repeat(32)))).unwrap();
        let mut seen = 0;
        LocalStore::new(dir.path().into()).list(ObjectKind::Index, &mut |_| seen += 1).unwrap();
        assert_eq!(seen, 0);
    }
}
