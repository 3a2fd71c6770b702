//! Takes away locks that were left behind.

use super::{MAX_LOCK_BYTES, STALE_AFTER};
use crate::error::{Error, Result};
use crate::format::lock::LockFile;
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::StoreErrorKind;

/// Which locks `unlock` takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnlockMode {
    /// Those nobody renews any more.
    Stale,
    /// All: only when it is certain that nobody is at work.
    All,
}

/// Removes locks that were left behind; returns how many were removed and how many stay.
///
/// # Errors
/// Those of the store.
pub fn unlock(repository: &Repository, mode: UnlockMode) -> Result<(usize, usize)> {
    let (mut removed, mut kept) = (0, 0);
    for name in repository.store().names(ObjectKind::Lock)? {
        if mode == UnlockMode::All || is_stale(repository, &name)? {
            repository.store().delete(&name)?;
            removed += 1;
        } else {
            kept += 1;
        }
    }
    Ok((removed, kept))
}

/// Old by the store's clock; a foreign lock must be old by its own time as well, as restic wants it.
fn is_stale(repository: &Repository, name: &ObjectName) -> Result<bool> {
    let age = match repository.store().stat(name) {
        Ok(stat) => stat.age,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if age < STALE_AFTER {
        return Ok(false);
    }
    match repository.load_unpacked(name, MAX_LOCK_BYTES) {
        Ok(json) => Ok(LockFile::decode(&json).is_ok_and(|file| {
            file.run_id().is_some() || repository.clock().now().duration_since(file.time).as_secs() > STALE_AFTER.as_secs().cast_signed()
        })),
        Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error @ (Error::Store(_) | Error::Stopped)) => Err(error),
        // What cannot be read says nothing about its owner.
        Err(_) => Ok(false),
    }
}
