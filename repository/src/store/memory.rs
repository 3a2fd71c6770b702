//! Objects in a map: for tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{AsOf, Listed, PutMode, ReadRange, Retention, SIGNED_FOR, Stat, Store, StoreError, StoreErrorKind};
use crate::clock::Clock;
use crate::object::{Object, ObjectKind, ObjectName};

/// What a memory store holds, for tests that damage or rebuild it.
pub type Objects = BTreeMap<ObjectName, (Bytes, Instant)>;

/// A store that is gone with the process. Clones share their content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    /// All objects.
    pub objects: Arc<Mutex<Objects>>,
    /// By this clock it refuses what is late.
    pub clock: Option<Arc<dyn Clock>>,
    /// So far its clock is ahead, as it says.
    pub ahead_secs: Arc<AtomicI64>,
    /// What is retained: as in a bucket that keeps versions, it can be removed all the same.
    pub retained: Arc<Mutex<BTreeMap<ObjectName, Retention>>>,
}

impl MemoryStore {
    /// A store that holds these.
    #[must_use]
    pub fn with(objects: impl IntoIterator<Item = (ObjectName, Bytes)>) -> Self {
        let objects = objects.into_iter().map(|(name, body)| (name, (body, Instant::now()))).collect();
        Self { objects: Arc::new(Mutex::new(objects)), ..Self::default() }
    }

    /// The same store, which from here on refuses what is late by this clock, as S3 does.
    #[must_use]
    pub fn refusing_late(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    fn check(&self, verb: &'static str, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        let (Some(clock), AsOf::Then(then)) = (&self.clock, as_of) else { return Ok(()) };
        if clock.now().duration_since(then).unsigned_abs() <= SIGNED_FOR {
            return Ok(());
        }
        Err(StoreError::new(self, StoreErrorKind::ClockSkew, verb, name, "it was signed at another time"))
    }

    fn get(&self, verb: &'static str, name: &ObjectName) -> Result<(Bytes, Instant), StoreError> {
        let objects = self.objects.lock().expect("no holder panics");
        objects.get(name).cloned().ok_or_else(|| StoreError::new(self, StoreErrorKind::NotFound, verb, name, "there is no such object"))
    }
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        self.check("write", &object.name, as_of)?;
        let mut objects = self.objects.lock().expect("no holder panics");
        if mode == PutMode::CreateNew && objects.contains_key(&object.name) {
            return Err(StoreError::new(self, StoreErrorKind::AlreadyExists, "create", &object.name, "it is there already"));
        }
        // A copy: the body's buffer goes back to its pool when the put has returned.
        objects.insert(object.name, (Bytes::copy_from_slice(&object.body), Instant::now()));
        Ok(())
    }

    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let (body, _) = self.get("read", name)?;
        into.clear();
        match range {
            ReadRange::Whole { limit } if body.len() as u64 > limit => {
                return Err(StoreError::new(
                    self,
                    StoreErrorKind::TooLarge,
                    "read",
                    name,
                    format!("{} bytes, at most {limit} expected", body.len()),
                ));
            }
            ReadRange::Whole { .. } => into.extend_from_slice(&body),
            ReadRange::Part { offset, length } => {
                let end = offset.saturating_add(length);
                if end > body.len() as u64 {
                    return Err(StoreError::new(
                        self,
                        StoreErrorKind::Truncated,
                        "read",
                        name,
                        format!("{} bytes, {end} expected", body.len()),
                    ));
                }
                let at = |position: u64| usize::try_from(position).expect("within the body");
                into.extend_from_slice(&body[at(offset)..at(end)]);
            }
        }
        Ok(())
    }

    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        let (body, written) = self.get("stat", name)?;
        let retained = self.retained.lock().expect("no holder panics");
        Ok(Stat {
            size: body.len() as u64,
            age: written.elapsed(),
            store_ahead_secs: self.ahead_secs.load(Ordering::Relaxed),
            retention: retained.get(name).copied(),
            has_legal_hold: false,
            is_versioned: !retained.is_empty(),
        })
    }

    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let all: Vec<Listed> = {
            let objects = self.objects.lock().expect("no holder panics");
            let of_kind = objects.iter().filter(|(name, _)| name.kind == kind);
            of_kind.map(|(name, (body, _))| Listed { name: *name, size: body.len() as u64 }).collect()
        };
        all.into_iter().for_each(each);
        Ok(())
    }

    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        self.check("delete", name, as_of)?;
        self.objects.lock().expect("no holder panics").remove(name);
        Ok(())
    }

    fn sweep(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        self.get("retain", name)?;
        self.retained.lock().expect("no holder panics").insert(*name, retention);
        Ok(())
    }
}

impl MemoryStore {
    /// Makes every object look older: for tests of lock ages.
    pub fn age_all(&self, by: Duration) {
        for (_, written) in self.objects.lock().expect("no holder panics").values_mut() {
            *written = written.checked_sub(by).expect("the machine was up for that long");
        }
    }
}
