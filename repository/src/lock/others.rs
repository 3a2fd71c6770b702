//! What a run sees of other locks, and what they leave it to do.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::{AtWork, MAX_LOCK_BYTES, STALE_AFTER};
use crate::error::{Error, Result};
use crate::format::lock::{LockFile, LockMode, RUN_PREFIX};
use crate::id::ObjectId;
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::StoreErrorKind;

/// What was seen of other locks so far.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Read once each; `Err` holds why one could not be read.
    files: HashMap<ObjectName, Result<LockFile, String>>,
    there: Vec<ObjectName>,
}

/// Who holds a lock; it may have two objects, while it is renewed.
type Holder = (String, String, u32);

impl Others {
    /// Lists the locks and reads those not read before.
    pub(super) fn look(&mut self, repository: &Repository) -> Result<()> {
        let mut listed = Vec::new();
        repository.store().list(ObjectKind::Lock, &mut |lock| listed.push(lock))?;
        self.there.clear();
        for lock in listed {
            // restic ignores empty ones too: what a crash of its local backend may leave.
            if lock.size == 0 {
                continue;
            }
            if let Entry::Vacant(unread) = self.files.entry(lock.name) {
                match repository.load_unpacked(&lock.name, MAX_LOCK_BYTES) {
                    Ok(json) => drop(unread.insert_entry(LockFile::decode(&json))),
                    Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => continue,
                    Err(error @ (Error::Store(_) | Error::Stopped)) => return Err(error),
                    Err(error) => drop(unread.insert_entry(Err(error.to_string()))),
                }
            }
            self.there.push(lock.name);
        }
        Ok(())
    }

    /// The locks of others that were seen; of one that cannot be read, why.
    fn all(&self, repository: &Repository) -> impl Iterator<Item = (Holder, Result<&LockFile, &str>)> {
        let own = format!("{RUN_PREFIX}{}", repository.identity().run_id);
        self.there.iter().filter_map(move |name| match &self.files[name] {
            Ok(file) if file.username == own => None,
            Ok(file) => Some(((file.hostname.clone(), file.username.clone(), file.pid), Ok(file))),
            Err(why) => Some(((name.path(), String::new(), 0), Err(why.as_str()))),
        })
    }

    /// # Errors
    /// [`Error::Locked`] if a lock that was seen excludes this mode.
    pub(super) fn check(&self, repository: &Repository, mode: LockMode) -> Result<()> {
        let excludes = |file: &LockFile| match mode {
            LockMode::Append => file.exclusive && !file.is_fence(),
            LockMode::Shared => file.exclusive,
            LockMode::Exclusive => true,
        };
        self.locked(repository, &|file| file.is_none_or(excludes))
    }

    /// Says who of the others `excludes` us; those whose lock cannot be read are asked about, too.
    fn locked(&self, repository: &Repository, excludes: &dyn Fn(Option<&LockFile>) -> bool) -> Result<()> {
        // By holder: one that renews its lock is seen twice.
        let mut holders = BTreeMap::new();
        let mut is_fenced = true;
        for (holder, file) in self.all(repository).filter(|(_, file)| excludes(file.ok())) {
            is_fenced &= file.is_ok_and(LockFile::is_fence);
            let text = match file {
                Ok(file) => describe(file, repository.clock().now()),
                Err(why) => format!("by {}, which cannot be read: {why}", holder.0),
            };
            holders.insert(holder, text);
        }
        if holders.is_empty() {
            return Ok(());
        }
        Err(Error::Locked { location: repository.store().location(), holders: holders.into_values().collect(), is_fenced })
    }

    /// Those of ours that renew their locks.
    pub(super) fn at_work(&self, repository: &Repository) -> AtWork {
        let now = repository.clock().now();
        let since = |time: jiff::Timestamp| Duration::try_from(now.duration_since(time)).unwrap_or_default();
        let files = self.all(repository).filter_map(|(_, file)| file.ok()).filter(|file| since(file.time) < STALE_AFTER);
        let ours: Vec<_> = files.filter_map(|file| Some((since(file.estiba.as_ref()?.began), describe(file, now)))).collect();
        AtWork { oldest: ours.iter().map(|(age, _)| *age).max(), holders: ours.into_iter().map(|(_, text)| text).collect() }
    }

    /// Those of `lists` that every other run honours. A run does if any object of its lock says so.
    ///
    /// # Errors
    /// [`Error::Locked`] if there is none of them, with who does not.
    pub(super) fn honoured(&self, repository: &Repository, lists: &HashSet<ObjectId>) -> Result<HashSet<ObjectId>> {
        self.locked(repository, &|file| file.is_none_or(|file| file.exclusive || file.run_id().is_none()))?;
        let mut by_run: HashMap<Holder, HashSet<ObjectId>> = HashMap::new();
        for (holder, file) in self.all(repository) {
            let ack = file.ok().and_then(|file| file.estiba.as_ref()).map(|ours| ours.ack.as_slice());
            by_run.entry(holder).or_default().extend(ack.unwrap_or_default());
        }
        let honoured: HashSet<ObjectId> = lists.iter().filter(|list| by_run.values().all(|acks| acks.contains(list))).copied().collect();
        if honoured.is_empty() && !lists.is_empty() {
            let lacks_one = |holder: &Holder| by_run.get(holder).is_some_and(|acks| !lists.is_subset(acks));
            self.locked(repository, &|file| file.is_none_or(|file| lacks_one(&(file.hostname.clone(), file.username.clone(), file.pid))))?;
        }
        Ok(honoured)
    }
}

fn describe(file: &LockFile, now: jiff::Timestamp) -> String {
    let minutes = |since: jiff::Timestamp| now.duration_since(since).as_secs() / 60;
    let mode = match (file.is_fence(), file.exclusive) {
        (true, _) => "by a prune that removes packs, ",
        (false, true) => "exclusively ",
        (false, false) => "",
    };
    let who = file.run_id().map_or_else(|| file.username.clone(), |run| format!("run {}", &run[..run.len().min(8)]));
    let began = file.estiba.as_ref().map_or_else(String::new, |ours| format!("began {} min ago, ", minutes(ours.began)));
    format!("{mode}by {who} on {} (pid {}), {began}renewed {} min ago", file.hostname, file.pid, minutes(file.time))
}
