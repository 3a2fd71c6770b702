//! Collects sealed blobs into packs, one open pack for each kind: data and trees never share one.

use std::sync::Mutex;

use super::seal::Sealed;
use super::upload::{FullPack, Uploads};
use crate::budget::{BufferPool, Pooled, Shares};
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::pack::{MAX_HEADER, PackedBlob};
use crate::stop::Stop;

/// An entry of the pack's list is at most this long.
const ENTRY: usize = 41;
/// A list stays well below what stock restic reads.
const MOST_BLOBS: usize = MAX_HEADER / ENTRY / 2;

#[derive(Debug)]
pub(super) struct Packer {
    pool: BufferPool,
    pack_bytes: usize,
    data: Mutex<Option<Open>>,
    trees: Mutex<Option<Open>>,
    stop: Stop,
}

/// A pack that is being filled.
#[derive(Debug)]
struct Open {
    bytes: Pooled,
    blobs: Vec<PackedBlob>,
}

impl Packer {
    pub(super) fn new(shares: Shares, stop: Stop) -> Self {
        let pack_bytes = usize::try_from(shares.pack_bytes).expect("at most 64 MiB");
        // One open pack of either kind, and those on their way.
        Self { pool: BufferPool::new(shares.uploads + 2), pack_bytes, data: Mutex::default(), trees: Mutex::default(), stop }
    }

    /// Appends a blob; a pack that has no room for it goes on its way first.
    pub(super) fn add(&self, sealed: &Sealed<'_>, uploads: &Uploads) -> Result<()> {
        let mut slot = match sealed.kind {
            BlobKind::Data => self.data.lock(),
            BlobKind::Tree => self.trees.lock(),
        }
        .expect("no holder panics");
        let is_full = |open: &Open| {
            let list = (open.blobs.len() + 1) * ENTRY;
            open.bytes.len() + sealed.bytes.len() + list > self.pack_bytes || open.blobs.len() >= MOST_BLOBS
        };
        if let Some(full) = slot.take_if(|open| is_full(open)) {
            uploads.send(full.into())?;
        }
        if slot.is_none() {
            *slot = Some(Open { bytes: self.pool.take(&self.stop).ok_or(Error::Stopped)?, blobs: Vec::new() });
        }
        let open = slot.as_mut().expect("filled just now");
        open.blobs.push(PackedBlob {
            id: sealed.id,
            kind: sealed.kind,
            offset: u32::try_from(open.bytes.len()).expect("packs are far below 4 GiB"),
            stored: u32::try_from(sealed.bytes.len()).expect("blobs are far below 4 GiB"),
            uncompressed: sealed.uncompressed,
        });
        open.bytes.extend_from_slice(sealed.bytes);
        Ok(())
    }

    /// Sends the open packs on their way.
    pub(super) fn flush(&self, uploads: &Uploads) -> Result<()> {
        for slot in [&self.data, &self.trees] {
            let open = slot.lock().expect("no holder panics").take();
            open.map_or(Ok(()), |open| uploads.send(open.into()))?;
        }
        Ok(())
    }
}

impl From<Open> for FullPack {
    fn from(open: Open) -> Self {
        Self { bytes: open.bytes.into(), blobs: open.blobs }
    }
}
