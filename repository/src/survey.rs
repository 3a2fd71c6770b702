//! What is there, and what of it snapshots need.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::budget::Shares;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::node::{Node, NodeKind};
use crate::id::{BlobId, ObjectId, PackId};
use crate::index::{Index, PackInfo, Usage};
use crate::object::ObjectName;
use crate::parallel;
use crate::read::Trees;
use crate::repository::Repository;
use crate::store::StoreErrorKind;

/// A look at everything. One copy of each blob that a snapshot needs is marked in the index.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) index: Arc<Index>,
    pub(crate) snapshots: HashSet<ObjectId>,
    /// Packs that are there, and their sizes.
    pub(crate) stored: HashMap<PackId, u64>,
}

impl Survey {
    /// Looks. Of copies, one that lies in no pack of `avoid` is marked, if there is one.
    pub(crate) fn take(repository: &Arc<Repository>, shares: &Shares, avoid: &HashSet<PackId>) -> Result<Self> {
        // Snapshots first: what they need was stored before them.
        let snapshots = repository.snapshot_ids()?;
        let index = Arc::new(Index::load(repository, shares.index_bytes)?);
        let stored = repository.stored_packs()?;
        let mut survey = Self { index, snapshots: HashSet::new(), stored };
        survey.mark(repository, shares, snapshots, avoid)?;
        Ok(survey)
    }

    /// Looks at what came since: snapshots, index files. Marks are moved out of `avoid` where there is another copy by now.
    /// The answer is false if it is out of date: an index file that it rests on is not there any more.
    pub(crate) fn catch_up(&mut self, repository: &Arc<Repository>, shares: &Shares, avoid: &HashSet<PackId>) -> Result<bool> {
        let mut snapshots = repository.snapshot_ids()?;
        if !self.index.catch_up(repository, shares.index_bytes)? {
            return Ok(false);
        }
        let unseen: Vec<PackInfo> = self.index.packs().into_iter().filter(|pack| !self.stored.contains_key(&pack.id)).collect();
        let found = Mutex::new(&mut self.stored);
        parallel::each(
            shares.uploads,
            &unseen,
            || (),
            |(), pack| {
                match repository.store().stat(&ObjectName::pack(pack.id)) {
                    Ok(stat) => drop(found.lock().expect("no holder panics").insert(pack.id, stat.size)),
                    Err(error) if error.kind == StoreErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(())
            },
        )?;
        self.index.move_marks(avoid, &|pack| self.stored.get(&pack.id) == Some(&pack.size));
        snapshots.retain(|id| !self.snapshots.contains(id));
        self.mark(repository, shares, snapshots, avoid)?;
        Ok(true)
    }

    /// What is needed of those of these packs that the index names.
    pub(crate) fn usage_of(&self, packs: &HashSet<PackId>) -> HashMap<PackId, Usage> {
        self.index.usage().into_iter().filter(|usage| packs.contains(&usage.pack.id)).map(|usage| (usage.pack.id, usage)).collect()
    }

    /// Those of these packs of which nothing is marked.
    pub(crate) fn unmarked(&self, packs: &HashSet<PackId>) -> HashSet<PackId> {
        let usage = self.usage_of(packs);
        packs.iter().filter(|pack| usage.get(pack).is_none_or(|usage| usage.needed_blobs == 0)).copied().collect()
    }

    /// Marks one copy of every blob that these snapshots need; of trees the one that was read, unless that is to go.
    fn mark(&mut self, repository: &Arc<Repository>, shares: &Shares, snapshots: Vec<ObjectId>, avoid: &HashSet<PackId>) -> Result<()> {
        let Self { index, stored, .. } = &*self;
        let trees = Trees::new(repository, index, shares.tree_bytes);
        let is_whole = |pack: &PackInfo| stored.get(&pack.id) == Some(&pack.size);
        let stays = |pack: &PackInfo| is_whole(pack) && !avoid.contains(&pack.id);
        for id in &snapshots {
            let root = match repository.snapshot(*id) {
                // Forgotten meanwhile, by those whom we do not keep out; or else it must be there.
                Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound && !repository.snapshot_ids()?.contains(id) => continue,
                snapshot => snapshot?.tree,
            };
            let missing = |blob: &BlobId, kind| match index.location(blob, kind) {
                Some(there) => {
                    repository.damaged(&ObjectName::pack(there.pack.id), format!("snapshot {} needs it, and it is gone or cut", id.short()))
                }
                None => Error::MissingBlob { id: *blob, kind },
            };
            let mut waiting = vec![root];
            while let Some(tree) = waiting.pop() {
                if repository.stop().is_stopped() {
                    return Err(Error::Stopped);
                }
                if index.is_needed(&tree, BlobKind::Tree) {
                    continue;
                }
                let mut nodes = trees.open(&tree)?;
                let from = nodes.pack();
                let is_read = |pack: &PackInfo| pack.id == from && is_whole(pack);
                let was_read_and_stays = |pack: &PackInfo| pack.id == from && stays(pack);
                let by_preference: [&dyn Fn(&PackInfo) -> bool; 4] = [&was_read_and_stays, &stays, &is_read, &is_whole];
                if !by_preference.iter().any(|can_be_read| index.mark(&tree, BlobKind::Tree, can_be_read)) {
                    return Err(missing(&tree, BlobKind::Tree));
                }
                while let Some(Node { kind, content, subtree, .. }) = nodes.next_node()? {
                    for blob in content.iter().flatten().filter(|_| kind == NodeKind::File) {
                        if !index.mark(blob, BlobKind::Data, &stays) && !index.mark(blob, BlobKind::Data, &is_whole) {
                            return Err(missing(blob, BlobKind::Data));
                        }
                    }
                    waiting.extend(subtree);
                }
            }
        }
        self.snapshots.extend(snapshots);
        Ok(())
    }
}
