//! A directory's tree, encoded, hashed and compressed as its nodes come: half a million nodes take tens of megabytes of
//! compressed bytes, and no more.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::seal::{Sealer, stream_opens_to};
use super::upload::{FullPack, PackBytes};
use super::{Verify, WriteMode, Writer};
use crate::crypto::OVERHEAD;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::node::Node;
use crate::format::pack::PackedBlob;
use crate::format::tree::TreeEncoder;
use crate::id::BlobId;
use crate::index::Claim;

/// Trees up to this size are kept as they are until they end: most are known then, and never compressed.
const PLAIN_UP_TO: usize = 256 << 10;
/// Level for trees that are compressed as they come: hashes hardly compress, and the rest does at any level.
const LEVEL: i32 = 3;
/// The format counts a blob's bytes in 32 bits.
const MAX_TREE: u64 = u32::MAX as u64;

/// Takes the nodes of one directory in ascending order of their names.
#[derive(Debug)]
pub struct TreeWriter(TreeEncoder<Spill>);

impl Default for TreeWriter {
    fn default() -> Self {
        let spill = Spill { length: 0, state: State::Plain(Vec::new()) };
        Self(TreeEncoder::new(spill).expect("a buffer in memory takes all"))
    }
}

impl TreeWriter {
    /// Adds a node.
    ///
    /// # Errors
    /// A name out of order; a tree above 4 GiB, which the format cannot hold.
    pub fn push(&mut self, node: &Node) -> Result<()> {
        self.0.push(node).map_err(|error| Error::Refused(format!("cannot store directory: {error}")))
    }

    /// Stores the tree unless it is known. Returns its id, and whether it was new.
    ///
    /// # Errors
    /// Those of [`Writer::store`].
    pub fn finish(self, writer: &Writer, sealer: &mut Sealer) -> Result<(BlobId, bool)> {
        let refused = |error: io::Error| Error::Refused(format!("cannot store directory: {error}"));
        let spill = self.0.finish().map_err(refused)?;
        match spill.state {
            State::Plain(plain) => {
                let id = BlobId(crate::crypto::sha256(&plain));
                let is_new = writer.store(sealer, BlobKind::Tree, id, &plain)?;
                Ok((id, is_new))
            }
            State::Stream(mut stream) => {
                stream.flush_buffered().map_err(refused)?;
                let id = BlobId(stream.hasher.finalize().into());
                let compressed = stream.encoder.finish().map_err(refused)?;
                let is_new = writer.store_compressed_tree(id, compressed, spill.length)?;
                Ok((id, is_new))
            }
        }
    }
}

/// Plain bytes up to a size, a hashed and compressed stream beyond.
#[derive(Debug)]
struct Spill {
    length: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Plain(Vec<u8>),
    Stream(Box<Stream>),
}

struct Stream {
    hasher: Sha256,
    /// Writes behind room for the nonce, so that sealing moves nothing.
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    /// Nodes are written in small pieces; both stages want larger ones.
    buffered: Vec<u8>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream(..)")
    }
}

const BUFFERED: usize = 64 << 10;

impl Stream {
    fn flush_buffered(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffered);
        self.encoder.write_all(&self.buffered)?;
        self.buffered.clear();
        Ok(())
    }
}

impl Write for Spill {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > MAX_TREE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its tree is larger than the 4 GiB the format can hold"));
        }
        if let State::Plain(plain) = &mut self.state
            && plain.len() + bytes.len() > PLAIN_UP_TO
        {
            let room = vec![0; crate::crypto::NONCE];
            let encoder = zstd::stream::write::Encoder::new(room, LEVEL)?;
            self.state = State::Stream(Box::new(Stream { hasher: Sha256::new(), encoder, buffered: std::mem::take(plain) }));
        }
        match &mut self.state {
            State::Plain(plain) => plain.extend_from_slice(bytes),
            State::Stream(stream) => {
                stream.buffered.extend_from_slice(bytes);
                if stream.buffered.len() >= BUFFERED {
                    stream.flush_buffered()?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    /// Stores a large tree of another repository, as it was compressed there.
    pub(crate) fn store_giant(&self, id: BlobId, compressed: &[u8], plain_len: u32) -> Result<bool> {
        self.index.check_size(self.options.shares.index_bytes)?;
        let mut payload = Vec::with_capacity(compressed.len() + OVERHEAD + 4096);
        payload.resize(crate::crypto::NONCE, 0);
        payload.extend_from_slice(compressed);
        self.store_compressed_tree(id, payload, u64::from(plain_len))
    }

    /// Stores a tree that was compressed as it came, in a pack of its own. `payload` begins with room for the nonce.
    fn store_compressed_tree(&self, id: BlobId, mut payload: Vec<u8>, plain_len: u64) -> Result<bool> {
        if self.index.claim(&id, BlobKind::Tree) == Claim::Known {
            return Ok(false);
        }
        let key = self.repository.key();
        // Room for the pack's list as well: a giant is never moved.
        payload.reserve_exact(OVERHEAD + 4096);
        key.seal_in_place(&mut payload);
        if self.options.verify == Verify::Sealed && !stream_opens_to(key, &payload, id, plain_len) {
            return Err(Error::FaultyMachine { id });
        }
        self.count(BlobKind::Tree, plain_len, payload.len() as u64);
        if self.options.mode == WriteMode::DryRun {
            return Ok(true);
        }
        let stored =
            u32::try_from(payload.len()).map_err(|_| Error::Refused("a directory's tree is beyond the format's 4 GiB".to_owned()))?;
        let uncompressed = Some(u32::try_from(plain_len).expect("checked while it grew"));
        // Waits until earlier giants are gone; the upload takes the bytes again for as long as it lasts.
        drop(self.uploads.giants().take(u64::from(stored)).ok_or(Error::Stopped)?);
        let blobs = vec![PackedBlob { id, kind: BlobKind::Tree, offset: 0, stored, uncompressed }];
        self.uploads.send(FullPack { bytes: PackBytes::Giant(payload), blobs })?;
        Ok(true)
    }
}
