//! Walks the snapshot's trees, makes what is empty, and collects what must be fetched.

mod extras;
mod links;
mod special;

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::{Change, Severity};
use repository::error::{Error, Result};
use repository::format::BlobKind;
use repository::format::node::{Node, NodeKind};
use repository::id::BlobId;
use repository::read::{MAX_BLOB, TreeStream, check_depth};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use self::extras::Names;
use self::links::is_lost;
use super::batch::{Batch, PlannedFile, PlannedLink, State, Want};
use super::delete;
use super::target::{OpenDir, Sink, Target, TargetDir, look};
use super::{Context, Extras, Overwrite, ReadBack, RestoreMode, Zeros, add, fetch, in_place, metadata, verify};
use crate::source::metadata::kind;

/// Blobs wanted at once: some 20 MB.
const MAX_WANTS: usize = 200_000;
/// Files in work at once, with their metadata: some 20 MB.
const MAX_FILES: usize = 40_000;

/// A directory whose entries are being planned.
struct Level {
    dir: Arc<TargetDir>,
    nodes: TreeStream,
    last_name: Vec<u8>,
    node: Option<Box<Node>>,
    /// All names in it, with `--delete`; none if they are not all known, or nothing is to go from it.
    names: Option<Names>,
}

/// Whether an entry was asked for, or only leads to what was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Included {
    Yes,
    No,
}

struct Plan<'a> {
    context: &'a Context<'a>,
    target: Option<&'a Target>,
    dirs: OpenDir<'a>,
    batch: Batch,
    /// Directories whose entries are all planned: their metadata follows when the batch is done.
    finished: Vec<(Arc<TargetDir>, Box<Node>)>,
    /// First names of files with several.
    links: HashMap<(u64, u64), (Arc<TargetDir>, CString)>,
}

/// Restores the contents of a tree; `node` is the directory itself.
pub(super) fn run(context: &Context<'_>, target: Option<&Target>, tree: &BlobId, node: Option<&Node>) -> Result<()> {
    let mut plan = Plan::new(context, target);
    let dir = TargetDir::root();
    let names = plan.names(&dir);
    let node = node.map(|node| Box::new(node.clone()));
    let root = Level { dir, nodes: context.trees.open(tree)?, last_name: Vec::new(), node, names };
    plan.walk(root)?;
    plan.work_off()
}

/// Restores one file into the target.
pub(super) fn one_file(context: &Context<'_>, target: Option<&Target>, node: Node) -> Result<()> {
    let mut plan = Plan::new(context, target);
    let name = CString::new(node.name.clone()).map_err(|_| Error::Refused("the file's name holds a zero byte".to_owned()))?;
    plan.file(&TargetDir::root(), name, node)?;
    plan.work_off()
}

/// Writes one file's content onto a device of so many bytes.
pub(super) fn onto_device(context: &Context<'_>, sink: Sink, room: u64, node: Node) -> Result<()> {
    let mut plan = Plan::new(context, None);
    let state = if context.request.overwrite == Overwrite::Refuse {
        add(&context.counts.files, 1);
        add(&context.counts.bytes, node.size);
        State::New
    } else {
        State::InPlace(room)
    };
    let path = context.request.target.clone();
    let content = node.content.unwrap_or_default();
    if plan.want(&content, node.size, &path)?.is_none() {
        return Err(Error::Refused(format!("nothing was written to {}: the snapshot's content is not whole", path.display())));
    }
    plan.batch.files.push(PlannedFile::new(sink.clone(), None, path, content, node.size, state));
    plan.work_off()?;
    if let (Sink::Device(file), RestoreMode::Write) = (sink, context.request.mode) {
        file.sync_all().map_err(|error| Error::Refused(format!("cannot sync {}: {error}", context.request.target.display())))?;
    }
    Ok(())
}

impl<'a> Plan<'a> {
    fn new(context: &'a Context<'a>, target: Option<&'a Target>) -> Self {
        Self { context, target, dirs: OpenDir::new(target), batch: Batch::default(), finished: Vec::new(), links: HashMap::new() }
    }

    fn writes(&self) -> bool {
        self.context.writes()
    }

    fn walk(&mut self, root: Level) -> Result<()> {
        let mut levels = vec![root];
        while let Some(level) = levels.last_mut() {
            if self.context.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            let next = level.nodes.next_node().or_else(|error| {
                level.names = None;
                self.lose_tree(&level.dir, error)
            })?;
            let Some(node) = next else {
                let level = levels.pop().expect("there is a last one");
                if let Some(names) = &level.names {
                    self.extras(&level.dir, names)?;
                }
                self.finished.extend(level.node.map(|node| (level.dir, node)));
                self.work_off_if_full()?;
                continue;
            };
            let dir = level.dir.clone();
            if let Some(names) = &mut level.names {
                names.insert(&node.name);
            }
            let Some(name) = self.check_name(&dir, &node.name, &mut level.last_name) else { continue };
            let has_names = level.names.is_some();
            if let Some(mut below) = self.node(&dir, name, node)? {
                below.names = below.names.filter(|_| has_names);
                check_depth(levels.len())?;
                levels.push(below);
            }
        }
        Ok(())
    }

    /// A tree that cannot be read (further) costs what was in it, not the rest.
    fn lose_tree(&self, dir: &TargetDir, error: Error) -> Result<Option<Node>> {
        match error {
            Error::Damaged { .. } | Error::MissingBlob { .. } => {
                self.context.error(&dir.path(), &format!("what is in it is lost, or part of it: {error}"));
                Ok(None)
            }
            other => Err(other),
        }
    }

    /// A name that can stand in a directory, above the one before.
    fn check_name(&self, dir: &TargetDir, name: &[u8], last: &mut Vec<u8>) -> Option<CString> {
        let shown = name.escape_ascii();
        let refuse = |why: &str| {
            self.context.error(&dir.path(), &format!("an entry named \"{shown}\" is not restored: {why}"));
            None
        };
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return refuse("such a name leads elsewhere");
        }
        if *name == **last {
            return refuse("the name stands twice in its directory");
        }
        if *name < **last {
            return refuse("names in its directory are out of order, so it may stand twice");
        }
        name.clone_into(last);
        CString::new(name).map_or_else(|_| refuse("it holds a zero byte"), Some)
    }

    /// One entry; a directory is returned to be walked.
    fn node(&mut self, dir: &Arc<TargetDir>, name: CString, node: Node) -> Result<Option<Level>> {
        let Some(included) = self.included(dir, &node.name) else { return Ok(None) };
        match node.kind {
            NodeKind::Dir => self.directory(dir, &name, node, included),
            _ if included == Included::No => Ok(None),
            NodeKind::File => self.file(dir, name, node).map(|()| None),
            NodeKind::Socket => Ok(None),
            NodeKind::Symlink | NodeKind::BlockDevice | NodeKind::CharDevice | NodeKind::Fifo => {
                self.other(dir, &name, &node).map(|()| None)
            }
        }
    }

    /// Whether the patterns let an entry of a directory through; `None` if it is left out with all below it.
    fn included(&self, dir: &TargetDir, name: &[u8]) -> Option<Included> {
        let request = self.context.request;
        let path = || Path::new("/").join(dir.path()).join(OsStr::from_bytes(name));
        if !request.excludes.patterns().is_empty() && request.excludes.matches(&path()) {
            return None;
        }
        let has_includes = !request.includes.patterns().is_empty();
        let is_included = !has_includes || path().ancestors().any(|ancestor| request.includes.matches(ancestor));
        Some(if is_included { Included::Yes } else { Included::No })
    }

    fn directory(&mut self, dir: &Arc<TargetDir>, name: &CString, node: Node, included: Included) -> Result<Option<Level>> {
        let below = dir.below(name.clone());
        let Some(tree) = node.subtree else {
            self.context.error(&below.path(), "the snapshot names no tree for this directory");
            return Ok(None);
        };
        let nodes = match self.context.trees.open(&tree) {
            Ok(nodes) => nodes,
            Err(error) => return self.lose_tree(&below, error).map(|_| None),
        };
        // What is to be made shows by itself what is there.
        if !self.writes() || included == Included::No {
            let there = self.dirs.get(dir).and_then(|fd| look(fd, name)).ok().flatten();
            let is_in_the_way = there.is_some_and(|stat| kind(&stat) != Some(NodeKind::Dir));
            if is_in_the_way && included == Included::No {
                let problem = "it is no directory here: what the snapshot has in it is passed over";
                self.context.report.item(&below.path(), problem, Severity::Warning);
                return Ok(None);
            }
            if there.is_none() || is_in_the_way {
                self.context.plan(if is_in_the_way { Change::Kind } else { Change::Added }, &below.path());
            }
        }
        if self.writes()
            && let Err(error) = self.make_directory(dir, name, &below)
        {
            return self.lose(&below.path(), error).map(|()| None);
        }
        if included == Included::Yes {
            add(&self.context.counts.dirs, 1);
        }
        // A directory that only leads to what is included keeps what it has.
        let node = (included == Included::Yes).then(|| Box::new(node));
        let names = self.names(&below);
        Ok(Some(Level { dir: below, nodes, last_name: Vec::new(), node, names }))
    }

    fn make_directory(&mut self, dir: &Arc<TargetDir>, name: &CString, below: &TargetDir) -> Result<(), Errno> {
        let fd = self.dirs.get(dir)?;
        match rustix::fs::mkdirat(fd, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let is_dir = look(fd, name)?.is_some_and(|stat| kind(&stat) == Some(NodeKind::Dir));
                if is_dir {
                    return Ok(());
                }
                make_room(self.context, fd, name, &below.path())?;
                rustix::fs::mkdirat(fd, name, Mode::RWXU)
            }
            other => other,
        }
    }

    fn file(&mut self, dir: &Arc<TargetDir>, name: CString, mut node: Node) -> Result<()> {
        let path = dir.entry(&node.name);
        let there = if self.target.is_some() { self.dirs.get(dir).and_then(|fd| look(fd, &name)) } else { Ok(None) };
        // Another name of a file is one, also where a file of its own is there that looks the same.
        let may_be_linked = self.context.request.overwrite != Overwrite::Never || matches!(there, Ok(None));
        if may_be_linked && self.is_linked(dir, &name, &node) {
            add(&self.context.counts.others, 1);
            if !self.writes() {
                if !matches!(there, Ok(Some(_))) {
                    self.context.plan(Change::Added, &path);
                }
                return self.see_room(dir, &name, &path).or_else(|error| self.lose(&path, error));
            }
            return Ok(());
        }
        let link = (node.inode, node.device_id);
        let there = match there {
            Ok(Some(stat)) if self.keeps(&stat, &node) => {
                add(&self.context.counts.skipped, 1);
                if self.context.request.overwrite == Overwrite::IfChanged {
                    add(&self.context.counts.bytes_in_place, node.size);
                }
                self.context.report.progress().add(0, node.size);
                return self.keep(dir, name, node, path);
            }
            Ok(there) => there,
            // In a dry run a directory may not be there yet.
            Err(_) if !self.writes() => None,
            Err(error) => return self.lose(&path, error),
        };
        let content = node.content.take().unwrap_or_default();
        // What is lost costs nothing that is there.
        let Some(first_want) = self.want(&content, node.size, &path)? else {
            // Its next name is the first then.
            self.links.remove(&link);
            return Ok(());
        };
        let state = there.filter(|stat| self.can_change(dir, &name, stat)).map_or(State::New, |stat| State::InPlace(stat.st_size as u64));
        if state == State::New {
            self.context.plan(if there.is_some() { Change::Content } else { Change::Added }, &path);
            let made = if self.writes() { self.make_file(dir, &name, node.size, &path) } else { self.see_room(dir, &name, &path) };
            if let Err(error) = made {
                self.batch.wants.truncate(first_want);
                self.links.remove(&link);
                return self.lose(&path, error);
            }
            add(&self.context.counts.files, 1);
            add(&self.context.counts.bytes, node.size);
        }
        let sink = Sink::File { dir: dir.clone(), name };
        let size = node.size;
        let file = PlannedFile::new(sink, Some(Box::new(node)), path, content, size, state);
        self.batch.files.push(file);
        self.work_off_if_full()
    }

    /// In a dry run: what would have to go to make room.
    fn see_room(&mut self, dir: &Arc<TargetDir>, name: &CString, path: &Path) -> Result<(), Errno> {
        match self.dirs.get(dir) {
            Ok(fd) => make_room(self.context, fd, name, path),
            Err(_) => Ok(()),
        }
    }

    /// Whether what differs can be written into a file that is there. One with other names keeps its content for them; one that
    /// cannot be written to, a program that runs for instance, is replaced.
    fn can_change(&mut self, dir: &Arc<TargetDir>, name: &CString, there: &Stat) -> bool {
        let request = self.context.request;
        // Only new files have holes.
        let is_asked = matches!(request.overwrite, Overwrite::Always | Overwrite::IfChanged) && request.zeros == Zeros::Write;
        if !is_asked || kind(there) != Some(NodeKind::File) || there.st_nlink != 1 {
            return false;
        }
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        !self.writes() || self.dirs.get(dir).and_then(|fd| rustix::fs::openat(fd, name, flags, Mode::empty())).is_ok()
    }

    /// The content of what is there already is believed to be the same; `--verify` looks.
    fn keep(&mut self, dir: &Arc<TargetDir>, name: CString, mut node: Node, path: PathBuf) -> Result<()> {
        let request = self.context.request;
        if request.overwrite == Overwrite::Never || !self.writes() {
            self.context.report.progress().add(1, 0);
            return Ok(());
        }
        let sink = Sink::File { dir: dir.clone(), name };
        let content = node.content.take().filter(|_| request.read_back == ReadBack::Yes).unwrap_or_default();
        let size = node.size;
        self.batch.files.push(PlannedFile::new(sink, Some(Box::new(node)), path, content, size, State::Kept));
        self.work_off_if_full()
    }

    /// Whether what is there stays.
    fn keeps(&self, there: &Stat, node: &Node) -> bool {
        let is_same = || {
            kind(there) == Some(NodeKind::File)
                && u64::try_from(there.st_size).is_ok_and(|size| size == node.size)
                && there.st_mtime == node.mtime.seconds()
                && u32::try_from(there.st_mtime_nsec).is_ok_and(|nanos| nanos == node.mtime.nanos())
        };
        match self.context.request.overwrite {
            Overwrite::Never => true,
            Overwrite::IfChanged => is_same(),
            Overwrite::Always | Overwrite::Refuse => false,
        }
    }

    /// Makes an empty file of the right length; nobody but us may read it yet.
    fn make_file(&mut self, dir: &Arc<TargetDir>, name: &CString, size: u64, path: &Path) -> Result<(), Errno> {
        let fd = self.dirs.get(dir)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(fd, name, flags, Mode::RUSR | Mode::WUSR);
        let file = match create() {
            Err(Errno::EXIST) => {
                // A new file, not the old one's content: other names of it keep what they have.
                make_room(self.context, fd, name, path)?;
                create()?
            }
            other => other?,
        };
        if size > 0 { rustix::fs::ftruncate(file, size) } else { Ok(()) }
    }

    /// Asks for every blob of the file that comes next; the answer is where these begin. `None`: one is lost, and that is said.
    fn want(&mut self, content: &[BlobId], size: u64, path: &Path) -> Result<Option<usize>> {
        let file = u32::try_from(self.batch.files.len()).expect("below MAX_FILES");
        let first = self.batch.wants.len();
        // All of a file is planned at once.
        let (bytes, allowed) = (
            (content.len() * (size_of::<Want>() + size_of::<BlobId>())) as u64,
            self.context.request.shares.range_bytes(self.context.index),
        );
        if bytes > allowed {
            let what = format!("the plan of {}, which has {} chunks,", path.display(), content.len());
            return Err(Error::MemoryBound { what, needed_mib: bytes >> 20, allowed_mib: allowed >> 20 });
        }
        let mut offset = 0;
        for id in content {
            // What no writer makes is not read into memory either.
            let location = self.context.index.location(id, BlobKind::Data).filter(|location| location.blob.stored <= MAX_BLOB);
            let Some(location) = location else {
                let error = Error::MissingBlob { id: *id, kind: BlobKind::Data };
                self.context.error(path, &format!("not restored: {error}"));
                self.batch.wants.truncate(first);
                return Ok(None);
            };
            self.batch.wants.push(Want { location, file, offset });
            offset += u64::from(location.blob.plain_len());
        }
        if offset != size {
            self.context.error(path, &format!("the snapshot says {size} bytes, its content has {offset}: not restored"));
            self.batch.wants.truncate(first);
            return Ok(None);
        }
        Ok(Some(first))
    }

    /// An entry that cannot be made. A full disk is the end, all else is one item.
    fn lose(&self, path: &Path, error: Errno) -> Result<()> {
        if matches!(error, Errno::NOSPC | Errno::DQUOT) {
            return Err(fetch::full(self.context, path, &error.into()));
        }
        self.context.error(path, &format!("cannot be made: {}", std::io::Error::from(error)));
        Ok(())
    }

    fn work_off_if_full(&mut self) -> Result<()> {
        let is_full = self.batch.wants.len() >= MAX_WANTS
            || self.batch.files.len() + self.batch.links.len() >= MAX_FILES
            || self.finished.len() >= MAX_FILES
            || self.batch.extras.len() >= MAX_FILES;
        if is_full { self.work_off() } else { Ok(()) }
    }

    /// Fetches and writes what is planned, then gives directories that are complete their metadata.
    fn work_off(&mut self) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        in_place::run(self.context, self.target, &mut batch)?;
        fetch::run(self.context, self.target, &mut batch)?;
        if self.context.request.mode == RestoreMode::Nowhere {
            self.context.report.progress().add(batch.files.len() as u64, 0);
        }
        if self.writes() {
            verify::run(self.context, self.target, &batch)?;
            self.forget_lost(&batch);
            for PlannedLink { first, dir, name } in std::mem::take(&mut batch.links) {
                let linked = if is_lost(&batch, &first) { Err(Errno::NOENT) } else { self.hard_link(&dir, &name, &first) };
                if let Err(error) = linked {
                    self.lose(&dir.entry(name.to_bytes()), error)?;
                }
            }
        }
        delete::run(self.context, &mut self.dirs, std::mem::take(&mut batch.extras));
        if self.writes() {
            self.metadata(&batch)?;
        }
        self.finished.clear();
        Ok(())
    }

    /// A file has its times only when its content would survive a power cut: times are what `--overwrite if-changed` trusts.
    fn metadata(&mut self, batch: &Batch) -> Result<()> {
        let Some(target) = self.target else { return Ok(()) };
        target.sync().map_err(|error| Error::Refused(format!("cannot sync {}: {error}", self.context.request.target.display())))?;
        batch.for_each_whole_file(self.context, self.target, |dirs, file| {
            let Some(node) = file.node.as_ref() else { return };
            let access = if file.state == State::Kept { OFlags::RDONLY } else { OFlags::WRONLY };
            match (file.sink.open(dirs, access), file.state) {
                (Ok(open), _) => metadata::apply(self.context, open.as_fd(), node, &file.path),
                // Who may not read a file has not changed it either.
                (Err(Errno::ACCESS), State::Kept) => {}
                (Err(error), _) => self.context.error(&file.path, &format!("its metadata cannot be set: {error}")),
            }
            self.context.report.progress().add(1, 0);
        })?;
        // A directory is finished after those within it.
        for (dir, node) in self.finished.drain(..) {
            match self.dirs.get(&dir) {
                Ok(fd) => metadata::apply(self.context, fd, &node, &dir.path()),
                Err(error) => self.context.error(&dir.path(), &error.to_string()),
            }
        }
        Ok(())
    }
}

/// Makes room at a name; in a dry run, says what would go. A directory goes only with `--delete`: otherwise nobody asked about what
/// is in it; and not after an error.
fn make_room(context: &Context<'_>, dir: BorrowedFd<'_>, name: &CString, path: &Path) -> Result<(), Errno> {
    let request = context.request;
    let Some(there) = look(dir, name)? else { return Ok(()) };
    if matches!(request.overwrite, Overwrite::Never | Overwrite::Refuse) {
        return Err(Errno::EXIST);
    }
    if kind(&there) == Some(NodeKind::Dir) && request.extras == Extras::Delete {
        if context.report.errors() > 0 {
            add(&context.counts.extras_kept, 1);
            return Err(Errno::ISDIR);
        }
        return delete::remove(context, dir, name, path).map_err(|why| {
            context.error(path, &format!("a directory stands in its place, and cannot be removed: {why}"));
            Errno::EXIST
        });
    }
    if !context.writes() {
        return Ok(());
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
