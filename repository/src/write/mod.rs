//! Stores blobs. Law 1 in one place: packs, then index, then (by the holder of [`Committed`]) the snapshot.
//!
//! ```text
//! claim(id) New -> seal (compress, seal, open again and compare) -> open pack of its kind
//!      full pack -> bounded queue -> upload threads: list, hash, PUT -> pending index -> PUT index file now and then
//! finish: open packs -> uploads done -> last index file -> Committed
//! ```

mod packer;
mod seal;
mod tree;
mod upload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub use seal::Sealer;
pub(crate) use seal::stream_opens_to;
pub use tree::TreeWriter;

use crate::budget::Shares;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::pack::PackedBlob;
use crate::id::BlobId;
use crate::index::{Claim, Index};
use crate::repository::Repository;

use self::packer::Packer;
use self::upload::Uploads;

/// Whether every blob is opened again before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Decrypt, decompress, hash and compare, as restic does.
    Sealed,
    /// Trust this machine's memory.
    Nothing,
}

/// How blobs are written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// Memory and threads.
    pub shares: Shares,
    /// How hard to compress.
    pub compression: Compression,
    /// Opening again.
    pub verify: Verify,
    /// Whether anything is stored at all.
    pub mode: WriteMode,
}

/// Whether anything is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Yes.
    Store,
    /// No: everything is done but the requests.
    DryRun,
}

/// What was stored so far.
#[derive(Debug, Default)]
pub struct Added {
    /// New blobs of content.
    pub data_blobs: AtomicU64,
    /// New blobs of trees.
    pub tree_blobs: AtomicU64,
    /// Bytes of new blobs, as they came.
    pub plain_bytes: AtomicU64,
    /// Bytes of new blobs, as stored.
    pub stored_bytes: AtomicU64,
}

impl Added {
    /// Counts what another writer of the same run has stored.
    pub fn add(&self, other: &Self) {
        let pairs = [
            (&self.data_blobs, &other.data_blobs),
            (&self.tree_blobs, &other.tree_blobs),
            (&self.plain_bytes, &other.plain_bytes),
            (&self.stored_bytes, &other.stored_bytes),
        ];
        for (count, more) in pairs {
            count.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Writes blobs from many threads at once.
#[derive(Debug)]
pub struct Writer {
    repository: Arc<Repository>,
    index: Arc<Index>,
    options: WriteOptions,
    packer: Packer,
    uploads: Uploads,
    added: Added,
}

/// The first error of any upload thread; all others end when they see it.
#[derive(Debug, Default)]
pub(crate) struct Failure(Mutex<Option<Error>>, std::sync::atomic::AtomicBool);

impl Failure {
    pub(crate) fn set(&self, error: Error) {
        self.0.lock().expect("no holder panics").get_or_insert(error);
        self.1.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }

    pub(crate) fn take(&self) -> Option<Error> {
        self.0.lock().expect("no holder panics").take()
    }
}

/// Proof that every blob handed to the writer is stored, and every pack named in a stored index file.
#[derive(Debug)]
pub struct Committed(());

/// Whether packs of this repository are written here.
///
/// # Errors
/// [`Error::Refused`].
pub fn must_be_writable(repository: &Repository) -> Result<()> {
    if repository.config().version >= 2 {
        return Ok(());
    }
    let message = "this repository has format version 1, which is read and restored here, not written; `restic migrate upgrade_repo_v2` makes it version 2";
    Err(Error::Refused(message.to_owned()))
}

impl Writer {
    /// Starts the upload threads. The index says what is there already.
    ///
    /// # Errors
    /// A version 1 repository, one that may not be written, or no threads to be had.
    pub fn start(repository: &Arc<Repository>, index: &Arc<Index>, options: WriteOptions) -> Result<Self> {
        must_be_writable(repository)?;
        let uploads = Uploads::start(repository, index, &options)?;
        let packer = Packer::new(options.shares, repository.stop().clone());
        Ok(Self { repository: repository.clone(), index: index.clone(), options, packer, uploads, added: Added::default() })
    }

    /// What is known.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What was stored so far.
    #[must_use]
    pub fn added(&self) -> &Added {
        &self.added
    }

    /// A sealer for one thread.
    #[must_use]
    pub fn sealer(&self) -> Sealer {
        Sealer::new(self.repository.key().clone(), self.options.compression, self.options.verify)
    }

    /// Stores a blob unless it is known; true if it was new.
    ///
    /// # Errors
    /// The first error of any upload; a machine whose memory is faulty; the stop.
    pub fn store(&self, sealer: &mut Sealer, kind: BlobKind, id: BlobId, plain: &[u8]) -> Result<bool> {
        self.store_new(kind, id, plain.len() as u64, || sealer.seal(kind, id, plain))
    }

    /// Stores a blob of another repository unless it is known; true if it was new. The caller has opened it to `plain`, from
    /// `payload`: what is compressed stays so.
    ///
    /// # Errors
    /// Those of [`Writer::store`].
    pub(crate) fn store_again(&self, sealer: &mut Sealer, blob: &PackedBlob, payload: &[u8], plain: &[u8]) -> Result<bool> {
        let PackedBlob { id, kind, uncompressed, .. } = *blob;
        let Some(length) = uncompressed else { return self.store(sealer, kind, id, plain) };
        self.store_new(kind, id, plain.len() as u64, || sealer.seal_compressed(kind, id, payload, length))
    }

    fn store_new<'s>(&self, kind: BlobKind, id: BlobId, plain_len: u64, seal: impl FnOnce() -> Result<seal::Sealed<'s>>) -> Result<bool> {
        if self.index.claim(&id, kind) == Claim::Known {
            return Ok(false);
        }
        self.index.check_size(self.options.shares.index_bytes)?;
        let sealed = seal()?;
        self.count(kind, plain_len, sealed.bytes.len() as u64);
        if self.options.mode == WriteMode::Store {
            self.packer.add(&sealed, &self.uploads)?;
        }
        Ok(true)
    }

    /// Stores a blob that is sealed already, and that the caller has opened and hashed, whatever is known of it.
    ///
    /// # Errors
    /// The first error of any upload; the stop.
    pub fn store_sealed(&self, blob: &PackedBlob, sealed: &[u8]) -> Result<()> {
        let PackedBlob { id, kind, uncompressed, .. } = *blob;
        self.count(kind, u64::from(blob.plain_len()), sealed.len() as u64);
        self.packer.add(&seal::Sealed { id, kind, bytes: sealed, uncompressed }, &self.uploads)
    }

    fn count(&self, kind: BlobKind, plain: u64, stored: u64) {
        let blobs = match kind {
            BlobKind::Data => &self.added.data_blobs,
            BlobKind::Tree => &self.added.tree_blobs,
        };
        blobs.fetch_add(1, Ordering::Relaxed);
        self.added.plain_bytes.fetch_add(plain, Ordering::Relaxed);
        self.added.stored_bytes.fetch_add(stored, Ordering::Relaxed);
    }

    /// Stores what is still open: the last packs, then the last index file.
    ///
    /// # Errors
    /// The first error of any upload; nothing may become visible then.
    pub fn finish(self) -> Result<(Committed, Added)> {
        self.packer.flush(&self.uploads)?;
        self.uploads.finish()?;
        if self.repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        Ok((Committed(()), self.added))
    }
}
