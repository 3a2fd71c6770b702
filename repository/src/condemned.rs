//! `x-estiba/condemned/<id>`: packs that are to go. Whoever appends and has read a list uses none of its packs, and says so in
//! its lock; so a prune needs to wait for those only who began before (`docs/maintenance.md`).

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::{ObjectId, PackId};
use crate::object::{ObjectKind, ObjectName};
use crate::repository::Repository;
use crate::store::StoreErrorKind;

/// Packs of one list; of more there are several lists.
const PACKS_A_LIST: usize = 50_000;
/// The largest list that is read.
const MAX_BYTES: usize = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct List {
    packs: Vec<PackId>,
}

/// The lists that are there.
#[derive(Debug)]
pub(crate) struct Condemned {
    /// By id. One that cannot be read names nothing, and nobody can honour it.
    lists: BTreeMap<ObjectId, Option<Vec<PackId>>>,
}

impl Condemned {
    /// Reads all lists.
    ///
    /// # Errors
    /// Those of the store. A list that is damaged is none.
    pub(crate) fn read(repository: &Repository) -> Result<Self> {
        let mut lists = BTreeMap::new();
        for name in repository.store().names(ObjectKind::Condemned)? {
            let list = match repository.load_unpacked(&name, MAX_BYTES) {
                Ok(json) => serde_json::from_slice::<List>(&json).ok().map(|list| list.packs),
                // What it named is in no index any more, and the index is read after this.
                Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => continue,
                Err(Error::Store(error)) if error.kind == StoreErrorKind::TooLarge => None,
                Err(error @ (Error::Store(_) | Error::Stopped)) => return Err(error),
                Err(_) => None,
            };
            lists.insert(name.id, list);
        }
        Ok(Self { lists })
    }

    /// Writes lists of these packs.
    pub(crate) fn write(repository: &Repository, packs: &[PackId]) -> Result<()> {
        packs.chunks(PACKS_A_LIST).try_for_each(|packs| {
            let json = serde_json::to_vec(&List { packs: packs.to_vec() }).expect("ids always serialise");
            repository.save_unpacked(ObjectKind::Condemned, json).map(drop)
        })
    }

    /// Those of these lists.
    pub(crate) fn only(mut self, ids: &HashSet<ObjectId>) -> Self {
        self.lists.retain(|id, _| ids.contains(id));
        self
    }

    /// The ids of all lists that are there.
    pub(crate) fn ids(repository: &Repository) -> Result<HashSet<ObjectId>> {
        Ok(repository.store().names(ObjectKind::Condemned)?.into_iter().map(|name| name.id).collect())
    }

    /// Those that can be honoured.
    pub(crate) fn readable(&self) -> Vec<ObjectId> {
        self.lists.iter().filter(|(_, list)| list.is_some()).map(|(id, _)| *id).collect()
    }

    /// All packs that they name.
    pub(crate) fn packs(&self) -> HashSet<PackId> {
        self.lists.values().flatten().flatten().copied().collect()
    }

    /// Takes the lists away. The caller holds a fence, or is alone.
    pub(crate) fn remove(&self, repository: &Repository) -> Result<()> {
        Ok(self.lists.keys().try_for_each(|id| repository.store().delete(&ObjectName::new(ObjectKind::Condemned, *id)))?)
    }
}
