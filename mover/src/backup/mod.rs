//! One backup, from source to snapshot.
//!
//! ```text
//!            jobs                 chunks                     packs
//!  walk ───────────► readers ───────────► workers ──► packer ───────► uploads
//!   │   (open, read, cut)   (hash, known?, compress,        (repository::write)
//!   │                        seal, open again)
//!   │ events, in order of names                 trees
//!   └──────────────────────► assemble ─────────────────┘
//!                   (waits for each file's chunks, writes trees bottom up)
//! ```
//! Every arrow is a bounded channel; chunks travel in a fixed number of buffers. The walk is the only one that looks at
//! directories, `assemble` the only one that knows order, and nothing is visible before `finish` has stored everything.

mod assemble;
mod file;
mod lap;
mod parent;
mod read;
mod scan;
mod store;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use contract::Severity;
use repository::budget::{BufferPool, Shares};
use repository::chunker::GearTable;
use repository::compress::Compression;
use repository::error::{Error, Result};
use repository::format::lock::LockMode;
use repository::format::snapshot::{Snapshot, SnapshotTime, Summary};
use repository::id::{BlobId, ObjectId, PackId};
use repository::index::Index;
use repository::lock::Lock;
use repository::read::Trees;
use repository::resume::{Found, Source};
use repository::retention::INCOMPLETE_TAG;
use repository::snapshots::{Filter, Stored};
use repository::store::StoreErrorKind;
use repository::write::{Added, Verify, WriteMode, WriteOptions, Writer};
use repository::{ErrorKind, Repository};

use self::lap::{Lap, LapClock, Laps};
use self::parent::Earlier;
pub(crate) use self::parent::{ChangeTest, Compare};
use crate::report::Report;
use crate::source::exclude::Excludes;
use crate::source::metadata::Owners;
use crate::source::roots::Roots;

/// What the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// Directories and files.
    Files,
    /// A block device, or the image of one: fixed chunks of 4 MiB, zeros known without hashing.
    Block,
    /// Standard input.
    Stream,
}

/// Which snapshot unchanged files are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParentChoice {
    /// The newest of the same host and paths.
    Auto,
    /// None: everything is read.
    None,
    /// This one.
    Id(String),
}

/// Whether directories below which another file system is mounted are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystems {
    /// Yes.
    All,
    /// No: the mount point is saved as an empty directory.
    One,
}

/// Whether a source without content is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmptySource {
    /// Yes: a lost mount looks like this.
    Refuse,
    /// No.
    Allow,
}

/// Whether a snapshot is saved that holds what its parent held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// Yes.
    Save,
    /// No.
    Skip,
}

/// How a run is gone on with that is interrupted.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) source: Source,
    /// How long it may take to keep what is done.
    pub(crate) grace: Duration,
    /// How often what is done is kept, so that a run that is killed loses no more than this.
    pub(crate) every: Duration,
}

/// A backup to be made.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) roots: Roots,
    pub(crate) kind: SourceKind,
    pub(crate) excludes: Excludes,
    pub(crate) file_systems: FileSystems,
    pub(crate) parent: ParentChoice,
    pub(crate) change_test: ChangeTest,
    pub(crate) empty: EmptySource,
    pub(crate) unchanged: Unchanged,
    pub(crate) mode: WriteMode,
    pub(crate) host: String,
    pub(crate) username: String,
    pub(crate) tags: Vec<String>,
    pub(crate) time: Option<jiff::Timestamp>,
    pub(crate) resume: Option<Resume>,
    pub(crate) compression: Compression,
    pub(crate) verify: Verify,
    pub(crate) shares: Shares,
    pub(crate) retry_lock: Duration,
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) files_new: AtomicU64,
    pub(crate) files_changed: AtomicU64,
    pub(crate) files_unchanged: AtomicU64,
    pub(crate) dirs_new: AtomicU64,
    pub(crate) dirs_changed: AtomicU64,
    pub(crate) dirs_unchanged: AtomicU64,
    pub(crate) sockets: AtomicU64,
    pub(crate) total_bytes: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) files_resumed: AtomicU64,
    pub(crate) bytes_resumed: AtomicU64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) snapshot_id: Option<ObjectId>,
    pub(crate) parent_id: Option<ObjectId>,
    pub(crate) tree: BlobId,
    pub(crate) counts: Counts,
    pub(crate) added: Added,
}

/// What all threads of one backup share.
struct Context<'a> {
    request: &'a Request,
    repository: &'a Repository,
    report: &'a Report,
    trees: &'a Trees,
    writer: &'a Writer,
    gear: GearTable,
    owners: Owners,
    counts: &'a Counts,
    buffers: BufferPool,
    /// When reading began: what changed since may change again within the same tick of the clock.
    parent_start: Option<jiff::Timestamp>,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    /// Something was left for the next run, or lap.
    is_cut: AtomicBool,
    lap: LapClock,
}

impl Context<'_> {
    /// The first failure ends everything; later ones follow from it.
    fn fail(&self, error: Error) {
        self.failure.lock().expect("no holder panics").get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether what is done is to be kept now: for the next run, or for this one to go on from.
    fn is_paused(&self) -> bool {
        self.repository.stop().is_paused() || self.lap.is_over()
    }

    /// Counts what was read for the first time.
    fn has_read(&self, bytes: u64) {
        add(&self.counts.bytes_read, bytes);
        self.lap.has_news();
    }

    /// Whether to come to an end: whoever asks leaves out what is still to do.
    fn is_cut(&self) -> bool {
        let is_paused = self.is_paused();
        if is_paused {
            self.is_cut.store(true, Ordering::Relaxed);
        }
        is_paused
    }

    fn is_over(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.repository.stop().is_stopped()
    }
}

/// A thread that panics must not leave the others waiting for what it had in hand.
struct PanicGuard<'a>(&'a Context<'a>);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Refused("a thread of the backup panicked".to_owned()));
        }
    }
}

/// Makes a backup.
///
/// # Errors
/// Anything that keeps the snapshot from being saved. Items that cannot be read do not: they are reported.
pub(crate) fn run(repository: &Arc<Repository>, request: &Request, report: &Report) -> Result<Outcome> {
    let start = repository.clock().now();
    // What is relied on comes before the index.
    let read = |avoid: &HashSet<PackId>| {
        let earlier = (find_parent(repository, request)?, find_done(repository, request)?);
        Ok((earlier, Arc::new(Index::load_without(repository, request.shares.index_bytes, avoid)?)))
    };
    let (lock, ((parent, done), index)) = match request.mode {
        WriteMode::Store => {
            let (lock, read) = Lock::acquire_and(repository, LockMode::Append, request.retry_lock, read)?;
            (Some(lock), read)
        }
        WriteMode::DryRun => (None, read(&HashSet::new())?),
    };
    if let Some(resume) = &request.resume {
        repository.stop().can_pause(resume.grace);
    }
    if let Found::Useless(why) = &done {
        report.item(Path::new("resume record"), &format!("{why}: all is done from the start"), Severity::Warning);
    }
    let (mut done, mut laps) = (done, Laps::default());
    let outcome = loop {
        match save(repository, &index, request, report, start, (parent.as_ref(), &done), &laps)? {
            Lap::Last(outcome) => break *outcome,
            Lap::Kept { tree, counts, added } => {
                let kept = Found::Tree(tree);
                laps.add(&counts, &added, kept != done);
                report.progress().again();
                done = kept;
            }
        }
    };
    if done != Found::Nothing
        && let Some(Resume { source, .. }) = &request.resume
        && let Err(error) = repository.remove_resume(source)
    {
        // The snapshot is saved, and a prune removes the record.
        report.item(Path::new("resume record"), &format!("it could not be removed: {error}"), Severity::Warning);
    }
    if let Some(lock) = lock {
        release(lock, report);
    }
    Ok(outcome)
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}

/// A lock that stays behind blocks others for a while; it undoes nothing of what was done.
pub(crate) fn release(lock: Lock, report: &Report) {
    if let Err(error) = lock.release() {
        report.item(
            Path::new("lock"),
            &format!("it could not be removed ({error}); `mover unlock` does, in 30 minutes"),
            Severity::Warning,
        );
    }
}

fn save(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    request: &Request,
    report: &Report,
    start: jiff::Timestamp,
    (parent, done): (Option<&Stored>, &Found),
    laps: &Laps,
) -> Result<Lap> {
    let options = WriteOptions { shares: request.shares, compression: request.compression, verify: request.verify, mode: request.mode };
    let writer = Writer::start(repository, index, options)?;
    let trees = Trees::new(repository, index, request.shares.tree_bytes);
    let counts = Counts::default();
    let (tree, is_cut) = {
        let gear = GearTable::derive(repository.config().polynomial().map_err(Error::Refused)?);
        let context = Context {
            request,
            repository,
            report,
            trees: &trees,
            writer: &writer,
            gear,
            owners: Owners::default(),
            counts: &counts,
            buffers: BufferPool::new(request.shares.chunks),
            parent_start: parent.map(|parent| scan_start(&parent.snapshot)),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            lap: LapClock::start(request.resume.as_ref().map(|resume| resume.every).filter(|_| !laps.is_last())),
        };
        let done = if let Found::Tree(tree) = done { Some(*tree) } else { None };
        let tree = pipeline(&context, Earlier { parent: parent.map(|parent| parent.snapshot.tree), done })?;
        (tree, context.is_cut.into_inner())
    };
    let parent_id = parent.map(|parent| parent.id);
    // Law 1. Packs, then index ..
    let (committed, added) = writer.finish()?;
    if let (true, Some(Resume { source, .. })) = (is_cut, &request.resume) {
        match repository.save_resume(source, tree, &committed) {
            // By credentials that may only add. What is stored is found again, though it is read once more.
            Err(Error::Store(error)) if matches!(error.kind, StoreErrorKind::AlreadyExists | StoreErrorKind::Denied) => {
                report.item(Path::new("resume record"), &format!("it stays as it was: {error}"), Severity::Warning);
            }
            saved => saved?,
        }
        return if repository.stop().is_paused() { Err(Error::Paused) } else { Ok(Lap::Kept { tree, counts, added }) };
    }
    laps.finish(&counts, &added);
    let nothing_new = request.unchanged == Unchanged::Skip && parent.is_some_and(|parent| parent.snapshot.tree == tree);
    if request.mode == WriteMode::DryRun || nothing_new {
        return Ok(Lap::Last(Box::new(Outcome { snapshot_id: None, parent_id, tree, counts, added })));
    }
    let mut snapshot = snapshot(repository, request, &counts, &added, start, parent_id, tree);
    if report.errors() > 0 {
        // A policy must not keep it in the place of a complete one.
        snapshot.tags.push(INCOMPLETE_TAG.to_owned());
    }
    // .. then the snapshot.
    let id = repository.save_snapshot(&snapshot, &committed)?;
    Ok(Lap::Last(Box::new(Outcome { snapshot_id: Some(id), parent_id, tree, counts, added })))
}

/// Runs all threads; returns the root tree.
fn pipeline(context: &Context<'_>, earlier: Earlier) -> Result<BlobId> {
    /// Events are small, save for unchanged files of many chunks.
    const EVENTS: usize = 1024;
    /// Each job keeps its directory open.
    const JOBS: usize = 256;
    let shares = context.request.shares;
    let (events_tx, events_rx) = crossbeam_channel::bounded(EVENTS);
    let (jobs_tx, jobs_rx) = crossbeam_channel::bounded(JOBS);
    // The pool of buffers is the bound.
    let (chunks_tx, chunks_rx) = crossbeam_channel::bounded(shares.chunks);
    let tree = std::thread::scope(|scope| {
        if context.report.wants_totals() && !context.report.progress().has_totals() {
            scope.spawn(|| scan::run(context));
        }
        scope.spawn(move || walk::run(context, earlier, &events_tx, &jobs_tx));
        for _ in 0..shares.readers {
            let (jobs_rx, chunks_tx) = (jobs_rx.clone(), chunks_tx.clone());
            scope.spawn(move || read::run(context, &jobs_rx, &chunks_tx));
        }
        for _ in 0..shares.workers {
            let chunks_rx = chunks_rx.clone();
            scope.spawn(move || store::run(context, &chunks_rx));
        }
        drop((jobs_rx, chunks_tx, chunks_rx));
        assemble::run(context, events_rx)
    });
    if let Some(error) = context.failure.lock().expect("no holder panics").take() {
        return Err(error);
    }
    if context.repository.stop().is_stopped() {
        return Err(Error::Stopped);
    }
    tree.ok_or(Error::Stopped)
}

/// When the parent's run began to read.
fn scan_start(snapshot: &Snapshot) -> jiff::Timestamp {
    snapshot.summary.as_ref().map_or(snapshot.time.0, |summary| summary.backup_start.0)
}

fn find_parent(repository: &Repository, request: &Request) -> Result<Option<Stored>> {
    match &request.parent {
        ParentChoice::None => Ok(None),
        ParentChoice::Id(id) => repository.find_snapshot(id, &Filter::default()).map(Some),
        ParentChoice::Auto => {
            let filter =
                Filter { host: Some(request.host.clone()), paths: request.roots.paths.clone(), before: request.time, ..Filter::default() };
            let mut fitting = repository.snapshots(&filter)?;
            fitting.retain(|stored| stored.snapshot.paths.len() == request.roots.paths.len());
            Ok(fitting.pop())
        }
    }
}

fn find_done(repository: &Repository, request: &Request) -> Result<Found> {
    request.resume.as_ref().map_or(Ok(Found::Nothing), |resume| repository.find_resume(&resume.source))
}

fn snapshot(
    repository: &Repository,
    request: &Request,
    counts: &Counts,
    added: &Added,
    start: jiff::Timestamp,
    parent: Option<ObjectId>,
    tree: BlobId,
) -> Snapshot {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let identity = repository.identity();
    let [files_new, files_changed, files_unmodified] = [&counts.files_new, &counts.files_changed, &counts.files_unchanged].map(get);
    Snapshot {
        time: SnapshotTime(request.time.unwrap_or(start)),
        parent,
        tree,
        paths: request.roots.paths.clone(),
        hostname: request.host.clone(),
        username: request.username.clone(),
        uid: identity.uid,
        gid: identity.gid,
        excludes: request.excludes.patterns().to_vec(),
        tags: request.tags.clone(),
        original: None,
        program_version: concat!("estiba ", env!("CARGO_PKG_VERSION")).to_owned(),
        rest: BTreeMap::new(),
        summary: Some(Summary {
            backup_start: SnapshotTime(start),
            backup_end: SnapshotTime(repository.clock().now()),
            files_new,
            files_changed,
            files_unmodified,
            dirs_new: get(&counts.dirs_new),
            dirs_changed: get(&counts.dirs_changed),
            dirs_unmodified: get(&counts.dirs_unchanged),
            data_blobs: get(&added.data_blobs),
            tree_blobs: get(&added.tree_blobs),
            data_added: get(&added.plain_bytes),
            data_added_packed: get(&added.stored_bytes),
            total_files_processed: files_new + files_changed + files_unmodified,
            total_bytes_processed: get(&counts.total_bytes),
        }),
    }
}

/// Where a source is, for jobs that are not files of a directory.
#[derive(Debug, Clone)]
enum Origin {
    Device(PathBuf),
    Stdin,
}

/// A damaged parent costs time, never the backup.
fn is_parent_trouble(error: &Error) -> bool {
    error.kind() == ErrorKind::Damaged
}
