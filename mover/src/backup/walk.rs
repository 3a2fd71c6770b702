//! Looks at every entry once, in order of names, and says what is to be done with it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::Severity;
use crossbeam_channel::Sender;
use repository::error::{Error, Result};
use repository::format::BlobKind;
use repository::format::node::{Node, NodeKind, go_mode};
use repository::id::BlobId;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::file::FileState;
use super::parent::{Earlier, ParentDir, Then, is_of_same_source};
use super::{Context, EmptySource, FileSystems, Origin, PanicGuard, SourceKind, is_parent_trouble};
use crate::source::metadata::{entry_path, kind, xattrs, xattrs_of_fd};
use crate::source::roots::Root;
use crate::source::{DirHandle, stat_path};

/// For messages.
const PARENT: &str = "parent snapshot";
const DONE: &str = "what an interrupted run had done";

/// What the assembler is told, in order of names.
#[derive(Debug)]
pub(super) enum Event {
    /// A directory begins; the root has no node.
    Enter {
        node: Option<Box<Node>>,
        /// The parent's tree of it.
        parent_tree: Option<BlobId>,
    },
    /// An entry that is complete.
    Leaf(Box<Node>),
    /// A file that is being read.
    File(Arc<FileState>),
    /// The directory ends.
    Leave,
}

/// What a reader is told.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) source: JobSource,
    pub(super) file: Arc<FileState>,
    pub(super) is_new: IsNew,
    /// Blobs that an interrupted run has read from its start on.
    pub(super) done: Vec<BlobId>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum JobSource {
    /// A file of a directory.
    File { dir: Arc<DirHandle>, name: CString },
    /// Something the user named, under this name in the snapshot.
    Named { origin: Origin, name: Vec<u8> },
}

/// Whether the parent has an entry of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsNew {
    Yes,
    No,
}

pub(super) fn run(context: &Context<'_>, earlier: Earlier, events_tx: &Sender<Event>, jobs_tx: &Sender<Job>) {
    let _guard = PanicGuard(context);
    let walk = Walk { context, events_tx, jobs_tx };
    if let Err(error) = walk.root(earlier) {
        context.fail(error);
    }
}

struct Walk<'a> {
    context: &'a Context<'a>,
    events_tx: &'a Sender<Event>,
    jobs_tx: &'a Sender<Job>,
}

/// A directory that is being walked.
struct Level {
    dir: Arc<DirHandle>,
    names: std::vec::IntoIter<CString>,
    before: Before,
}

/// The same directory before.
#[derive(Default)]
struct Before {
    parent: ParentDir,
    done: ParentDir,
}

impl Walk<'_> {
    fn root(&self, earlier: Earlier) -> Result<()> {
        let mut before = self.before(earlier)?;
        self.send(Event::Enter { node: None, parent_tree: earlier.parent })?;
        match &self.context.request.roots.root {
            Root::Above { children, .. } => self.above(children.iter(), &mut before)?,
            // The source is `/` itself: its entries are the root's.
            Root::Source(path) => {
                let dir = Arc::new(DirHandle::open(path).map_err(|error| refuse(path, error))?);
                self.contents(dir, before)?;
            }
        }
        self.send(Event::Leave)
    }

    fn above<'r>(&self, children: impl Iterator<Item = (&'r Vec<u8>, &'r Root)>, before: &mut Before) -> Result<()> {
        for (name, child) in children {
            if self.context.is_cut() {
                return self.carry_over(before);
            }
            let then = self.find(before, name)?;
            match child {
                Root::Source(path) => self.source(name, path, then)?,
                Root::Above { real, children } => {
                    let node = match real {
                        Some(real) => self.dir_node(name, &DirHandle::open(real).map_err(|error| refuse(real, error))?)?,
                        None => Node { mode: go_mode(NodeKind::Dir, 0o755), ..Node::new(name.clone(), NodeKind::Dir) },
                    };
                    let mut below = self.before(then.trees())?;
                    self.send(Event::Enter { node: Some(Box::new(node)), parent_tree: then.trees().parent })?;
                    self.above(children.iter(), &mut below)?;
                    self.send(Event::Leave)?;
                }
            }
        }
        Ok(())
    }

    /// Something the user named. That it is not there is an error, never an empty snapshot.
    fn source(&self, name: &[u8], path: &Path, then: Then) -> Result<()> {
        let named = |origin| JobSource::Named { origin, name: name.to_owned() };
        let is_new = if then.parent.is_some() { IsNew::No } else { IsNew::Yes };
        match self.context.request.kind {
            SourceKind::Stream => return self.read(named(Origin::Stdin), is_new, Vec::new()),
            // A device's times are those of its name: that it is the same is what the source's id says.
            SourceKind::Block => return self.read(named(Origin::Device(path.to_owned())), is_new, self.done(then.done)),
            SourceKind::Files => {}
        }
        // A link that the user named is followed: saving the link alone would look like a backup.
        let stat = rustix::fs::stat(path).map_err(|error| refuse(path, error))?;
        match kind(&stat) {
            Some(NodeKind::Dir) => {
                let dir = Arc::new(DirHandle::open(path).map_err(|error| refuse(path, error))?);
                self.refuse_empty(&dir)?;
                let node = self.dir_node(name, &dir)?;
                self.send(Event::Enter { node: Some(Box::new(node)), parent_tree: then.trees().parent })?;
                self.contents(dir, self.before(then.trees())?)?;
                self.send(Event::Leave)
            }
            Some(NodeKind::File) => {
                let now = self.context.owners.node(name, NodeKind::File, &stat);
                let done = then.done.filter(|done| is_of_same_source(&now, done));
                self.read(named(Origin::Device(path.to_owned())), is_new, self.done(done))
            }
            Some(NodeKind::BlockDevice) => {
                Err(Error::Refused(format!("{} is a block device: say --block to back up what is on it", path.display())))
            }
            _ => Err(Error::Refused(format!("{} is neither a directory nor a file", path.display()))),
        }
    }

    fn refuse_empty(&self, dir: &DirHandle) -> Result<()> {
        let names = dir.names().map_err(|error| refuse(&dir.path, error))?;
        // What mkfs makes is no content.
        let is_empty = names.iter().all(|name| name.as_bytes() == b"lost+found");
        if is_empty && self.context.request.empty == EmptySource::Refuse {
            let path = dir.path.display();
            return Err(Error::Refused(format!(
                "{path} is empty: is something not mounted? Say --allow-empty if it should be saved like this"
            )));
        }
        Ok(())
    }

    fn read(&self, source: JobSource, is_new: IsNew, done: Vec<BlobId>) -> Result<()> {
        let file = Arc::new(FileState::default());
        self.jobs_tx.send(Job { source, file: file.clone(), is_new, done }).map_err(|_| Error::Stopped)?;
        self.send(Event::File(file))
    }

    /// All below a directory, without recursion: trees may be deep.
    fn contents(&self, dir: Arc<DirHandle>, before: Before) -> Result<()> {
        let device = rustix::fs::fstat(&*dir).map_err(|error| refuse(&dir.path, error))?.st_dev;
        let names = dir.names().map_err(|error| refuse(&dir.path, error))?;
        let mut levels = vec![Level { dir, names: names.into_iter(), before }];
        while let Some(level) = levels.last_mut() {
            if self.context.is_over() {
                return Err(Error::Stopped);
            }
            if let Some(name) = level.names.next().filter(|_| !self.context.is_cut()) {
                if let Some(below) = self.entry(level, &name, device)? {
                    levels.push(below);
                }
            } else {
                if self.context.is_paused() {
                    self.carry_over(&mut level.before)?;
                }
                levels.pop();
                // The directory that was named is left by who entered it.
                if !levels.is_empty() {
                    self.send(Event::Leave)?;
                }
            }
        }
        Ok(())
    }

    /// One entry; a directory that was entered is returned.
    fn entry(&self, level: &mut Level, name: &CString, device: u64) -> Result<Option<Level>> {
        let excludes = &self.context.request.excludes;
        if !excludes.patterns().is_empty() && excludes.matches(&level.dir.join(name)) {
            return Ok(None);
        }
        let looked = level.dir.stat(name);
        let (stat, kind) = match looked.map(|stat| (stat, kind(&stat))) {
            Ok((stat, Some(kind))) => (stat, kind),
            Ok((_, None)) => return self.lose(level, name, "its type is not known"),
            Err(error) => return self.lose(level, name, &error.to_string()),
        };
        let then = self.find(&mut level.before, name.as_bytes())?;
        match kind {
            NodeKind::Dir => self.enter(level, name, &stat, then.trees(), device),
            NodeKind::File => self.file(level, name, &stat, then).map(|()| None),
            NodeKind::Socket => {
                self.context.counts.sockets.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            NodeKind::Symlink | NodeKind::BlockDevice | NodeKind::CharDevice | NodeKind::Fifo => {
                let mut node = self.context.owners.node(name.as_bytes(), kind, &stat);
                if kind == NodeKind::Symlink {
                    match rustix::fs::readlinkat(&*level.dir, name, Vec::new()) {
                        Ok(target) => node.link_target = target.into_bytes(),
                        Err(error) => return self.lose(level, name, &error.to_string()),
                    }
                }
                self.add_xattrs(level, name, &mut node);
                self.send(Event::Leaf(Box::new(node)))?;
                Ok(None)
            }
        }
    }

    fn enter(&self, level: &Level, name: &CString, stat: &Stat, earlier: Earlier, device: u64) -> Result<Option<Level>> {
        let mut node = self.context.owners.node(name.as_bytes(), NodeKind::Dir, stat);
        let parent_tree = earlier.parent;
        if self.context.request.file_systems == FileSystems::One && stat.st_dev != device {
            self.add_xattrs(level, name, &mut node);
            self.send(Event::Enter { node: Some(Box::new(node)), parent_tree })?;
            return self.send(Event::Leave).map(|()| None);
        }
        let opened = level.dir.open_dir(name).and_then(|dir| dir.names().map(|names| (dir, names)));
        let (dir, names) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.lose(level, name, &error.to_string()),
        };
        self.add_xattrs(level, name, &mut node);
        self.send(Event::Enter { node: Some(Box::new(node)), parent_tree })?;
        let before = self.before(earlier)?;
        Ok(Some(Level { dir: Arc::new(dir), names: names.into_iter(), before }))
    }

    fn file(&self, level: &Level, name: &CString, stat: &Stat, Then { parent, done }: Then) -> Result<()> {
        let (counts, test) = (self.context.counts, self.context.request.change_test);
        let now = || self.context.owners.node(name.as_bytes(), NodeKind::File, stat);
        if let (Some(then), Some(parent_start)) = (&parent, self.context.parent_start)
            && test.is_unchanged(&now(), then, parent_start)
            && self.is_there(then)
        {
            return self.take_over(level, name, now(), then, &counts.files_unchanged);
        }
        let is_new = if parent.is_some_and(|then| then.kind == NodeKind::File) { IsNew::No } else { IsNew::Yes };
        let Some(done) = done.filter(|done| is_of_same_source(&now(), done) && self.is_there(done)) else {
            return self.read(JobSource::File { dir: level.dir.clone(), name: name.clone() }, is_new, Vec::new());
        };
        if done.size < now().size {
            return self.read(JobSource::File { dir: level.dir.clone(), name: name.clone() }, is_new, done.content.unwrap_or_default());
        }
        counts.files_resumed.fetch_add(1, Ordering::Relaxed);
        counts.bytes_resumed.fetch_add(done.size, Ordering::Relaxed);
        self.take_over(level, name, now(), &done, if is_new == IsNew::Yes { &counts.files_new } else { &counts.files_changed })
    }

    /// The content of a file as it was before.
    fn take_over(&self, level: &Level, name: &CString, mut node: Node, then: &Node, count: &AtomicU64) -> Result<()> {
        self.add_xattrs(level, name, &mut node);
        count.fetch_add(1, Ordering::Relaxed);
        self.context.counts.total_bytes.fetch_add(node.size, Ordering::Relaxed);
        self.context.report.progress().add(1, node.size);
        node.content.clone_from(&then.content);
        self.send(Event::Leaf(Box::new(node)))
    }

    /// Everything taken over must still be there: pruning may have run since.
    fn is_there(&self, then: &Node) -> bool {
        then.content.iter().flatten().all(|id| self.context.writer.index().contains(id, BlobKind::Data))
    }

    /// What an interrupted run has read of a file, if it is still there.
    fn done(&self, then: Option<Node>) -> Vec<BlobId> {
        then.filter(|then| then.kind == NodeKind::File && self.is_there(then)).and_then(|then| then.content).unwrap_or_default()
    }

    fn dir_node(&self, name: &[u8], dir: &DirHandle) -> Result<Node> {
        let stat = rustix::fs::fstat(dir).map_err(|error| refuse(&dir.path, error))?;
        let mut node = self.context.owners.node(name, NodeKind::Dir, &stat);
        match xattrs_of_fd(dir) {
            Ok(xattrs) => node.xattrs = xattrs,
            Err(error) => self.context.report.item(&dir.path, &format!("cannot read its attributes: {error}"), Severity::Error),
        }
        Ok(node)
    }

    fn add_xattrs(&self, level: &Level, name: &CString, node: &mut Node) {
        match xattrs(&entry_path(&*level.dir, name)) {
            Ok(xattrs) => node.xattrs = xattrs,
            Err(error) => self.context.report.item(&level.dir.join(name), &format!("cannot read its attributes: {error}"), Severity::Error),
        }
    }

    /// An entry that will not be in the snapshot: said, counted, and the exit code tells.
    fn lose(&self, level: &Level, name: &CString, why: &str) -> Result<Option<Level>> {
        self.context.report.item(&level.dir.join(name), why, Severity::Error);
        Ok(None)
    }

    /// What was done of the rest of a directory stays done, also if nobody comes to it before the run ends.
    fn carry_over(&self, before: &mut Before) -> Result<()> {
        loop {
            match before.done.next() {
                Ok(Some(node)) => {
                    // It may be a part of a file: nothing like that is in a snapshot.
                    if !self.context.is_cut() {
                        return Ok(());
                    }
                    self.send(Event::Leaf(Box::new(node)))?;
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.without(error, DONE),
            }
        }
    }

    fn before(&self, trees: Earlier) -> Result<Before> {
        let open = |tree, what| {
            ParentDir::open(self.context.trees, tree).or_else(|error| self.without(error, what).map(|()| ParentDir::default()))
        };
        Ok(Before { parent: open(trees.parent, PARENT)?, done: open(trees.done, DONE)? })
    }

    fn find(&self, before: &mut Before, name: &[u8]) -> Result<Then> {
        let find = |dir: &mut ParentDir, what| {
            dir.find(name).or_else(|error| {
                *dir = ParentDir::default();
                self.without(error, what).map(|()| None)
            })
        };
        Ok(Then { parent: find(&mut before.parent, PARENT)?, done: find(&mut before.done, DONE)? })
    }

    fn without(&self, error: Error, what: &str) -> Result<()> {
        if !is_parent_trouble(&error) {
            return Err(error);
        }
        self.context.report.item(Path::new(what), &format!("{error}; its files are read again"), Severity::Warning);
        Ok(())
    }

    fn send(&self, event: Event) -> Result<()> {
        self.events_tx.send(event).map_err(|_| Error::Stopped)
    }
}

fn refuse(path: &Path, error: Errno) -> Error {
    let hint = if stat_path(path).is_err() { "; a source that is missing is never saved as an empty one" } else { "" };
    let shown = String::from_utf8_lossy(path.as_os_str().as_bytes());
    Error::Refused(format!("cannot read source {shown}: {error}{hint}"))
}
