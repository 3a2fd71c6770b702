//! Sends packs, and index files that name only packs that have arrived.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::{Failure, WriteOptions};
use crate::budget::{ByteBudget, Pooled};
use crate::error::{Error, Result};
use crate::format::index::{IndexFile, IndexedPack};
use crate::format::pack::{PackedBlob, encode_header};
use crate::id::PackId;
use crate::index::Index;
use crate::index::rewrite::BLOBS_A_FILE;
use crate::object::{Object, ObjectKind};
use crate::repository::Repository;
use crate::store::PutMode;

/// An index file is written after as many blobs as it takes, or so many packs, so that little is sent again after a crash: 64 packs of 16 MiB are a gigabyte.
const INDEX_AFTER_PACKS: usize = 64;
/// .. or time.
const INDEX_AFTER: Duration = Duration::from_secs(3 * 60);

/// A pack without its list.
#[derive(Debug)]
pub(super) struct FullPack {
    pub(super) bytes: PackBytes,
    pub(super) blobs: Vec<PackedBlob>,
}

/// Where a pack's bytes live until they are sent.
#[derive(Debug)]
pub(super) enum PackBytes {
    Pooled(Pooled),
    /// A single blob larger than packs are: a giant tree. Counted against the trees' share while it lives.
    Giant(Vec<u8>),
}

impl From<Pooled> for PackBytes {
    fn from(bytes: Pooled) -> Self {
        Self::Pooled(bytes)
    }
}

impl PackBytes {
    fn as_mut_vec(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Pooled(bytes) => bytes,
            Self::Giant(bytes) => bytes,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Pooled(bytes) => Bytes::from_owner(bytes),
            Self::Giant(bytes) => Bytes::from(bytes),
        }
    }
}

#[derive(Debug)]
pub(super) struct Uploads {
    shared: Arc<Shared>,
    packs_tx: Option<Sender<FullPack>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    repository: Arc<Repository>,
    index: Arc<Index>,
    pending: Mutex<Pending>,
    failure: Failure,
    giants: ByteBudget,
}

/// Packs that have arrived and are in no index file yet.
#[derive(Debug)]
struct Pending {
    packs: Vec<IndexedPack>,
    blobs: usize,
    since: Instant,
}

impl Pending {
    fn new() -> Self {
        Self { packs: Vec::new(), blobs: 0, since: Instant::now() }
    }
}

impl Uploads {
    pub(super) fn start(repository: &Arc<Repository>, index: &Arc<Index>, options: &WriteOptions) -> Result<Self> {
        let giants = ByteBudget::new(options.shares.tree_bytes, repository.stop().clone());
        let (repository, index) = (repository.clone(), index.clone());
        let shared = Arc::new(Shared { repository, index, pending: Mutex::new(Pending::new()), failure: Failure::default(), giants });
        // The pool of pack buffers is the bound; the queue only hands over.
        let (packs_tx, packs_rx) = crossbeam_channel::bounded(0);
        let mut threads = Vec::new();
        for _ in 0..options.shares.uploads {
            let (shared, packs_rx) = (shared.clone(), packs_rx.clone());
            let thread = std::thread::Builder::new().name("upload".to_owned()).spawn(move || shared.run(&packs_rx));
            threads.push(thread.map_err(|error| Error::Refused(format!("cannot start a thread: {error}")))?);
        }
        Ok(Self { shared, packs_tx: Some(packs_tx), threads })
    }

    /// Hands a pack over; waits for a free thread.
    pub(super) fn send(&self, pack: FullPack) -> Result<()> {
        let packs_tx = self.packs_tx.as_ref().expect("open until finish, which consumes self");
        let sent = packs_tx.send(pack);
        match self.shared.failure.take() {
            Some(error) => Err(error),
            None if sent.is_err() || self.shared.failure.is_set() => Err(Error::Stopped),
            None => Ok(()),
        }
    }

    /// Bytes for giant trees.
    pub(super) fn giants(&self) -> &ByteBudget {
        &self.shared.giants
    }

    /// Waits for all packs, then writes the last index file.
    pub(super) fn finish(mut self) -> Result<()> {
        self.join();
        match self.shared.failure.take() {
            Some(error) => Err(error),
            None if self.shared.failure.is_set() => Err(Error::Stopped),
            None => self.shared.flush_index(),
        }
    }

    fn join(&mut self) {
        self.packs_tx = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.failure.set(Error::Refused("an upload thread panicked".to_owned()));
            }
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn run(&self, packs_rx: &Receiver<FullPack>) {
        for pack in packs_rx {
            // After a failure packs are still taken, and dropped: those who hand them over must not hang.
            if self.failure.is_set() {
                continue;
            }
            if let Err(error) = self.upload(pack).and_then(|()| self.flush_if_due()) {
                self.failure.set(error);
            }
        }
    }

    fn upload(&self, mut pack: FullPack) -> Result<()> {
        let _memory = match &pack.bytes {
            PackBytes::Pooled(_) => None,
            PackBytes::Giant(bytes) => Some(self.giants.take(bytes.len() as u64).ok_or(Error::Stopped)?),
        };
        let bytes = pack.bytes.as_mut_vec();
        let blobs_end = bytes.len();
        self.repository.key().seal(&encode_header(&pack.blobs), bytes);
        let list = u32::try_from(bytes.len() - blobs_end).expect("below MAX_HEADER");
        bytes.extend_from_slice(&list.to_le_bytes());
        let object = Object::content_named(ObjectKind::Pack, pack.bytes.into_bytes());
        self.repository.store().put(&object, PutMode::Replace)?;
        let stored = IndexedPack { id: PackId(object.name.id.0), blobs: pack.blobs };
        self.index.settle(&stored);
        let mut pending = self.pending.lock().expect("no holder panics");
        pending.blobs += stored.blobs.len();
        pending.packs.push(stored);
        Ok(())
    }

    fn flush_if_due(&self) -> Result<()> {
        let is_due = {
            let pending = self.pending.lock().expect("no holder panics");
            pending.blobs >= BLOBS_A_FILE || pending.packs.len() >= INDEX_AFTER_PACKS || pending.since.elapsed() >= INDEX_AFTER
        };
        if is_due { self.flush_index() } else { Ok(()) }
    }

    /// Writes what is pending; the lock is not held during the request.
    fn flush_index(&self) -> Result<()> {
        let pending = std::mem::replace(&mut *self.pending.lock().expect("no holder panics"), Pending::new());
        if pending.packs.is_empty() {
            return Ok(());
        }
        self.repository.save_unpacked(ObjectKind::Index, IndexFile { packs: pending.packs }.encode())?;
        Ok(())
    }
}
