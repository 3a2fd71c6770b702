//! One restore, from snapshot to target.
//!
//! ```text
//!  walk the trees ──► plan: make directories and empty files, decide what is written ──► batch of wanted blobs
//!       batch ──► (files that are there: what they hold is not wanted)
//!             ──► sort by pack, merge ranges ──► fetch threads: read, open, hash, write where it belongs
//!              ──► (--verify: read back) ──► sync ──► files' metadata, then directories', deepest first
//! ```
//! Each batch fits the memory, and within it no byte of a pack is fetched twice. All names are opened relative to a
//! directory descriptor and never followed: a hostile snapshot cannot leave the target.

mod batch;
mod delete;
mod fetch;
mod in_place;
mod metadata;
mod plan;
mod target;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::{Change, Severity};
use repository::Repository;
use repository::budget::{ByteBudget, Shares};
use repository::error::{Error, Result};
use repository::format::node::{Node, NodeKind};
use repository::format::snapshot::Snapshot;
use repository::id::BlobId;
use repository::index::Index;
use repository::read::Trees;
use repository::retention::INCOMPLETE_TAG;

use self::target::{Sink, Target};
use crate::report::Report;
use crate::source::exclude::Excludes;

/// What happens to files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overwrite {
    /// A target that is not empty is refused.
    Refuse,
    /// All are compared, and what differs is written.
    Always,
    /// Those of another size or time are compared, and what differs is written.
    IfChanged,
    /// All are kept.
    Never,
}

/// What becomes of what the snapshot does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extras {
    Keep,
    Delete,
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreMode {
    /// The target.
    Write,
    /// Nothing is fetched, or written.
    DryRun,
    /// Everything is fetched, opened and hashed, and nothing is written.
    Nowhere,
}

/// Whether everything is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadBack {
    Yes,
    No,
}

/// What becomes of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// They are written.
    Write,
    /// They are left as holes.
    Skip,
}

/// A restore to be made.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) snapshot: Snapshot,
    /// Part of the snapshot; none: all of it.
    pub(crate) subpath: Option<PathBuf>,
    pub(crate) target: PathBuf,
    pub(crate) includes: Excludes,
    pub(crate) excludes: Excludes,
    pub(crate) overwrite: Overwrite,
    pub(crate) extras: Extras,
    pub(crate) mode: RestoreMode,
    pub(crate) read_back: ReadBack,
    pub(crate) zeros: Zeros,
    pub(crate) shares: Shares,
}

/// What was done, or would be.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) files: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) dirs: AtomicU64,
    pub(crate) others: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bytes_in_place: AtomicU64,
    pub(crate) deleted: AtomicU64,
    pub(crate) extras_kept: AtomicU64,
    pub(crate) fetch_bytes: AtomicU64,
    pub(crate) fetch_requests: AtomicU64,
    pub(crate) verified_bytes: AtomicU64,
    pub(crate) owners_not_set: AtomicU64,
}

/// What all parts of one restore share.
struct Context<'a> {
    request: &'a Request,
    repository: &'a Arc<Repository>,
    index: &'a Index,
    trees: &'a Trees,
    report: &'a Report,
    counts: &'a Counts,
    memory: ByteBudget,
    /// What the backup left out.
    left_out: Excludes,
    /// Path in the snapshot of what is restored.
    source: PathBuf,
}

impl Context<'_> {
    fn error(&self, path: &Path, problem: &str) {
        self.report.item(path, problem, Severity::Error);
    }

    fn writes(&self) -> bool {
        self.request.mode == RestoreMode::Write
    }

    /// Whether the backup may have left this out, so that it says nothing that the snapshot does not have it.
    fn was_excluded(&self, path: &Path) -> bool {
        Path::new("/").join(path).ancestors().any(|above| self.left_out.matches(above))
    }

    /// Whether a directory of the target is one that was saved, or in one: those above were never listed.
    fn was_saved(&self, path: &Path) -> bool {
        let at: PathBuf = self.source.join(path).components().collect();
        self.request.snapshot.paths.iter().any(|saved| at.starts_with(saved))
    }

    /// In a dry run, what would happen to an entry.
    fn plan(&self, change: Change, path: &Path) {
        if self.request.mode == RestoreMode::DryRun {
            self.report.plan(change, path);
        }
    }
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}

/// Makes a restore. The caller holds a lock.
///
/// # Errors
/// What keeps it from going on: a target that is refused, a full disk, storage out of reach. Items that cannot be
/// restored are reported, and the rest goes on.
pub(crate) fn run(repository: &Arc<Repository>, index: &Arc<Index>, request: &Request, report: &Report) -> Result<Counts> {
    let trees = Trees::new(repository, index, request.shares.tree_bytes);
    let counts = Counts::default();
    let memory = ByteBudget::new(request.shares.range_bytes(index), repository.stop().clone());
    let left_out = match request.extras {
        Extras::Keep => Excludes::default(),
        Extras::Delete => left_out(&request.snapshot)?,
    };
    let source = match (&request.subpath, request.snapshot.paths.as_slice()) {
        (Some(path), _) => Path::new("/").join(path),
        (None, [only]) => PathBuf::from(only),
        (None, _) => PathBuf::from("/"),
    };
    let context = Context { request, repository, index, trees: &trees, report, counts: &counts, memory, left_out, source };
    // All of it, or what was stored under one path, and nothing else was.
    let is_whole = request.subpath.as_ref().is_none_or(|path| matches!(request.snapshot.paths.as_slice(), [one] if path == Path::new(one)));
    let has_patterns = !request.includes.patterns().is_empty() || !request.excludes.patterns().is_empty();
    if is_whole
        && !has_patterns
        && let Some(totals) = &request.snapshot.summary
    {
        report.progress().set_totals(totals.total_files_processed, totals.total_bytes_processed);
    }
    match find_root(&trees, &request.snapshot, request.subpath.as_deref())? {
        Found::Dir { tree, node } => into_directory(&context, &tree, node.as_deref())?,
        Found::File(node) => file(&context, *node)?,
    }
    Ok(counts)
}

/// What a backup left out: nothing says of that whether it was there. Where more is lacking, or that cannot be told, nothing goes.
fn left_out(snapshot: &Snapshot) -> Result<Excludes> {
    let refuse = |why: &str| Err(Error::Refused(format!("--delete would remove what the backup had left out: {why}")));
    if snapshot.tags.iter().any(|tag| tag == INCOMPLETE_TAG) {
        return refuse("the snapshot lacks items that could not be read (it is tagged estiba:incomplete)");
    }
    if !snapshot.program_version.starts_with("estiba") {
        return refuse("the snapshot is another program's, which does not record all of that; restore into an empty directory");
    }
    let mut patterns = Vec::new();
    for pattern in &snapshot.excludes {
        // It was meant for paths where the source was, and may lie elsewhere here: all of that name stays.
        let Some(name) = pattern.split('/').rev().find(|part| !part.trim_matches('*').is_empty()) else {
            return refuse(&format!("pattern {pattern:?} says of nothing what it is called"));
        };
        patterns.push(name.to_owned());
    }
    Excludes::new(patterns).or_else(|why| refuse(&why))
}

/// What is restored: the contents of a directory, or one file.
pub(crate) enum Found {
    Dir { tree: BlobId, node: Option<Box<Node>> },
    File(Box<Node>),
}

/// Follows the path that was asked for; without one, the path of a snapshot that has only one.
pub(crate) fn find_root(trees: &Trees, snapshot: &Snapshot, path: Option<&Path>) -> Result<Found> {
    let whole = Found::Dir { tree: snapshot.tree, node: None };
    match (path, snapshot.paths.as_slice()) {
        (Some(path), _) => find(trees, snapshot, path),
        (None, [only]) => match find(trees, snapshot, Path::new(only)) {
            // Other programs may hang their sources elsewhere.
            Err(Error::NoSuchSnapshot { .. }) => Ok(whole),
            found => found,
        },
        (None, _) => Ok(whole),
    }
}

fn find(trees: &Trees, snapshot: &Snapshot, path: &Path) -> Result<Found> {
    match find_node(trees, snapshot, path)? {
        None => Ok(Found::Dir { tree: snapshot.tree, node: None }),
        Some(node) => match (node.kind, node.subtree) {
            (NodeKind::Dir, Some(tree)) => Ok(Found::Dir { tree, node: Some(Box::new(node)) }),
            (NodeKind::File, _) => Ok(Found::File(Box::new(node))),
            _ => Err(Error::Refused(format!("{} is neither a directory nor a file", path.display()))),
        },
    }
}

/// The node at a path of a snapshot; none is its root.
pub(crate) fn find_node(trees: &Trees, snapshot: &Snapshot, path: &Path) -> Result<Option<Node>> {
    use std::os::unix::ffi::OsStrExt;
    let mut tree = Some(snapshot.tree);
    let mut found = None;
    for name in path.iter().filter(|name| *name != "/" && *name != ".") {
        let missing = || Error::NoSuchSnapshot { wanted: format!("path {}", path.display()) };
        let mut nodes = trees.open(&tree.ok_or_else(missing)?)?;
        let node = loop {
            match nodes.next_node()? {
                None => return Err(missing()),
                Some(node) if node.name == name.as_bytes() => break node,
                Some(_) => {}
            }
        };
        tree = node.subtree;
        found = Some(node);
    }
    Ok(found)
}

/// The directory that is restored to, as far as there is one.
fn open(request: &Request) -> Result<Option<Target>> {
    match request.mode {
        RestoreMode::Write => Target::open(&request.target, request.overwrite).map(Some),
        RestoreMode::DryRun => Target::open_existing(&request.target, request.overwrite),
        RestoreMode::Nowhere => Ok(None),
    }
    .map_err(Error::Refused)
}

fn into_directory(context: &Context<'_>, tree: &BlobId, node: Option<&Node>) -> Result<()> {
    let request = context.request;
    if request.extras == Extras::Delete && context.trees.open(tree)?.next_node()?.is_none() {
        return Err(Error::Refused(
            "what is to be restored is an empty directory: --delete would remove all that is in the target".to_owned(),
        ));
    }
    let target = open(request)?;
    plan::run(context, target.as_ref(), tree, node)?;
    target.map_or(Ok(()), |target| {
        target.sync().map_err(|error| Error::Refused(format!("cannot sync {}: {error}", request.target.display())))
    })
}

/// One file: onto a block device, or into a directory.
fn file(context: &Context<'_>, node: Node) -> Result<()> {
    let request = context.request;
    if request.extras == Extras::Delete {
        return Err(Error::Refused("--delete goes with directories: what is to be restored is one file".to_owned()));
    }
    let path = &request.target;
    let is_device = request.mode != RestoreMode::Nowhere
        && rustix::fs::stat(path).is_ok_and(|stat| crate::source::metadata::kind(&stat) == Some(NodeKind::BlockDevice));
    if !is_device {
        let target = open(request)?;
        plan::one_file(context, target.as_ref(), node)?;
        return target
            .map_or(Ok(()), |target| target.sync().map_err(|error| Error::Refused(format!("cannot sync {}: {error}", path.display()))));
    }
    let refuse = |what: String| Error::Refused(format!("cannot restore to {}: {what}", path.display()));
    if request.overwrite == Overwrite::Never {
        return Err(refuse("--overwrite never makes no sense for a block device".to_owned()));
    }
    let device = target::open_device(path, request.mode).map_err(|error| refuse(error.to_string()))?;
    let room = rustix::fs::seek(&device, rustix::fs::SeekFrom::End(0)).map_err(|error| refuse(error.to_string()))?;
    if room < node.size {
        return Err(refuse(format!("it has {room} bytes, and {} are to be written", node.size)));
    }
    plan::onto_device(context, Sink::Device(Arc::new(device)), room, node)
}
