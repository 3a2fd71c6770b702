//! Many blobs of a pack in few requests.

use super::ranges::merge;
use super::{BlobOpener, MAX_BLOB, RANGE};
use crate::error::{Error, Result};
use crate::format::index::IndexedPack;
use crate::format::pack::PackedBlob;
use crate::object::ObjectName;
use crate::repository::Repository;
use crate::store::{ReadRange, StoreErrorKind};

/// Reads blobs of packs one after another, with few requests; one per thread.
#[derive(Debug)]
pub(crate) struct PackReader<'a> {
    repository: &'a Repository,
    opener: BlobOpener,
    buffer: Vec<u8>,
}

impl<'a> PackReader<'a> {
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Self { repository, opener: BlobOpener::new(repository), buffer: Vec::new() }
    }

    /// Hands over each blob as it is sealed.
    pub(crate) fn each(
        &mut self,
        pack: &IndexedPack,
        mut take: impl FnMut(&mut BlobOpener, &PackedBlob, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let name = ObjectName::pack(pack.id);
        let damaged = |what: &str| self.repository.damaged(&name, what);
        let wanted: Vec<(u32, u32)> = pack.blobs.iter().map(|blob| (blob.offset, blob.stored)).collect();
        for range in merge(&wanted, RANGE) {
            if self.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            if range.length > MAX_BLOB {
                return Err(damaged("a blob in it is larger than any writer makes"));
            }
            let part = ReadRange::Part { offset: u64::from(range.offset), length: u64::from(range.length) };
            self.repository.store().read(&name, part, &mut self.buffer).map_err(|error| match error.kind {
                StoreErrorKind::NotFound => damaged("the index names it, but it is missing"),
                StoreErrorKind::Truncated => damaged("it is cut: shorter than the index says"),
                _ => error.into(),
            })?;
            for blob in &pack.blobs[range.blobs] {
                let from = (blob.offset - range.offset) as usize;
                take(&mut self.opener, blob, &mut self.buffer[from..from + blob.stored as usize])?;
            }
        }
        Ok(())
    }
}
