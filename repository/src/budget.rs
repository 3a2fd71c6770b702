//! One number caps the memory: how it is shared out, and what keeps each part to its share.

use std::sync::{Condvar, Mutex};

use crate::chunker;
use crate::index::Index;
use crate::stop::Stop;

const MIB: u64 = 1 << 20;
/// The longest chunk; every buffer that holds one may grow this far.
const CHUNK: u64 = chunker::MAX as u64;
/// A thread that hashes, compresses and seals holds a chunk in up to three more forms.
const WORKER: u64 = 3 * CHUNK;
/// A thread that reads holds the chunker's look-ahead, and one chunk waits to be handed on.
const READER: u64 = 3 * CHUNK;
/// Chunks between the two, for each pair: one in work, one waiting.
const CHUNKS_A_PAIR: usize = 2;
/// Packs are at least this large, the size stock restic aims at.
const SMALLEST_PACK: u64 = 16 * MIB;
/// Packs are at most this large: larger ones gain little and cost pruning more.
const LARGEST_PACK: u64 = 64 * MIB;
/// More uploads at once do not help one machine.
const MOST_UPLOADS: usize = 16;

/// How the memory of one run is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Threads that read sources and cut chunks.
    pub readers: usize,
    /// Threads that hash, compress and seal; in a restore, threads that fetch and write.
    pub workers: usize,
    /// Chunks between readers and workers.
    pub chunks: usize,
    /// Packs sent at once.
    pub uploads: usize,
    /// Bytes of a pack.
    pub pack_bytes: u64,
    /// Bytes for the index in memory.
    pub index_bytes: u64,
    /// Bytes of stored trees held at once: the path of the parent's directories, and windows of tree packs.
    pub tree_bytes: u64,
}

/// `--memory` below the smallest that can work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{given_mib} MiB of memory are too few: at least {} MiB are needed", Shares::SMALLEST / MIB)]
pub struct TooLittleMemory {
    given_mib: u64,
}

impl Shares {
    /// The smallest memory a run can be told to live in.
    pub const SMALLEST: u64 = 128 * MIB;
    /// What a run takes if nobody says.
    pub const DEFAULT: u64 = 256 * MIB;

    /// Shares out `memory` bytes on a machine of `cores`.
    ///
    /// # Errors
    /// [`TooLittleMemory`].
    pub fn of(memory: u64, cores: usize) -> Result<Self, TooLittleMemory> {
        if memory < Self::SMALLEST {
            return Err(TooLittleMemory { given_mib: memory / MIB });
        }
        // A quarter for index and trees, half at most for threads, the rest for packs.
        let pair = WORKER + READER + CHUNKS_A_PAIR as u64 * CHUNK;
        let threads = usize::try_from((memory / 2) / pair).unwrap_or(usize::MAX).clamp(1, cores.max(1));
        let index_bytes = memory / 8;
        let tree_bytes = memory / 8;
        let packs = memory - index_bytes - tree_bytes - threads as u64 * pair;
        // Two are open, one of either kind; at least one is on its way.
        let pack_bytes = (packs / 8).clamp(SMALLEST_PACK.min(packs / 3), LARGEST_PACK);
        let uploads = usize::try_from(packs / pack_bytes).unwrap_or(usize::MAX).saturating_sub(2).clamp(1, MOST_UPLOADS);
        Ok(Self { readers: threads, workers: threads, chunks: CHUNKS_A_PAIR * threads, uploads, pack_bytes, index_bytes, tree_bytes })
    }

    /// For those who read no sources: the index gets what readers would hold.
    #[must_use]
    pub const fn without_sources(self) -> Self {
        let free = self.readers as u64 * READER + self.chunks as u64 * CHUNK;
        Self { readers: 0, chunks: 0, index_bytes: self.index_bytes + free, ..self }
    }

    /// For those who read content: of what index and trees leave, a half is for ranges of packs, and a half for the plan of what
    /// goes where.
    #[must_use]
    pub fn range_bytes(&self, index: &Index) -> u64 {
        self.left_by(index.bytes())
    }

    fn left_by(&self, index_bytes: u64) -> u64 {
        (self.total().saturating_sub(index_bytes + self.tree_bytes * 2) / 2).max(2 * CHUNK)
    }

    /// The most that all parts together may hold.
    #[must_use]
    pub fn total(&self) -> u64 {
        let threads = self.workers as u64 * WORKER + self.readers as u64 * READER + self.chunks as u64 * CHUNK;
        threads + (self.uploads as u64 + 2) * self.pack_bytes + self.index_bytes + self.tree_bytes
    }
}

/// A number of bytes that threads take from and give back to.
#[derive(Debug)]
pub struct ByteBudget {
    total: u64,
    free: Mutex<u64>,
    given_back: Condvar,
    stop: Stop,
}

/// Bytes taken; given back when dropped.
#[derive(Debug)]
pub struct Taken<'a> {
    budget: &'a ByteBudget,
    bytes: u64,
}

impl ByteBudget {
    /// All of `total` is free.
    #[must_use]
    pub fn new(total: u64, stop: Stop) -> Self {
        Self { total, free: Mutex::new(total), given_back: Condvar::new(), stop }
    }

    /// Waits until `bytes` are free and takes them. More than there is at all waits for all of it.
    /// `None` if the run was stopped.
    #[must_use]
    pub fn take(&self, bytes: u64) -> Option<Taken<'_>> {
        let bytes = bytes.min(self.total);
        let mut free = self.free.lock().expect("no holder panics");
        while *free < bytes {
            if self.stop.is_stopped() {
                return None;
            }
            free = self.given_back.wait_timeout(free, LOOK_EVERY).expect("no holder panics").0;
        }
        *free -= bytes;
        Some(Taken { budget: self, bytes })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.budget.free.lock().expect("no holder panics") += self.bytes;
        self.budget.given_back.notify_all();
    }
}

/// How often a waiting thread looks whether the run was stopped.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// Buffers that are used again and again: so many and no more.
#[derive(Debug)]
pub struct BufferPool {
    free_tx: crossbeam_channel::Sender<Vec<u8>>,
    free_rx: crossbeam_channel::Receiver<Vec<u8>>,
}

/// A buffer of a pool; goes back when dropped.
#[derive(Debug)]
pub struct Pooled {
    bytes: Vec<u8>,
    free_tx: crossbeam_channel::Sender<Vec<u8>>,
}

impl BufferPool {
    /// `count` buffers, empty at first; each grows to what it is used for.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let (free_tx, free_rx) = crossbeam_channel::bounded(count);
        (0..count).for_each(|_| drop(free_tx.try_send(Vec::new())));
        Self { free_tx, free_rx }
    }

    /// An empty buffer; waits for one. `None` if the run was stopped.
    #[must_use]
    pub fn take(&self, stop: &Stop) -> Option<Pooled> {
        while !stop.is_stopped() {
            if let Ok(mut bytes) = self.free_rx.recv_timeout(LOOK_EVERY) {
                bytes.clear();
                return Some(Pooled { bytes, free_tx: self.free_tx.clone() });
            }
        }
        None
    }
}

impl std::ops::Deref for Pooled {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl std::ops::DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // There is room for every buffer of the pool.
        let _ = self.free_tx.try_send(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_whole() {
        for mib in [128, 160, 256, 300, 512, 1024, 4096, 65_536] {
            for cores in [1, 2, 4, 16, 128] {
                let shares = Shares::of(mib * MIB, cores).unwrap();
                assert!(shares.total() <= mib * MIB, "{mib} MiB, {cores} cores: {} MiB in {shares:?}", shares.total() / MIB);
                assert!(shares.workers <= cores && shares.uploads >= 1);
                assert_eq!(shares.without_sources().total(), shares.total());
                assert!(shares.pack_bytes >= 4 * MIB && shares.pack_bytes <= LARGEST_PACK);
                let reading = shares.without_sources();
                assert!(reading.left_by(0) * 2 <= reading.total() && reading.left_by(reading.index_bytes) >= 2 * CHUNK);
            }
        }
        assert!(Shares::of(127 * MIB, 2).is_err());
    }

    #[test]
    fn the_default_uses_two_cores_and_packs_of_restics_size() {
        let shares = Shares::of(Shares::DEFAULT, 2).unwrap();
        assert_eq!((shares.workers, shares.readers), (2, 2));
        assert!(shares.pack_bytes >= SMALLEST_PACK && shares.uploads >= 2, "{shares:?}");
        // A million blobs, at 80 bytes.
        assert!(shares.without_sources().index_bytes > 80 * MIB, "{shares:?}");
    }

    #[test]
    fn bytes_are_waited_for() {
        let budget = ByteBudget::new(10, Stop::default());
        let first = budget.take(7).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| budget.take(7).is_some());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert_eq!(budget.take(1000).unwrap().bytes, 10);
    }
}
