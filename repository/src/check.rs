//! Looks for damage: first what the structure says of itself, then, if asked, every byte.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::budget::Shares;
use crate::crypto::random;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::index::IndexedPack;
use crate::format::node::{Node, NodeKind};
use crate::format::pack::{MAX_HEADER, TRAILER};
use crate::id::{BlobId, PackId};
use crate::index::Index;
use crate::object::ObjectName;
use crate::parallel;
use crate::read::{BlobOpener, Trees};
use crate::repository::Repository;
use crate::store::{ReadRange, StoreErrorKind};

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// Structure alone: snapshots, trees, index, sizes of packs.
    No,
    /// Every pack.
    All,
    /// That share of the packs, chosen at random.
    Share(f64),
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something is damaged or lost.
    Error,
    /// It costs space or time alone.
    Hint,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Object, or snapshot and path.
    pub object: String,
    /// In words.
    pub problem: String,
    /// How bad.
    pub severity: Severity,
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Counts {
    /// Snapshots walked.
    pub snapshots: AtomicU64,
    /// Trees read.
    pub trees: AtomicU64,
    /// Packs in the index.
    pub packs: AtomicU64,
    /// Blobs in the index.
    pub blobs: AtomicU64,
    /// Packs read.
    pub packs_read: AtomicU64,
    /// Bytes read of them.
    pub bytes_read: AtomicU64,
    /// Packs that will be read, and their bytes.
    pub to_read: (AtomicU64, AtomicU64),
}

impl Counts {
    pub(crate) fn to_read(&self, packs: usize, bytes: u64) {
        self.to_read.0.store(packs as u64, Ordering::Relaxed);
        self.to_read.1.store(bytes, Ordering::Relaxed);
    }
}

/// Told of findings as they come, from several threads.
pub type OnFinding<'a> = &'a (dyn Fn(Finding) + Sync);

/// Packs whose lists are in memory at once.
const PACKS_AT_ONCE: usize = 500;
/// Reads of packs are this long.
const READ: u64 = 8 << 20;

/// Checks a repository. The caller holds a lock. Damage is found, not returned.
///
/// # Errors
/// What keeps the check from going on: storage out of reach, the stop, an index beyond the memory.
pub fn run(repository: &Arc<Repository>, read: ReadData, shares: &Shares, counts: &Counts, on_finding: OnFinding<'_>) -> Result<()> {
    let error = |object: String, problem: String| on_finding(Finding { object, problem, severity: Severity::Error });
    // Snapshots first: what they need was stored before them.
    let snapshots = repository.snapshot_ids()?;
    let index = Arc::new(Index::load_with(repository, shares.index_bytes, &|damage| error("index".to_owned(), damage.to_string()))?);
    counts.packs.store(index.packs().len() as u64, Ordering::Relaxed);
    counts.blobs.store(index.len() as u64, Ordering::Relaxed);
    let stored = repository.stored_packs()?;
    check_packs(&index, &stored, on_finding);
    let mut walk = Walk {
        trees: Trees::new(repository, &index, shares.tree_bytes),
        index: &index,
        repository,
        counts,
        on_finding,
        seen: HashSet::new(),
    };
    for id in snapshots {
        match repository.snapshot(id) {
            Ok(snapshot) => walk.snapshot(&id.short(), &snapshot.tree)?,
            Err(Error::Store(gone)) if gone.kind == StoreErrorKind::NotFound => {}
            Err(damage @ Error::Damaged { .. }) => error(format!("snapshot {}", id.short()), damage.to_string()),
            Err(other) => return Err(other),
        }
    }
    drop(walk);
    read_packs(repository, &index, read, shares, counts, on_finding)
}

fn check_packs(index: &Index, stored: &HashMap<PackId, u64>, on_finding: OnFinding<'_>) {
    let find = |pack: &PackId, problem: String, severity| on_finding(Finding { object: ObjectName::pack(*pack).path(), problem, severity });
    let mut seen = HashSet::new();
    for pack in index.packs() {
        seen.insert(pack.id);
        if pack.files > 1 {
            find(&pack.id, "is named in more than one index file".to_owned(), Severity::Hint);
        }
        match stored.get(&pack.id) {
            None => find(&pack.id, "the index names it, but it is missing: what is in it is lost".to_owned(), Severity::Error),
            Some(&size) if size != pack.size => {
                find(&pack.id, format!("has {size} bytes, and its blobs make {}: it is cut or was replaced", pack.size), Severity::Error);
            }
            Some(_) => {}
        }
    }
    let orphans = stored.keys().filter(|pack| !seen.contains(pack)).count();
    if orphans > 0 {
        let problem = format!("{orphans} packs are in no index file: left by interrupted runs; pruning frees their space");
        on_finding(Finding { object: "data/".to_owned(), problem, severity: Severity::Hint });
    }
}

struct Walk<'a> {
    trees: Trees,
    index: &'a Index,
    repository: &'a Repository,
    counts: &'a Counts,
    on_finding: OnFinding<'a>,
    /// Trees that were walked: most are shared by many snapshots.
    seen: HashSet<BlobId>,
}

impl Walk<'_> {
    fn snapshot(&mut self, id: &str, root: &BlobId) -> Result<()> {
        self.counts.snapshots.fetch_add(1, Ordering::Relaxed);
        let mut waiting = vec![(String::new(), *root)];
        while let Some((path, tree)) = waiting.pop() {
            if self.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            if !self.seen.insert(tree) {
                continue;
            }
            match self.tree(id, &path, &tree, &mut waiting) {
                Err(damage @ (Error::Damaged { .. } | Error::MissingBlob { .. } | Error::MemoryBound { .. })) => {
                    self.find(id, &path, format!("its directory cannot be read: {damage}"));
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn tree(&self, snapshot: &str, path: &str, tree: &BlobId, waiting: &mut Vec<(String, BlobId)>) -> Result<()> {
        let mut nodes = self.trees.open(tree)?;
        let mut last: Option<Vec<u8>> = None;
        while let Some(node) = nodes.next_node()? {
            let at = format!("{path}/{}", node.name.escape_ascii());
            if last.as_ref().is_some_and(|last| *last >= node.name) {
                self.find(snapshot, &at, "stands twice in its directory, or out of order".to_owned());
            }
            if node.name.is_empty() || node.name == b"." || node.name == b".." || node.name.contains(&b'/') {
                self.find(snapshot, &at, "has a name that no file can have".to_owned());
            }
            self.node(snapshot, &at, &node);
            waiting.extend(node.subtree.map(|subtree| (at, subtree)));
            last = Some(node.name);
        }
        self.counts.trees.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn node(&self, snapshot: &str, at: &str, node: &Node) {
        if node.kind == NodeKind::Dir && node.subtree.is_none() {
            self.find(snapshot, at, "is a directory without a tree".to_owned());
        }
        if node.kind != NodeKind::File {
            return;
        }
        let Some(content) = &node.content else {
            return self.find(snapshot, at, "is a file without content".to_owned());
        };
        let mut size = 0;
        for id in content {
            match self.index.location(id, BlobKind::Data) {
                Some(location) => size += u64::from(location.blob.plain_len()),
                None => return self.find(snapshot, at, format!("blob {} is in no index: the file is lost", id.short())),
            }
        }
        if size != node.size {
            self.find(snapshot, at, format!("says {} bytes, and its content has {size}", node.size));
        }
    }

    fn find(&self, snapshot: &str, path: &str, problem: String) {
        let object = format!("snapshot {snapshot}: {}", if path.is_empty() { "/" } else { path });
        (self.on_finding)(Finding { object, problem, severity: Severity::Error });
    }
}

fn read_packs(
    repository: &Arc<Repository>,
    index: &Index,
    read: ReadData,
    shares: &Shares,
    counts: &Counts,
    on_finding: OnFinding<'_>,
) -> Result<()> {
    if read == ReadData::No {
        return Ok(());
    }
    let mut packs = index.packs();
    packs.sort_by_key(|pack| pack.id);
    if let ReadData::Share(share) = read {
        // A share of one pack in a small repository is still one.
        let count = ((packs.len() as f64 * share).ceil() as usize).min(packs.len());
        packs.sort_by_cached_key(|_| random::<8>());
        packs.truncate(count);
    }
    counts.to_read(packs.len(), packs.iter().map(|pack| pack.size).sum());
    let begin = || WholePack::new(repository, counts);
    // What they hold is known of some at a time.
    for some in packs.chunks(PACKS_AT_ONCE) {
        parallel::each(
            shares.workers + shares.uploads,
            &index.all_of(some.iter().map(|pack| pack.id).collect()),
            begin,
            |reader, pack| match reader.check(pack) {
                Err(Error::Damaged { object, what, .. }) => {
                    on_finding(Finding { object, problem: what, severity: Severity::Error });
                    Ok(())
                }
                read => {
                    counts.packs_read.fetch_add(u64::from(read.is_ok()), Ordering::Relaxed);
                    read
                }
            },
        )?;
    }
    Ok(())
}

/// Reads packs from end to end; one per thread.
pub(crate) struct WholePack<'a> {
    repository: &'a Repository,
    opener: BlobOpener,
    counts: &'a Counts,
    buffer: Vec<u8>,
}

impl<'a> WholePack<'a> {
    pub(crate) fn new(repository: &'a Repository, counts: &'a Counts) -> Self {
        Self { repository, opener: BlobOpener::new(repository), counts, buffer: Vec::new() }
    }

    /// Its hash, each blob, and its own list.
    pub(crate) fn check(&mut self, pack: &IndexedPack) -> Result<()> {
        let name = ObjectName::pack(pack.id);
        let blobs_end = pack.blobs.last().map_or(0, |last| u64::from(last.offset + last.stored));
        let mut hasher = Sha256::new();
        let mut problems = Vec::new();
        let mut from = 0;
        let mut waiting = pack.blobs.as_slice();
        while from < blobs_end {
            if self.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            // Whole blobs, as many as fit.
            let fits = |count: &usize| u64::from(waiting[*count].offset + waiting[*count].stored).saturating_sub(from) <= READ;
            let count = (0..waiting.len()).take_while(fits).count().max(1);
            let (now, later) = waiting.split_at(count);
            let to = u64::from(now[count - 1].offset + now[count - 1].stored);
            self.read(&name, from, to - from)?;
            hasher.update(&self.buffer);
            for blob in now {
                let at = usize::try_from(u64::from(blob.offset).wrapping_sub(from)).unwrap_or(usize::MAX);
                let sealed = at.checked_add(blob.stored as usize).and_then(|end| self.buffer.get_mut(at..end));
                let Some(sealed) = sealed else { return Err(self.repository.damaged(&name, "blobs in its index entry overlap")) };
                if let Err(why) = self.opener.check(blob, sealed) {
                    problems.push(format!("{} blob {} at {} {why}", blob.kind, blob.id.short(), blob.offset));
                }
            }
            (from, waiting) = (to, later);
        }
        let list_len = pack.size().saturating_sub(blobs_end);
        if list_len as usize > MAX_HEADER + TRAILER {
            return Err(self.repository.damaged(&name, "its list would be larger than any reader accepts"));
        }
        self.read(&name, blobs_end, list_len)?;
        hasher.update(&self.buffer);
        if <[u8; 32]>::from(hasher.finalize()) != pack.id.0 {
            problems.push("its content does not match its name".to_owned());
        }
        problems.extend(self.list_differs(pack));
        if problems.is_empty() { Ok(()) } else { Err(self.repository.damaged(&name, problems.join("; "))) }
    }

    /// Whether the pack's own list says the same as the index.
    fn list_differs(&mut self, pack: &IndexedPack) -> Option<String> {
        let (sealed, length) = self.buffer.split_last_chunk_mut::<TRAILER>()?;
        if u32::from_le_bytes(*length) as usize != sealed.len() {
            return Some("the length of its list is wrong".to_owned());
        }
        match self.repository.open_list(sealed) {
            Ok(blobs) if blobs == pack.blobs => None,
            Ok(_) => Some("its list differs from the index".to_owned()),
            Err(why) => Some(why),
        }
    }

    fn read(&mut self, name: &ObjectName, offset: u64, length: u64) -> Result<()> {
        let read = self.repository.store().read(name, ReadRange::Part { offset, length }, &mut self.buffer);
        read.map_err(|error| match error.kind {
            StoreErrorKind::NotFound => self.repository.damaged(name, "the index names it, but it is missing"),
            StoreErrorKind::Truncated => self.repository.damaged(name, "it is cut: shorter than the index says"),
            _ => error.into(),
        })?;
        self.counts.bytes_read.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}
