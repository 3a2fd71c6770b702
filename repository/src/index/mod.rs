//! Where is a blob? All index files in one table in memory: 49 bytes a blob and up to as much again for growth.

mod load;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

use hashbrown::HashTable;

use crate::format::BlobKind;
use crate::format::index::IndexedPack;
use crate::format::pack::PackedBlob;
use crate::id::{BlobId, PackId};

/// Shards grow one at a time: growing never doubles the whole table.
const SHARDS: usize = 256;
/// The pack number of blobs that this run stores; nobody reads those in the same run.
const IN_FLIGHT: u32 = u32::MAX >> 1;
/// Marks trees in the pack number.
const TREE: u32 = 1 << 31;

/// Which blobs there are, and where.
#[derive(Debug)]
pub struct Index {
    packs: RwLock<Vec<PackInfo>>,
    shards: Vec<Mutex<HashTable<Entry>>>,
    blobs: AtomicUsize,
}

/// A pack that an index file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// The pack.
    pub id: PackId,
    /// Where its last blob ends.
    pub blobs_end: u32,
    /// Its size, list included.
    pub size: u64,
}

/// 48 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: [u8; 32],
    /// Position in `packs`, and the kind in the highest bit.
    pack: u32,
    offset: u32,
    stored: u32,
    /// 0: not compressed.
    uncompressed: u32,
}

impl Entry {
    fn is(&self, id: &BlobId, kind: BlobKind) -> bool {
        self.id == id.0 && (self.pack & TREE != 0) == (kind == BlobKind::Tree)
    }
}

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackInfo,
    /// The blob in it.
    pub blob: PackedBlob,
}

/// Whether a blob must be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is stored, or another thread of this run is storing it.
    Known,
    /// The caller must store it now, or the run must fail.
    New,
}

impl Default for Index {
    fn default() -> Self {
        Self { packs: RwLock::default(), shards: (0..SHARDS).map(|_| Mutex::default()).collect(), blobs: AtomicUsize::new(0) }
    }
}

impl Index {
    fn shard(&self, id: &[u8; 32]) -> MutexGuard<'_, HashTable<Entry>> {
        self.shards[usize::from(id[0])].lock().expect("no holder panics")
    }

    /// Adds a pack and all its blobs.
    pub fn insert(&self, pack: &IndexedPack) {
        let blobs_end = pack.blobs.iter().map(|blob| blob.offset + blob.stored).max().unwrap_or(0);
        let number = {
            let mut packs = self.packs.write().expect("no holder panics");
            packs.push(PackInfo { id: pack.id, blobs_end, size: pack.size() });
            u32::try_from(packs.len() - 1).ok().filter(|&number| number < IN_FLIGHT).expect("fewer than two billion packs")
        };
        for blob in &pack.blobs {
            let kind = if blob.kind == BlobKind::Tree { TREE } else { 0 };
            let (offset, stored, uncompressed) = (blob.offset, blob.stored, blob.uncompressed.unwrap_or(0));
            self.shard(&blob.id.0).insert_unique(
                hash(&blob.id.0),
                Entry { id: blob.id.0, pack: number | kind, offset, stored, uncompressed },
                rehash,
            );
        }
        self.blobs.fetch_add(pack.blobs.len(), Ordering::Relaxed);
    }

    /// True if the blob is stored or on its way.
    #[must_use]
    pub fn contains(&self, id: &BlobId, kind: BlobKind) -> bool {
        self.shard(&id.0).find(hash(&id.0), |entry| entry.is(id, kind)).is_some()
    }

    /// Says whether a blob is known, and if not, makes it so: exactly one thread is told [`Claim::New`].
    #[must_use]
    pub fn claim(&self, id: &BlobId, kind: BlobKind) -> Claim {
        let mut shard = self.shard(&id.0);
        if shard.find(hash(&id.0), |entry| entry.is(id, kind)).is_some() {
            return Claim::Known;
        }
        let kind = if kind == BlobKind::Tree { TREE } else { 0 };
        shard.insert_unique(hash(&id.0), Entry { id: id.0, pack: IN_FLIGHT | kind, offset: 0, stored: 0, uncompressed: 0 }, rehash);
        self.blobs.fetch_add(1, Ordering::Relaxed);
        Claim::New
    }

    /// All places where a blob lies: more than one if writers met, or a pack was stored again.
    #[must_use]
    pub fn locations(&self, id: &BlobId, kind: BlobKind) -> Vec<Location> {
        let shard = self.shard(&id.0);
        let packs = self.packs.read().expect("no holder panics");
        let of_blob = shard.iter_hash(hash(&id.0)).filter(|entry| entry.is(id, kind) && entry.pack & !TREE != IN_FLIGHT);
        let locations = of_blob.map(|entry| Location {
            pack: packs[(entry.pack & !TREE) as usize],
            blob: PackedBlob {
                id: *id,
                kind,
                offset: entry.offset,
                stored: entry.stored,
                uncompressed: (entry.uncompressed != 0).then_some(entry.uncompressed),
            },
        });
        locations.collect()
    }

    /// One place where a blob lies.
    #[must_use]
    pub fn location(&self, id: &BlobId, kind: BlobKind) -> Option<Location> {
        self.locations(id, kind).first().copied()
    }

    /// All packs that index files name; one that two files name is there twice.
    #[must_use]
    pub fn packs(&self) -> Vec<PackInfo> {
        self.packs.read().expect("no holder panics").clone()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blobs.load(Ordering::Relaxed)
    }

    /// True if nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blobs of every pack, by pack number: what the index says each pack holds.
    #[must_use]
    pub fn by_pack(&self) -> Vec<IndexedPack> {
        let packs = self.packs();
        let mut by_pack: Vec<IndexedPack> = packs.iter().map(|pack| IndexedPack { id: pack.id, blobs: Vec::new() }).collect();
        for shard in &self.shards {
            for entry in shard.lock().expect("no holder panics").iter().filter(|entry| entry.pack & !TREE != IN_FLIGHT) {
                by_pack[(entry.pack & !TREE) as usize].blobs.push(PackedBlob {
                    id: BlobId(entry.id),
                    kind: if entry.pack & TREE == 0 { BlobKind::Data } else { BlobKind::Tree },
                    offset: entry.offset,
                    stored: entry.stored,
                    uncompressed: (entry.uncompressed != 0).then_some(entry.uncompressed),
                });
            }
        }
        by_pack.iter_mut().for_each(|pack| pack.blobs.sort_unstable_by_key(|blob| blob.offset));
        by_pack
    }
}

/// Ids are hashes already.
fn hash(id: &[u8; 32]) -> u64 {
    u64::from_le_bytes(id[8..16].try_into().expect("eight bytes"))
}

fn rehash(entry: &Entry) -> u64 {
    hash(&entry.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(id: u8, kind: BlobKind, offset: u32) -> PackedBlob {
        PackedBlob { id: BlobId([id; 32]), kind, offset, stored: 40, uncompressed: Some(9) }
    }

    #[test]
    fn one_of_many_threads_is_told_to_store() {
        let index = Index::default();
        let claims: Vec<Claim> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| index.claim(&BlobId([1; 32]), BlobKind::Data))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|&&claim| claim == Claim::New).count(), 1);
        assert!(index.locations(&BlobId([1; 32]), BlobKind::Data).is_empty());
    }

    #[test]
    fn the_same_bytes_as_tree_and_as_data_are_two_blobs() {
        let index = Index::default();
        let pack = IndexedPack { id: PackId([9; 32]), blobs: vec![blob(1, BlobKind::Data, 0)] };
        index.insert(&pack);
        assert_eq!(index.claim(&BlobId([1; 32]), BlobKind::Tree), Claim::New);
        assert_eq!(index.claim(&BlobId([1; 32]), BlobKind::Data), Claim::Known);
    }

    #[test]
    fn every_copy_is_found() {
        let index = Index::default();
        for pack in [3, 4] {
            index.insert(&IndexedPack { id: PackId([pack; 32]), blobs: vec![blob(1, BlobKind::Tree, 0), blob(2, BlobKind::Tree, 40)] });
        }
        let found = index.locations(&BlobId([2; 32]), BlobKind::Tree);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|location| location.blob == blob(2, BlobKind::Tree, 40) && location.pack.blobs_end == 80));
        assert_eq!(index.by_pack()[1].blobs.len(), 2);
        assert!(std::mem::size_of::<Entry>() == 48);
    }
}
