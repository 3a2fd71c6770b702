//! Whether a store keeps what a prune beside others rests on: what was signed long ago is refused, so that nobody who slept
//! changes anything late; and lists show at once what was done.

use std::time::Duration;

use bytes::Bytes;

use super::{AsOf, PutMode, SIGNED_FOR, Store, StoreError, StoreErrorKind};
use crate::crypto::random;
use crate::id::ObjectId;
use crate::object::{Object, ObjectKind, ObjectName};

/// What is signed so long before or after must be refused, by clocks that differ by two minutes.
const TOO_LATE: Duration = SIGNED_FOR.saturating_add(Duration::from_secs(3 * 60));
/// What is this old was left behind by one that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(60 * 60);

/// Tries it, with an object of its own. `now` is this machine's time, within two minutes of the store's.
///
/// # Errors
/// Those of the store.
pub fn is_refused(store: &dyn Store, now: jiff::Timestamp) -> Result<bool, StoreError> {
    let object = Object::named(ObjectName::new(ObjectKind::Probe, ObjectId(random())), Bytes::from_static(b"estiba"));
    let answer = is_refused_for(store, &object, now);
    let removed = store.delete(&object.name);
    let answer = answer?;
    removed?;
    let left = store.names(ObjectKind::Probe)?;
    for name in left.iter().filter(|name| **name != object.name) {
        match store.stat(name) {
            Ok(stat) if stat.age > LEFT_BEHIND => store.delete(name)?,
            Err(error) if error.kind != StoreErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(answer && !left.contains(&object.name))
}

fn is_refused_for(store: &dyn Store, object: &Object, now: jiff::Timestamp) -> Result<bool, StoreError> {
    let was_refused = |result: Result<(), StoreError>| match result {
        Ok(()) => Ok(false),
        // Not every server says why. Whoever may do nothing is told so by what is in time.
        Err(error) if matches!(error.kind, StoreErrorKind::ClockSkew | StoreErrorKind::Denied | StoreErrorKind::Expired) => Ok(true),
        // An answer that nobody understands is no promise.
        Err(error) if error.kind == StoreErrorKind::Other => Ok(false),
        Err(error) => Err(error),
    };
    let is_listed = || Ok::<_, StoreError>(store.names(ObjectKind::Probe)?.contains(&object.name));
    let put = |as_of| was_refused(store.put_as_of(object, PutMode::Replace, AsOf::Then(as_of)));
    if !put(now - TOO_LATE)? || !put(now + TOO_LATE)? || is_listed()? {
        return Ok(false);
    }
    store.put(object, PutMode::Replace)?;
    let came = is_listed()?;
    let late = was_refused(store.delete_as_of(&object.name, AsOf::Then(now - TOO_LATE)))?;
    Ok(came && late && is_listed()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::store::memory::MemoryStore;

    #[test]
    fn it_is_tried_and_nothing_stays() {
        for refuses in [false, true] {
            let store = MemoryStore::default();
            let store = if refuses { store.refusing_late(Arc::new(SystemClock)) } else { store };
            assert_eq!(is_refused(&store, SystemClock.now()).unwrap(), refuses);
            assert_eq!(store.names(ObjectKind::Probe).unwrap(), []);
        }
    }
}
