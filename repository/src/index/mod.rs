//! Where is a blob? All index files in one table in memory: 49 bytes a blob and up to as much again for growth.

mod load;
pub(crate) mod rewrite;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

use hashbrown::HashTable;

use crate::format::BlobKind;
use crate::format::index::IndexedPack;
use crate::format::pack::{PackedBlob, header_len};
use crate::id::{BlobId, PackId};
use crate::object::ObjectName;

/// Shards grow one at a time: growing never doubles the whole table.
const SHARDS: usize = 256;
/// The pack number of blobs that this run stores, until their pack is.
const IN_FLIGHT: u32 = u32::MAX >> 2;
/// Marks trees in the pack number.
const TREE: u32 = 1 << 31;
/// Marks copies that something needs in the pack number.
const NEEDED: u32 = 1 << 30;

/// Which blobs there are, and where.
#[derive(Debug)]
pub struct Index {
    packs: RwLock<Packs>,
    shards: Vec<Mutex<HashTable<Entry>>>,
    blobs: AtomicUsize,
    files: Mutex<HashSet<ObjectName>>,
}

#[derive(Debug, Default)]
struct Packs {
    all: Vec<PackInfo>,
    numbers: HashMap<PackId, u32>,
}

impl Packs {
    /// The number of a pack, which one more index file names.
    fn named(&mut self, pack: &IndexedPack) -> u32 {
        let next = u32::try_from(self.all.len()).ok().filter(|&number| number < IN_FLIGHT).expect("fewer than a billion packs");
        let number = *self.numbers.entry(pack.id).or_insert(next);
        if number == next {
            self.all.push(PackInfo { id: pack.id, blobs_end: 0, size: header_len(&[]), files: 0 });
        }
        let info = &mut self.all[number as usize];
        info.files += 1;
        info.blobs_end = pack.blobs.iter().map(|blob| blob.offset + blob.stored).fold(info.blobs_end, u32::max);
        number
    }
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
    /// Index files that name it.
    pub files: u32,
}

/// 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    id: [u8; 32],
    /// Position in `packs`, the kind in the highest bit, and in the next one whether this copy is needed.
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

    const fn kind(&self) -> BlobKind {
        if self.pack & TREE == 0 { BlobKind::Data } else { BlobKind::Tree }
    }

    fn is_copy_of(&self, other: &Self) -> bool {
        self.id == other.id && (self.pack ^ other.pack) & TREE == 0
    }

    const fn pack(&self) -> u32 {
        self.pack & IN_FLIGHT
    }

    const fn is_stored(&self) -> bool {
        self.pack() != IN_FLIGHT
    }

    const fn is_needed(&self) -> bool {
        self.pack & NEEDED != 0
    }

    fn blob(&self) -> PackedBlob {
        PackedBlob {
            id: BlobId(self.id),
            kind: self.kind(),
            offset: self.offset,
            stored: self.stored,
            uncompressed: (self.uncompressed != 0).then_some(self.uncompressed),
        }
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

/// What of a pack is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The pack.
    pub pack: PackInfo,
    /// Its blobs.
    pub blobs: u32,
    /// Those that are needed.
    pub needed_blobs: u32,
    /// Bytes of these, as stored.
    pub needed_bytes: u64,
    /// Those that are not, because another copy of them is.
    pub copies: u32,
    /// It holds trees: everything reads those first.
    pub has_trees: bool,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            packs: RwLock::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            blobs: AtomicUsize::new(0),
            files: Mutex::default(),
        }
    }
}

impl Index {
    fn shard(&self, id: &[u8; 32]) -> MutexGuard<'_, HashTable<Entry>> {
        self.shards[usize::from(id[0])].lock().expect("no holder panics")
    }

    /// Adds a pack and all its blobs. One that is there already gets those that it lacks.
    pub fn insert(&self, pack: &IndexedPack) {
        let number = self.packs.write().expect("no holder panics").named(pack);
        let (mut added, mut size) = (0, 0);
        for blob in &pack.blobs {
            let kind = if blob.kind == BlobKind::Tree { TREE } else { 0 };
            let (offset, stored, uncompressed) = (blob.offset, blob.stored, blob.uncompressed.unwrap_or(0));
            let entry = Entry { id: blob.id.0, pack: number | kind, offset, stored, uncompressed };
            let mut shard = self.shard(&blob.id.0);
            if shard.find(hash(&entry.id), |known| Entry { pack: known.pack & !NEEDED, ..*known } == entry).is_none() {
                shard.insert_unique(hash(&entry.id), entry, rehash);
                added += 1;
                size += u64::from(stored) + header_len(&[*blob]) - header_len(&[]);
            }
        }
        self.blobs.fetch_add(added, Ordering::Relaxed);
        self.packs.write().expect("no holder panics").all[number as usize].size += size;
    }

    /// Whether a copy of it is marked as needed.
    #[must_use]
    pub fn is_needed(&self, id: &BlobId, kind: BlobKind) -> bool {
        self.shard(&id.0).iter_hash(hash(&id.0)).any(|entry| entry.is(id, kind) && entry.is_needed())
    }

    /// Says that a blob is needed. Of its copies the first that lies in a pack that `can_be_read` counts, and no other.
    /// The answer is whether there is one.
    #[must_use]
    pub fn mark(&self, id: &BlobId, kind: BlobKind, can_be_read: &dyn Fn(&PackInfo) -> bool) -> bool {
        let mut shard = self.shard(&id.0);
        let is_copy = |entry: &Entry| entry.is(id, kind) && entry.is_stored();
        let mut copies = shard.iter_hash(hash(&id.0)).filter(|entry| is_copy(entry));
        if copies.any(Entry::is_needed) {
            return true;
        }
        let packs = self.packs.read().expect("no holder panics");
        let found = shard.find_mut(hash(&id.0), |entry| is_copy(entry) && can_be_read(&packs.all[entry.pack() as usize]));
        found.map(|entry| entry.pack |= NEEDED).is_some()
    }

    /// Where a copy is marked that lies in one of these packs, another one is marked instead, if there is one elsewhere that
    /// `can_be_read` counts.
    pub(crate) fn move_marks(&self, avoid: &HashSet<PackId>, can_be_read: &dyn Fn(&PackInfo) -> bool) {
        let packs = self.packs();
        let is_avoided = |entry: &Entry| avoid.contains(&packs[entry.pack() as usize].id);
        for shard in &self.shards {
            let mut shard = shard.lock().expect("no holder panics");
            let marked = shard.iter().filter(|entry| entry.is_stored() && entry.is_needed() && is_avoided(entry));
            for from in marked.copied().collect::<Vec<_>>() {
                let is_better = |entry: &Entry| {
                    entry.is_copy_of(&from) && entry.is_stored() && !is_avoided(entry) && can_be_read(&packs[entry.pack() as usize])
                };
                if let Some(better) = shard.find_mut(rehash(&from), is_better) {
                    better.pack |= NEEDED;
                    let old = shard.find_mut(rehash(&from), |entry| *entry == from).expect("it was found just now");
                    old.pack &= !NEEDED;
                }
            }
        }
    }

    /// What is needed of each pack.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        let packs = self.packs().into_iter();
        let mut usage: Vec<Usage> =
            packs.map(|pack| Usage { pack, blobs: 0, needed_blobs: 0, needed_bytes: 0, copies: 0, has_trees: false }).collect();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder panics");
            for entry in shard.iter().filter(|entry| entry.is_stored()) {
                let pack = &mut usage[entry.pack() as usize];
                pack.blobs += 1;
                pack.has_trees |= entry.pack & TREE != 0;
                if entry.is_needed() {
                    pack.needed_blobs += 1;
                    pack.needed_bytes += u64::from(entry.stored);
                } else if shard.iter_hash(rehash(entry)).any(|other| other.is_needed() && other.is_copy_of(entry)) {
                    pack.copies += 1;
                }
            }
        }
        usage
    }

    /// The blobs that are needed of these packs, by ascending offset.
    #[must_use]
    pub fn needed_of(&self, wanted: Vec<PackId>) -> Vec<IndexedPack> {
        self.blobs_of(wanted, Entry::is_needed)
    }

    /// The blobs of these packs that are not needed, or not there.
    #[must_use]
    pub fn unneeded_of(&self, wanted: Vec<PackId>) -> Vec<IndexedPack> {
        self.blobs_of(wanted, |entry| !entry.is_needed())
    }

    /// Where those of these blobs lie that are needed.
    #[must_use]
    pub fn needed_among(&self, blobs: &HashSet<(BlobId, BlobKind)>) -> Vec<IndexedPack> {
        let all = self.packs().iter().map(|pack| pack.id).collect();
        let mut found = self.blobs_of(all, |entry| entry.is_needed() && blobs.contains(&(BlobId(entry.id), entry.kind())));
        found.retain(|pack| !pack.blobs.is_empty());
        found
    }

    fn blobs_of(&self, wanted: Vec<PackId>, is_meant: impl Fn(&Entry) -> bool) -> Vec<IndexedPack> {
        let mut positions = vec![usize::MAX; self.packs.read().expect("no holder panics").all.len()];
        {
            let packs = self.packs.read().expect("no holder panics");
            for (position, id) in wanted.iter().enumerate() {
                positions[packs.numbers[id] as usize] = position;
            }
        }
        let mut found: Vec<IndexedPack> = wanted.into_iter().map(|id| IndexedPack { id, blobs: Vec::new() }).collect();
        for shard in &self.shards {
            for entry in shard.lock().expect("no holder panics").iter().filter(|entry| entry.is_stored() && is_meant(entry)) {
                if let Some(pack) = found.get_mut(positions[entry.pack() as usize]) {
                    pack.blobs.push(entry.blob());
                }
            }
        }
        found.iter_mut().for_each(|pack| pack.blobs.sort_unstable_by_key(|blob| blob.offset));
        found
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

    /// A pack with blobs that were claimed is stored: from here on they can be read.
    pub(crate) fn settle(&self, pack: &IndexedPack) {
        let number = {
            let mut packs = self.packs.write().expect("no holder panics");
            let number = packs.named(pack);
            let info = &mut packs.all[number as usize];
            info.size = header_len(&pack.blobs) + u64::from(info.blobs_end);
            number
        };
        for blob in &pack.blobs {
            let mut shard = self.shard(&blob.id.0);
            if let Some(entry) = shard.find_mut(hash(&blob.id.0), |entry| entry.is(&blob.id, blob.kind) && !entry.is_stored()) {
                let PackedBlob { offset, stored, uncompressed, .. } = *blob;
                *entry = Entry { pack: number | entry.pack & TREE, offset, stored, uncompressed: uncompressed.unwrap_or(0), ..*entry };
            }
        }
    }

    /// All places where a blob lies: more than one if writers met, or a pack was stored again.
    #[must_use]
    pub fn locations(&self, id: &BlobId, kind: BlobKind) -> Vec<Location> {
        let shard = self.shard(&id.0);
        let packs = self.packs.read().expect("no holder panics");
        let of_blob = shard.iter_hash(hash(&id.0)).filter(|entry| entry.is(id, kind) && entry.is_stored());
        of_blob.map(|entry| Location { pack: packs.all[entry.pack() as usize], blob: entry.blob() }).collect()
    }

    /// One place where a blob lies.
    #[must_use]
    pub fn location(&self, id: &BlobId, kind: BlobKind) -> Option<Location> {
        self.locations(id, kind).first().copied()
    }

    /// All packs that index files name.
    #[must_use]
    pub fn packs(&self) -> Vec<PackInfo> {
        self.packs.read().expect("no holder panics").all.clone()
    }

    /// Index files that were read.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.lock().expect("no holder panics").len()
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

    /// The blobs of every pack, by ascending offset: what the index says each pack holds.
    #[must_use]
    pub fn by_pack(&self) -> Vec<IndexedPack> {
        self.all_of(self.packs().iter().map(|pack| pack.id).collect())
    }

    /// The same of these packs.
    #[must_use]
    pub fn all_of(&self, wanted: Vec<PackId>) -> Vec<IndexedPack> {
        self.blobs_of(wanted, |_| true)
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
        assert_eq!(index.packs()[0].files, 1);
        assert!(std::mem::size_of::<Entry>() == 48);
    }

    /// Counted twice, all of it would look as if only half were needed; known as two packs, one of them would go.
    #[test]
    fn a_pack_that_two_files_name_is_one() {
        let index = Index::default();
        let (whole, part) = (vec![blob(1, BlobKind::Data, 0), blob(2, BlobKind::Data, 40)], vec![blob(1, BlobKind::Data, 0)]);
        for blobs in [&part, &whole, &part] {
            index.insert(&IndexedPack { id: PackId([9; 32]), blobs: blobs.clone() });
        }
        let all = IndexedPack { id: PackId([9; 32]), blobs: whole };
        assert_eq!((index.len(), index.by_pack()), (2, vec![all.clone()]));
        assert_eq!(index.packs(), [PackInfo { id: all.id, blobs_end: 80, size: all.size(), files: 3 }]);
    }

    #[test]
    fn one_copy_is_needed_of_what_is_needed() {
        let index = Index::default();
        for pack in [3, 4, 5] {
            index.insert(&IndexedPack { id: PackId([pack; 32]), blobs: vec![blob(1, BlobKind::Tree, 0), blob(pack, BlobKind::Data, 40)] });
        }
        // The first of them is not there, whatever the index says.
        let mark = |id: u8, kind| index.mark(&BlobId([id; 32]), kind, &|pack| pack.id.0[0] != 3);
        assert_eq!((mark(1, BlobKind::Tree), mark(1, BlobKind::Tree)), (true, true));
        assert_eq!((mark(1, BlobKind::Data), mark(3, BlobKind::Data), mark(5, BlobKind::Data)), (false, false, true));
        let needed: u32 = index.usage().iter().map(|usage| usage.needed_blobs).sum();
        let of_three = index.usage()[0];
        assert_eq!((needed, of_three.needed_blobs, of_three.blobs, of_three.has_trees), (2, 0, 2, true));
        let packs: Vec<PackInfo> = index.packs();
        let blobs: Vec<PackedBlob> =
            index.needed_of(packs.iter().map(|pack| pack.id).collect()).into_iter().flat_map(|pack| pack.blobs).collect();
        assert_eq!(blobs.len(), 2);
        assert!(blobs.contains(&blob(5, BlobKind::Data, 40)) && blobs.contains(&blob(1, BlobKind::Tree, 0)));
        // What it is needed for changes nothing for those who look for it.
        assert_eq!(index.locations(&BlobId([1; 32]), BlobKind::Tree).len(), 3);
    }
}
