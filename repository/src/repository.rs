//! The handle others hold: an open repository, its key, its store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::access::{Access, OnLocked, Stack};
use crate::clock::Clock;
use crate::crypto::kdf::Cost;
use crate::crypto::{MasterKey, random};
use crate::error::{Error, Result};
use crate::format::config::Config;
use crate::format::key::{KeyFile, OpenKeyError};
use crate::format::polynomial::Polynomial;
use crate::format::unpacked;
use crate::id::ObjectId;
use crate::lock::{Held, HeldSlot, Identity};
use crate::object::{Object, ObjectKind, ObjectName};
use crate::stop::Stop;
use crate::store::count::Counters;
use crate::store::{PutMode, ReadRange, Store, StoreErrorKind};

/// `config` and key files are a few hundred bytes.
const MAX_SMALL_BYTES: u64 = 64 << 10;
/// A repository with more keys than this is not opened by trying them all; restic stops at 20.
const MAX_KEYS_TRIED: usize = 20;
/// The largest stored form of an index, snapshot or lock: compressed, so below its limit once decompressed.
const MAX_UNPACKED_STORED: u64 = 128 << 20;

/// An open repository: the password was right, the master key is here.
pub struct Repository {
    config: Config,
    key: MasterKey,
    key_id: Option<ObjectId>,
    store: Arc<dyn Store>,
    cleanup: Arc<dyn Store>,
    counters: Arc<Counters>,
    held: HeldSlot,
    clock: Arc<dyn Clock>,
    stop: Stop,
    identity: Identity,
    on_locked: OnLocked,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("config", &self.config).field("store", &self.store).finish_non_exhaustive()
    }
}

impl Repository {
    /// Creates a repository where nothing is: key first, `config` last; only `config` makes it one. Without a polynomial it
    /// cuts files like no other.
    ///
    /// # Errors
    /// [`Error::AlreadyThere`] if anything of a repository is there, also if somebody else creates one meanwhile.
    pub fn init(access: &Access, password: &str, cost: Cost, polynomial: Option<Polynomial>) -> Result<Self> {
        let stack = access.stack();
        Self::refuse_if_anything_is_there(&*stack.work)?;
        let key = MasterKey::generate();
        let polynomial = polynomial.unwrap_or_else(|| Polynomial::generate(|| u64::from_le_bytes(random())));
        let config = Config::new(ObjectId(random()), polynomial);
        let key_id = add_key(&*stack.work, &key, password, cost, &access.identity, access.clock.now())?;
        let mut sealed = Vec::new();
        key.seal(&config.encode(), &mut sealed);
        let object = Object::named(ObjectName::CONFIG, Bytes::from(sealed));
        if let Err(error) = stack.work.put(&object, PutMode::CreateNew) {
            if error.kind != StoreErrorKind::AlreadyExists {
                // The config may have arrived all the same: its key must stay.
                return Err(error.into());
            }
            stack.cleanup.delete(&ObjectName::new(ObjectKind::Key, key_id))?;
            return Err(Error::AlreadyThere { location: stack.work.location(), found: "config".to_owned() });
        }
        // Where creating cannot be made exclusive, a rival may have written after us: the last one counts.
        let mut there = Vec::new();
        stack.work.read(&ObjectName::CONFIG, ReadRange::Whole { limit: MAX_SMALL_BYTES }, &mut there)?;
        if there != object.body {
            stack.cleanup.delete(&ObjectName::new(ObjectKind::Key, key_id))?;
            return Err(Error::Refused("another repository was created here at the same time; open that one".to_owned()));
        }
        Ok(Self::new(config, key, Some(key_id), stack, access))
    }

    fn refuse_if_anything_is_there(store: &dyn Store) -> Result<()> {
        let there = |found: String| Err(Error::AlreadyThere { location: store.location(), found });
        match store.stat(&ObjectName::CONFIG) {
            Ok(_) => return there("config".to_owned()),
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        for kind in [ObjectKind::Key, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Lock, ObjectKind::Pack] {
            let mut count = 0_u64;
            store.list(kind, &mut |_| count += 1)?;
            if count > 0 {
                return there(format!("no config, but {count} {kind} objects: a repository that lost its config?"));
            }
        }
        Ok(())
    }

    /// Opens a repository with a password, trying key after key.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongPassword`], damage.
    pub fn open(access: &Access, password: &str) -> Result<Self> {
        let stack = access.stack();
        let store = &*stack.work;
        let mut sealed = Vec::new();
        match store.read(&ObjectName::CONFIG, ReadRange::Whole { limit: MAX_SMALL_BYTES }, &mut sealed) {
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(Error::NoRepository { location: store.location() });
            }
            other => other?,
        }
        let (key, key_id, config) = find_key(store, password, &sealed, &access.stop)?;
        Ok(Self::new(config, key, Some(key_id), stack, access))
    }

    fn new(config: Config, key: MasterKey, key_id: Option<ObjectId>, stack: Stack, access: &Access) -> Self {
        Self {
            config,
            key,
            key_id,
            store: stack.work,
            cleanup: stack.cleanup,
            counters: stack.counters,
            held: stack.held,
            clock: access.clock.clone(),
            stop: access.stop.clone(),
            identity: access.identity.clone(),
            on_locked: access.on_locked.clone(),
        }
    }

    /// What it is.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether data may be removed from it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn may_remove(&self) -> Result<()> {
        if self.config.append_only == Some(true) {
            return Err(Error::Refused("this repository says of itself that nothing in it is to be removed (append_only)".to_owned()));
        }
        Ok(())
    }

    /// The key that seals its content.
    #[must_use]
    pub fn key(&self) -> &MasterKey {
        &self.key
    }

    /// The key file that opened it.
    #[must_use]
    pub fn key_id(&self) -> Option<ObjectId> {
        self.key_id
    }

    /// Where it lies.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn cleanup_store(&self) -> &dyn Store {
        &*self.cleanup
    }

    /// What was asked of the store so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Time.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The wish to stop.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Who runs.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// It waits for others, so long at most.
    pub(crate) fn waits(&self, why: &Error, most: Duration) {
        (self.on_locked)(why, most);
    }

    /// From now on this lock stands behind index and snapshot writes; or none.
    pub(crate) fn guard_with(&self, held: Option<Arc<Held>>) {
        self.held.set(held);
    }

    /// Seals and stores an index, a snapshot or a lock.
    pub(crate) fn save_unpacked(&self, kind: ObjectKind, json: Vec<u8>) -> Result<ObjectId> {
        let object = self.seal_unpacked(kind, json);
        self.store.put(&object, PutMode::Replace)?;
        Ok(object.name.id)
    }

    /// Seals an index, a snapshot or a lock.
    pub(crate) fn seal_unpacked(&self, kind: ObjectKind, json: Vec<u8>) -> Object {
        let mut sealed = Vec::new();
        self.key.seal(&unpacked::encode(json, self.config.version), &mut sealed);
        Object::content_named(kind, Bytes::from(sealed))
    }

    /// Reads an index, a snapshot or a lock back to JSON of at most `limit` bytes.
    pub(crate) fn load_unpacked(&self, name: &ObjectName, limit: usize) -> Result<Vec<u8>> {
        let mut stored = Vec::new();
        self.store.read(name, ReadRange::Whole { limit: (limit as u64).min(MAX_UNPACKED_STORED) }, &mut stored)?;
        let damaged = |what: String| self.damaged(name, what);
        if crate::crypto::sha256(&stored) != name.id.0 {
            return Err(damaged("its content does not match its name".to_owned()));
        }
        let plain = self.key.open(&mut stored).map_err(|error| damaged(error.to_string()))?;
        unpacked::decode(plain, limit).map_err(damaged)
    }

    /// An error of one object.
    pub(crate) fn damaged(&self, object: &impl ToString, what: impl Into<String>) -> Error {
        Error::Damaged { object: object.to_string(), location: self.store.location(), what: what.into() }
    }

    /// Adds a password.
    ///
    /// # Errors
    /// Those of the store.
    pub fn add_key(&self, password: &str, cost: Cost) -> Result<ObjectId> {
        add_key(&*self.store, &self.key, password, cost, &self.identity, self.clock.now())
    }

    /// All key files by id; one that cannot be read is listed with the reason.
    ///
    /// # Errors
    /// Those of the store.
    pub fn keys(&self) -> Result<Vec<(ObjectId, Result<KeyFile, String>)>> {
        load_keys(&*self.store)
    }

    /// Replaces the password in use: the new key is stored, and has opened, before the old one goes.
    ///
    /// # Errors
    /// Those of the store; then both may be there, and both open.
    pub fn replace_key(&self, password: &str, cost: Cost) -> Result<ObjectId> {
        let new = self.add_key(password, cost)?;
        // What is lost with the last key is everything.
        let mut json = Vec::new();
        let name = ObjectName::new(ObjectKind::Key, new);
        self.store.read(&name, ReadRange::Whole { limit: MAX_SMALL_BYTES }, &mut json)?;
        if !KeyFile::decode(&json).is_ok_and(|file| file.open(password).is_ok_and(|key| key == self.key)) {
            return Err(self.damaged(&name, "it is not what was stored just now; the old password stays"));
        }
        if let Some(old) = self.key_id {
            self.store.delete(&ObjectName::new(ObjectKind::Key, old))?;
        }
        Ok(new)
    }

    /// Removes a password. The one that is in use stays.
    ///
    /// # Errors
    /// [`Error::Refused`] for the key in use or one that is not there.
    pub fn remove_key(&self, id: ObjectId) -> Result<()> {
        if Some(id) == self.key_id {
            return Err(Error::Refused(format!(
                "key {} opened the repository just now; open it with another one to remove this",
                id.short()
            )));
        }
        if !self.keys()?.iter().any(|(there, _)| *there == id) {
            return Err(Error::Refused(format!("there is no key {}", id.short())));
        }
        Ok(self.store.delete(&ObjectName::new(ObjectKind::Key, id))?)
    }
}

fn open_config(store: &dyn Store, key: &MasterKey, sealed: &[u8]) -> Result<Config> {
    let damaged = |what: String| Error::Damaged { object: "config".to_owned(), location: store.location(), what };
    let mut sealed = sealed.to_vec();
    let json = key.open(&mut sealed).map_err(|error| damaged(error.to_string()))?;
    Config::decode(json).map_err(damaged)
}

fn add_key(store: &dyn Store, key: &MasterKey, password: &str, cost: Cost, identity: &Identity, now: jiff::Timestamp) -> Result<ObjectId> {
    let file = KeyFile::seal(key, password, cost, (&identity.username, &identity.hostname), now).map_err(Error::Refused)?;
    let object = Object::content_named(ObjectKind::Key, Bytes::from(file.encode()));
    store.put(&object, PutMode::Replace)?;
    Ok(object.name.id)
}

fn load_keys(store: &dyn Store) -> Result<Vec<(ObjectId, Result<KeyFile, String>)>> {
    let mut keys = Vec::new();
    for name in store.names(ObjectKind::Key)? {
        let mut json = Vec::new();
        match store.read(&name, ReadRange::Whole { limit: MAX_SMALL_BYTES }, &mut json) {
            Ok(()) => keys.push((name.id, KeyFile::decode(&json))),
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) if error.kind == StoreErrorKind::TooLarge => keys.push((name.id, Err(error.to_string()))),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(keys)
}

/// Tries the password on key after key. One that opens another config than this is passed over: whoever created a repository
/// here in the same moment, and was not the first, may have been killed before its key was gone.
fn find_key(store: &dyn Store, password: &str, config: &[u8], stop: &Stop) -> Result<(MasterKey, ObjectId, Config)> {
    let keys = load_keys(store)?;
    let count = keys.len();
    let (mut unusable, mut damage) = (Vec::new(), None);
    for (id, file) in keys.into_iter().take(MAX_KEYS_TRIED) {
        if stop.is_stopped() {
            return Err(Error::Stopped);
        }
        match file.map_err(OpenKeyError::Unusable).and_then(|file| file.open(password)) {
            Ok(key) => match open_config(store, &key, config) {
                Ok(config) => return Ok((key, id, config)),
                Err(error) => damage = Some(error),
            },
            Err(OpenKeyError::WrongPassword) => {}
            Err(OpenKeyError::Unusable(why)) => unusable.push(format!("keys/{}: {why}", id.short())),
        }
    }
    if let Some(damage) = damage {
        return Err(damage);
    }
    if count > 0 && unusable.len() < count {
        return Err(Error::WrongPassword { location: store.location(), keys: count });
    }
    let what = if unusable.is_empty() { "there is none: without a key nothing can be read".to_owned() } else { unusable.join("; ") };
    Err(Error::Damaged { object: "keys/".to_owned(), location: store.location(), what })
}
