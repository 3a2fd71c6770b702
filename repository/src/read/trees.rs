//! Trees, node by node. Trees of one snapshot lie close together, so packs are read in windows, and the last few are kept.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::crypto::OpenedReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::node::Node;
use crate::format::tree::{TreeDecoder, TreeError};
use crate::id::{BlobId, PackId};
use crate::index::{Index, Location};
use crate::repository::Repository;
use crate::store::ReadRange;

/// Windows begin at multiples of this: one request brings the trees of many directories.
const WINDOW: u32 = 4 << 20;
/// zstd frames that need a larger window are refused; writers use 8 MiB at most.
const MAX_WINDOW_LOG: u32 = 26;

/// Reads trees of one repository; shared by threads.
#[derive(Debug)]
pub struct Trees {
    repository: Arc<Repository>,
    index: Arc<Index>,
    /// Most recently used last.
    windows: Mutex<Vec<Window>>,
    windows_bytes: usize,
    max_tree_bytes: u64,
}

#[derive(Debug, Clone)]
struct Window {
    pack: PackId,
    range: Range<u32>,
    bytes: Arc<Vec<u8>>,
}

impl Trees {
    /// Reads with at most `tree_bytes` of windows kept.
    #[must_use]
    pub fn new(repository: &Arc<Repository>, index: &Arc<Index>, tree_bytes: u64) -> Self {
        let windows_bytes = usize::try_from(tree_bytes / 2).expect("memory is addressed in 64 bits");
        Self {
            repository: repository.clone(),
            index: index.clone(),
            windows: Mutex::default(),
            windows_bytes,
            max_tree_bytes: tree_bytes * 4,
        }
    }

    /// Opens a tree.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]; damage of every copy; a stored tree too large for the memory.
    pub fn open(&self, id: &BlobId) -> Result<TreeStream> {
        self.repository.try_locations(&self.index, id, BlobKind::Tree, |location| {
            let sealed = self.sealed(location)?;
            let damaged = |what: String| self.repository.damaged_blob(location, what);
            let opened = self.repository.key().open_reader(sealed).map_err(|error| damaged(error.to_string()))?;
            let plain_len = u64::from(location.blob.plain_len());
            let plain = match location.blob.uncompressed {
                None => Plain::Stored(Box::new(opened)),
                Some(_) => {
                    let mut decoder = zstd::stream::read::Decoder::new(opened).map_err(|error| damaged(error.to_string()))?;
                    decoder.window_log_max(MAX_WINDOW_LOG).map_err(|error| damaged(error.to_string()))?;
                    Plain::Compressed(Box::new(decoder))
                }
            };
            let hashing = Hashing { plain, hasher: Sha256::new(), read: 0, limit: plain_len };
            let what = format!("tree {} in pack {}", id.short(), location.pack.id.short());
            let (nodes, pack, location) = (TreeDecoder::new(hashing), location.pack.id, self.repository.store().location());
            Ok(TreeStream { nodes, id: *id, pack, what, location, ended: false, is_foreign: false })
        })
    }

    fn sealed(&self, location: &Location) -> Result<Sealed> {
        let blob = &location.blob;
        if u64::from(blob.stored) > self.max_tree_bytes {
            let what = format!("the tree {} of one directory", blob.id.short());
            return Err(Error::MemoryBound { what, needed_mib: u64::from(blob.stored) >> 20, allowed_mib: self.max_tree_bytes >> 20 });
        }
        let end = blob.offset + blob.stored;
        if let Some(sealed) = self.kept(location.pack.id, blob.offset..end) {
            return Ok(sealed);
        }
        let from = blob.offset - blob.offset % WINDOW;
        let to = (from.saturating_add(WINDOW)).min(location.pack.blobs_end).max(end);
        let mut bytes = Vec::new();
        let range = ReadRange::Part { offset: u64::from(from), length: u64::from(to - from) };
        self.repository.read_pack(location, range, &mut bytes)?;
        let window = Window { pack: location.pack.id, range: from..to, bytes: Arc::new(bytes) };
        let sealed = window.part(blob.offset..end);
        self.keep(window);
        Ok(sealed)
    }

    fn kept(&self, pack: PackId, range: Range<u32>) -> Option<Sealed> {
        let mut windows = self.windows.lock().expect("no holder panics");
        let at =
            windows.iter().position(|window| window.pack == pack && window.range.start <= range.start && range.end <= window.range.end)?;
        let window = windows.remove(at);
        let sealed = window.part(range);
        windows.push(window);
        Some(sealed)
    }

    fn keep(&self, window: Window) {
        let mut windows = self.windows.lock().expect("no holder panics");
        windows.push(window);
        let mut total: usize = windows.iter().map(|window| window.bytes.len()).sum();
        while total > self.windows_bytes && windows.len() > 1 {
            total -= windows.remove(0).bytes.len();
        }
    }
}

impl Window {
    fn part(&self, range: Range<u32>) -> Sealed {
        let at = |position: u32| (position - self.range.start) as usize;
        Sealed { window: self.bytes.clone(), range: at(range.start)..at(range.end) }
    }
}

/// Part of a window.
#[derive(Debug)]
struct Sealed {
    window: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        &self.window[self.range.clone()]
    }
}

enum Plain {
    Stored(Box<OpenedReader<Sealed>>),
    Compressed(Box<zstd::stream::read::Decoder<'static, io::BufReader<OpenedReader<Sealed>>>>),
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain(..)")
    }
}

/// Hashes what passes, and lets no more pass than was announced.
#[derive(Debug)]
struct Hashing {
    plain: Plain,
    hasher: Sha256,
    read: u64,
    limit: u64,
}

impl Read for Hashing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.plain {
            Plain::Stored(stored) => stored.read(into)?,
            Plain::Compressed(compressed) => compressed.read(into)?,
        };
        self.read += read as u64;
        if self.read > self.limit {
            return Err(io::Error::other(format!("decompresses to more than the {} bytes announced", self.limit)));
        }
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}

/// The nodes of one directory, by ascending name as far as the writer kept the rule.
#[derive(Debug)]
pub struct TreeStream {
    nodes: TreeDecoder<Hashing>,
    id: BlobId,
    pack: PackId,
    what: String,
    location: String,
    ended: bool,
    is_foreign: bool,
}

impl TreeStream {
    /// It is whole, and something in it is not known to this program.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// The pack whose copy is read.
    #[must_use]
    pub const fn pack(&self) -> PackId {
        self.pack
    }

    /// The next node, or `None` after the last one, when the whole tree has been hashed and found right.
    ///
    /// # Errors
    /// Damage.
    pub fn next_node(&mut self) -> Result<Option<Node>> {
        if self.ended {
            return Ok(None);
        }
        let next = self.nodes.next_node().map_err(|error| match error {
            TreeError::Read(error) => self.damaged(error.to_string()),
            TreeError::Malformed(what) => {
                self.is_foreign = true;
                self.damaged(what)
            }
        })?;
        if next.is_none() {
            self.ended = true;
            let hashed = <[u8; 32]>::from(std::mem::take(&mut self.nodes.input_mut().hasher).finalize());
            if hashed != self.id.0 {
                return Err(self.damaged("its content does not match its id".to_owned()));
            }
        }
        Ok(next)
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged { object: self.what.clone(), location: self.location.clone(), what }
    }
}
