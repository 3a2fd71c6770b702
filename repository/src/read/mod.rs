//! Blobs back to plaintext: every byte authenticated, decompressed within its announced length, hashed and compared.

mod packs;
pub mod ranges;
mod trees;

pub(crate) use packs::PackReader;
pub use trees::{TreeStream, Trees};

use crate::compress::BlobDecompressor;
use crate::crypto::{MasterKey, sha256};
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::pack::PackedBlob;
use crate::id::BlobId;
use crate::index::{Index, Location};
use crate::object::ObjectName;
use crate::repository::Repository;
use crate::store::{ReadRange, StoreErrorKind};
use crate::write::stream_opens_to;

/// The largest blob that is opened as a whole: stock readers hold whole blobs too, and nobody writes larger chunks.
pub const MAX_BLOB: u32 = 256 << 20;
/// One request for a part of a pack asks for at most this much, unless one blob is longer.
pub const RANGE: u32 = 8 << 20;
/// Requests under way at once, for whoever reads content; memory may allow fewer.
pub const REQUESTS: usize = 8;
/// Trees nested deeper than any file system allows.
const MAX_DEPTH: usize = 50_000;
/// Trees that are larger are checked as they stream by.
pub(crate) const HELD: u32 = 8 << 20;

/// Whether one may go below so many directories.
///
/// # Errors
/// [`Error::Refused`]: somebody made a tree that no file system can hold.
pub fn check_depth(levels: usize) -> Result<()> {
    if levels < MAX_DEPTH { Ok(()) } else { Err(Error::Refused(format!("directories are nested more than {MAX_DEPTH} deep"))) }
}

/// Opens sealed blobs one after another; one per thread.
#[derive(Debug)]
pub struct BlobOpener {
    key: MasterKey,
    decompressor: BlobDecompressor,
    plain: Vec<u8>,
}

impl BlobOpener {
    /// An opener for a repository.
    #[must_use]
    pub fn new(repository: &Repository) -> Self {
        Self { key: repository.key().clone(), decompressor: BlobDecompressor::default(), plain: Vec::new() }
    }

    /// Opens `sealed`, which is overwritten, to the plaintext of `blob`.
    ///
    /// # Errors
    /// Damage of any kind, in words.
    pub fn open<'a>(&'a mut self, blob: &PackedBlob, sealed: &'a mut [u8]) -> Result<&'a [u8], String> {
        self.open_whole(blob, sealed).map(|(_, plain)| plain)
    }

    /// What was sealed: the plaintext, or what it was compressed to; not hashed.
    ///
    /// # Errors
    /// Damage, in words.
    pub(crate) fn payload<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a [u8], String> {
        self.key.open(sealed).map(|payload| &*payload).map_err(|error| error.to_string())
    }

    /// Whether `sealed` opens to `blob`. It is left as it is, or overwritten; a tree may be larger than what is held in memory.
    ///
    /// # Errors
    /// Damage of any kind, in words.
    pub(crate) fn check(&mut self, blob: &PackedBlob, sealed: &mut [u8]) -> Result<(), String> {
        match blob.uncompressed {
            Some(length) if blob.kind == BlobKind::Tree && length > HELD => {
                let is_right = stream_opens_to(&self.key, sealed, blob.id, u64::from(length));
                if is_right { Ok(()) } else { Err("it does not open to what its id says".to_owned()) }
            }
            _ => self.open(blob, sealed).map(drop),
        }
    }

    /// The same, with what was sealed: the plaintext, or what it was compressed to.
    ///
    /// # Errors
    /// Those of [`BlobOpener::open`].
    pub(crate) fn open_whole<'a>(&'a mut self, blob: &PackedBlob, sealed: &'a mut [u8]) -> Result<(&'a [u8], &'a [u8]), String> {
        let payload = &*self.key.open(sealed).map_err(|error| error.to_string())?;
        let plain = match blob.uncompressed {
            None => payload,
            Some(length) if length > MAX_BLOB => return Err(format!("announces {length} bytes, more than any writer makes")),
            Some(length) => {
                self.decompressor.decompress(payload, length as usize, &mut self.plain)?;
                &self.plain
            }
        };
        if sha256(plain) == blob.id.0 { Ok((payload, plain)) } else { Err("its content does not match its id".to_owned()) }
    }
}

impl Repository {
    /// Reads one blob as a whole, trying each place where it lies.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]; damage or absence of every copy.
    pub fn read_blob(&self, index: &Index, opener: &mut BlobOpener, id: &BlobId, kind: BlobKind) -> Result<Vec<u8>> {
        self.try_locations(index, id, kind, |location| {
            let mut sealed = Vec::new();
            self.read_sealed(location, &mut sealed)?;
            let plain = opener.open(&location.blob, &mut sealed);
            plain.map(<[u8]>::to_vec).map_err(|what| self.damaged_blob(location, what))
        })
    }

    /// Tries `read` on each place where a blob lies, until one works.
    fn try_locations<T>(&self, index: &Index, id: &BlobId, kind: BlobKind, mut read: impl FnMut(&Location) -> Result<T>) -> Result<T> {
        let mut last = Error::MissingBlob { id: *id, kind };
        for location in index.locations(id, kind) {
            match read(&location) {
                Err(error @ Error::Damaged { .. }) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    /// Reads one copy of a blob as it is sealed.
    pub(crate) fn read_sealed(&self, location: &Location, into: &mut Vec<u8>) -> Result<()> {
        if location.blob.stored > MAX_BLOB {
            return Err(self.damaged_blob(location, format!("{} bytes are more than any writer makes", location.blob.stored)));
        }
        let range = ReadRange::Part { offset: u64::from(location.blob.offset), length: u64::from(location.blob.stored) };
        self.read_pack(location, range, into)
    }

    /// Reads a range of a pack; a pack that is not there or too short is damage.
    fn read_pack(&self, location: &Location, range: ReadRange, into: &mut Vec<u8>) -> Result<()> {
        self.store().read(&ObjectName::pack(location.pack.id), range, into).map_err(|error| match error.kind {
            StoreErrorKind::NotFound => self.damaged(&ObjectName::pack(location.pack.id), "the index names it, but it is missing"),
            StoreErrorKind::Truncated => self.damaged(&ObjectName::pack(location.pack.id), "it is cut: shorter than the index says"),
            _ => error.into(),
        })
    }

    fn damaged_blob(&self, location: &Location, what: String) -> Error {
        let PackedBlob { id, kind, offset, .. } = location.blob;
        self.damaged(&format!("{kind} blob {} at {offset} of pack {}", id.short(), location.pack.id.short()), what)
    }
}
