//! Reads files and cuts them into chunks.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use contract::Severity;
use crossbeam_channel::{Receiver, Sender};
use repository::chunker::{self, Chunker};
use repository::error::Error;
use repository::format::BlobKind;
use repository::format::node::{Node, NodeKind, go_mode};
use repository::format::time::Time;
use repository::id::BlobId;
use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;

use super::file::{Chunk, Ended, FileState};
use super::walk::{IsNew, Job, JobSource};
use super::{Context, EmptySource, Origin, PanicGuard, SourceKind};
use crate::source::metadata::{kind, xattrs_of_fd};

/// Chunks of block devices: fixed, so that a change moves no boundary.
pub(super) const BLOCK: usize = 4 << 20;

pub(super) fn run(context: &Context<'_>, jobs_rx: &Receiver<Job>, chunks_tx: &Sender<Chunk>) {
    let _guard = PanicGuard(context);
    let mut reader = Reader { context, chunks_tx, chunker: Chunker::new(&context.gear), zero_block: None };
    for job in jobs_rx {
        if context.is_over() {
            return;
        }
        let (path, result) = reader.job(&job);
        let ended = match result {
            Ok(node) => {
                count(context, &node, job.is_new);
                Ended::Read(Box::new(node))
            }
            Err(Trouble::Left(None)) => Ended::Failed,
            Err(Trouble::Left(Some(node))) => Ended::Read(node),
            Err(Trouble::Over) => return,
            Err(Trouble::Fatal(error)) => return context.fail(error),
            Err(Trouble::Item(why)) => {
                context.report.item(&path, &why, Severity::Error);
                Ended::Failed
            }
        };
        job.file.end(ended);
    }
}

fn count(context: &Context<'_>, node: &Node, is_new: IsNew) {
    let count = match is_new {
        IsNew::Yes => &context.counts.files_new,
        IsNew::No => &context.counts.files_changed,
    };
    count.fetch_add(1, Ordering::Relaxed);
    context.counts.total_bytes.fetch_add(node.size, Ordering::Relaxed);
    context.report.progress().add(1, 0);
}

/// Why a file is not in the snapshot.
enum Trouble {
    /// This one cannot be read.
    Item(String),
    /// The backup cannot go on.
    Fatal(Error),
    /// The run comes to an end: the rest is for the next one. The node is of what was read by then.
    Left(Option<Box<Node>>),
    /// Another thread failed, or the run was stopped.
    Over,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Item(error.to_string())
    }
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Self::Item(io::Error::from(error).to_string())
    }
}

struct Reader<'a> {
    context: &'a Context<'a>,
    chunks_tx: &'a Sender<Chunk>,
    chunker: Chunker<'a>,
    /// Id of 4 MiB of zeros, once this thread has sent them.
    zero_block: Option<BlobId>,
}

impl Reader<'_> {
    fn job(&mut self, job: &Job) -> (PathBuf, Result<Node, Trouble>) {
        // What was done of it must be kept.
        if job.done.is_empty() && self.context.is_cut() {
            return (PathBuf::new(), Err(Trouble::Left(None)));
        }
        match &job.source {
            JobSource::File { dir, name } => {
                let opened = dir.open_file(name).map_err(Trouble::from);
                let node = opened.and_then(|fd| self.file(fd, name.as_bytes(), &|| dir.join(name), job));
                (dir.join(name), node)
            }
            JobSource::Named { origin: Origin::Stdin, name } => (PathBuf::from("standard input"), self.stdin(name, &job.file)),
            JobSource::Named { origin: Origin::Device(path), name } => {
                // What the user named must be readable: there is nothing else to save.
                let node = self.named(path, name, job).map_err(|trouble| match trouble {
                    Trouble::Item(why) => Trouble::Fatal(Error::Refused(format!("cannot read source {}: {why}", path.display()))),
                    other => other,
                });
                (path.clone(), node)
            }
        }
    }

    fn file(&mut self, fd: OwnedFd, name: &[u8], path: &dyn Fn() -> PathBuf, job: &Job) -> Result<Node, Trouble> {
        let before = rustix::fs::fstat(&fd)?;
        if kind(&before) != Some(NodeKind::File) {
            return Err(Trouble::Item("it was replaced by something else while it was being opened".to_owned()));
        }
        let mut node = self.context.owners.node(name, NodeKind::File, &before);
        match xattrs_of_fd(&fd) {
            Ok(xattrs) => node.xattrs = xattrs,
            Err(error) => self.context.report.item(&path(), &format!("cannot read its attributes: {error}"), Severity::Error),
        }
        self.context.report.progress().set_current(path);
        let mut file = File::from(fd);
        let (state, from) = (&job.file, self.take_up(&file, job, path)?);
        if from == 0 && node.size <= chunker::MIN as u64 {
            node.size = self.small(&mut file, state)?;
        } else {
            rustix::fs::seek(&file, SeekFrom::Start(from))?;
            let (read, is_whole) = self.chunks(&mut file, state)?;
            node.size = from + read;
            if !is_whole {
                return Err(Trouble::Left((node.size > 0).then(|| Box::new(node))));
            }
        }
        let after = rustix::fs::fstat(&file)?;
        if is_changed(&before, &after) || node.size != u64::try_from(before.st_size).unwrap_or(0) {
            self.context.report.item(&path(), "it changed while it was read: its content may be a mixture", Severity::Warning);
        }
        Ok(node)
    }

    /// Goes on where an interrupted run stopped, if the last block it read is still there; the answer is from where.
    fn take_up(&self, file: &File, job: &Job, path: &dyn Fn() -> PathBuf) -> Result<u64, Trouble> {
        use std::os::unix::fs::FileExt;
        let context = self.context;
        let length = |id: &BlobId| context.writer.index().location(id, BlobKind::Data).map(|location| u64::from(location.blob.plain_len()));
        let lengths: Option<Vec<u64>> = job.done.iter().map(length).collect();
        let (Some(last), Some(lengths)) = (job.done.last(), lengths) else { return Ok(0) };
        let (end, last_length) = (lengths.iter().sum::<u64>(), lengths.last().copied().unwrap_or_default());
        let mut block = vec![0; usize::try_from(last_length).unwrap_or_default()];
        let read = file.read_exact_at(&mut block, end - last_length);
        if read.is_err() || repository::crypto::sha256(&block) != last.0 {
            let problem = "it is not what an interrupted run has read of it: it is read from the start";
            context.report.item(&path(), problem, Severity::Warning);
            return Ok(0);
        }
        job.done.iter().for_each(|id| job.file.add_known(*id));
        context.counts.files_resumed.fetch_add(1, Ordering::Relaxed);
        context.counts.bytes_resumed.fetch_add(end, Ordering::Relaxed);
        context.counts.bytes_read.fetch_add(last_length, Ordering::Relaxed);
        context.report.progress().add(0, end);
        Ok(end)
    }

    /// A file that is one chunk: read straight into the buffer it travels in.
    fn small(&mut self, file: &mut File, state: &Arc<FileState>) -> Result<u64, Trouble> {
        let mut buffer = self.context.buffers.take(self.context.repository.stop()).ok_or(Trouble::Over)?;
        let limit = chunker::MIN as u64 + 1;
        file.take(limit).read_to_end(&mut buffer)?;
        let length = buffer.len() as u64;
        if length == limit {
            // It has grown beyond one chunk.
            let start = buffer.clone();
            drop(buffer);
            let (read, is_whole) = self.chunks(&mut Cursor::new(start).chain(file), state)?;
            return if is_whole { Ok(read) } else { Err(Trouble::Left(None)) };
        }
        self.context.has_read(length);
        if length > 0 {
            let position = state.expect_chunk();
            self.chunks_tx.send(Chunk { bytes: buffer, file: state.clone(), position }).map_err(|_| Trouble::Over)?;
        }
        Ok(length)
    }

    /// A stream of any length, cut by content; how many bytes it has, and whether that is all of it.
    fn chunks(&mut self, stream: &mut dyn Read, state: &Arc<FileState>) -> Result<(u64, bool), Trouble> {
        let mut total = 0;
        self.chunker.reset();
        while let Some(chunk) = self.chunker.next_chunk(stream)? {
            total += chunk.len() as u64;
            self.context.has_read(chunk.len() as u64);
            let mut buffer = self.context.buffers.take(self.context.repository.stop()).ok_or(Trouble::Over)?;
            buffer.extend_from_slice(chunk);
            let position = state.expect_chunk();
            self.chunks_tx.send(Chunk { bytes: buffer, file: state.clone(), position }).map_err(|_| Trouble::Over)?;
            if self.context.is_over() {
                return Err(Trouble::Over);
            }
            if self.context.is_cut() {
                return Ok((total, false));
            }
        }
        Ok((total, true))
    }

    fn stdin(&mut self, name: &[u8], state: &Arc<FileState>) -> Result<Node, Trouble> {
        let now = Time::from(self.context.repository.clock().now());
        let (size, _) = self.chunks(&mut Stdin(self.context), state).map_err(|trouble| match trouble {
            Trouble::Item(_) if self.context.is_over() => Trouble::Over,
            Trouble::Item(why) => Trouble::Fatal(Error::Refused(format!("cannot read standard input: {why}"))),
            other => other,
        })?;
        self.refuse_empty(size, "standard input")?;
        let identity = self.context.repository.identity();
        Ok(Node {
            mode: go_mode(NodeKind::File, 0o644),
            mtime: now,
            atime: now,
            ctime: now,
            uid: identity.uid,
            gid: identity.gid,
            size,
            ..Node::new(name.to_owned(), NodeKind::File)
        })
    }

    /// A file or device that the user named.
    fn named(&mut self, path: &Path, name: &[u8], job: &Job) -> Result<Node, Trouble> {
        let file = File::open(path)?;
        let stat = rustix::fs::fstat(&file)?;
        if self.context.request.kind == SourceKind::Files {
            let node = self.file(file.into(), name, &|| path.to_owned(), job)?;
            self.refuse_empty(node.size, &path.display().to_string())?;
            return Ok(node);
        }
        if !matches!(kind(&stat), Some(NodeKind::BlockDevice | NodeKind::File)) {
            return Err(Trouble::Item("--block reads block devices and images of them".to_owned()));
        }
        // Of a device, too, the end is where seeking ends.
        let size = rustix::fs::seek(&file, SeekFrom::End(0))?;
        self.refuse_empty(size, &path.display().to_string())?;
        self.context.report.progress().set_current(&|| path.to_owned());
        let from = self.take_up(&file, job, &|| path.to_owned())?;
        let read = self.blocks(&file, from, size, &job.file)?;
        let mut node = self.context.owners.node(name, NodeKind::File, &stat);
        // A device becomes a file that stock tools restore as an image; its own numbers mean nothing there.
        (node.mode, node.size, node.links, node.device_id) = (go_mode(NodeKind::File, 0o600), read, 1, 0);
        if read < size { Err(Trouble::Left((read > 0).then(|| Box::new(node)))) } else { Ok(node) }
    }

    /// Reads blocks; the answer is how far.
    fn blocks(&mut self, file: &File, from: u64, size: u64, state: &Arc<FileState>) -> Result<u64, Trouble> {
        let mut at = from;
        while at < size {
            if self.context.is_over() {
                return Err(Trouble::Over);
            }
            if self.context.is_cut() {
                return Ok(at);
            }
            let length = (size - at).min(BLOCK as u64);
            let zeros_to = next_data(file, at, size);
            if length == BLOCK as u64
                && zeros_to >= at + length
                && let Some(id) = self.zero_block
            {
                state.add_known(id);
                self.context.report.progress().add(0, length);
                at += length;
                continue;
            }
            self.block(file, at, length, state)?;
            at += length;
        }
        Ok(at)
    }

    /// Reads one block. The first one of zeros travels like any other; from then on its id is known.
    fn block(&mut self, file: &File, at: u64, length: u64, state: &Arc<FileState>) -> Result<(), Trouble> {
        use std::os::unix::fs::FileExt;
        let mut buffer = self.context.buffers.take(self.context.repository.stop()).ok_or(Trouble::Over)?;
        buffer.resize(usize::try_from(length).expect("at most 4 MiB"), 0);
        file.read_exact_at(&mut buffer, at)?;
        self.context.has_read(length);
        if length == BLOCK as u64 && is_zero(&buffer) {
            if let Some(id) = self.zero_block {
                state.add_known(id);
                self.context.report.progress().add(0, length);
                return Ok(());
            }
            self.zero_block = Some(BlobId(repository::crypto::sha256(&buffer)));
        }
        let position = state.expect_chunk();
        self.chunks_tx.send(Chunk { bytes: buffer, file: state.clone(), position }).map_err(|_| Trouble::Over)
    }

    fn refuse_empty(&self, size: u64, what: &str) -> Result<(), Trouble> {
        if size > 0 || self.context.request.empty == EmptySource::Allow {
            return Ok(());
        }
        Err(Trouble::Fatal(Error::Refused(format!("{what} is empty; say --allow-empty if it should be saved like this"))))
    }
}

/// Standard input, read so that a stop is noticed while nothing comes.
struct Stdin<'a>(&'a Context<'a>);

impl Read for Stdin<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        /// How often a wait for input looks whether all is over.
        const LOOK_EVERY: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let stdin = io::stdin();
        loop {
            if self.0.is_over() {
                return Err(io::Error::other("stopped"));
            }
            let mut ready = [rustix::event::PollFd::new(&stdin, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&LOOK_EVERY)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(rustix::io::read(&stdin, into)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Where data begins at or after `at`: what lies between is a hole, and need not be read to be known.
fn next_data(file: &File, at: u64, size: u64) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => size,
        // Devices and file systems that cannot tell.
        Err(_) => at,
    }
}

/// Compares in words; the compiler makes vectors of it.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|part| part.iter().fold(0, |or, byte| or | byte) == 0)
}

fn is_changed(before: &Stat, after: &Stat) -> bool {
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
    time(before) != time(after)
}
