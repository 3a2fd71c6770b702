//! Bytes and blobs in, bytes out, in the same order, while what comes next is being fetched.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use repository::budget::{ByteBudget, Taken};
use repository::error::{Error, Result};
use repository::format::BlobKind;
use repository::index::Location;
use repository::object::ObjectName;
use repository::read::{BlobOpener, RANGE, REQUESTS};
use repository::store::ReadRange;

use super::Context;
use crate::cli::exit::CommandError;

/// Of the range of one request, so much may be fetched in vain: cheaper than another request.
const MAX_VAIN: u64 = 1 << 20;
/// What one group makes; one blob may make more.
const MAX_PLAIN: u64 = 16 << 20;
/// Groups that wait to be written; memory may allow fewer.
const MAX_GROUPS: usize = 4 * REQUESTS;

enum Part {
    Bytes(Vec<u8>),
    Blob(Location),
}

/// What lies in one range of a pack, and the bytes between.
#[derive(Default)]
struct Group {
    parts: Vec<Part>,
    range: Range<u32>,
    /// Bytes of it that are of use.
    stored: u64,
    /// Bytes that it makes.
    plain: u64,
    largest: u64,
}

/// A group on its way to a thread.
struct Job<'a> {
    group: Group,
    done_tx: Sender<Result<Done<'a>>>,
    memory: Taken<'a>,
}

/// A group's bytes.
struct Done<'a> {
    bytes: Vec<u8>,
    /// Given back when they are written.
    _memory: Taken<'a>,
}

/// Takes what is to be written.
pub(super) struct Feed<'a> {
    group: Group,
    memory: &'a ByteBudget,
    is_over: &'a AtomicBool,
    jobs_tx: Sender<Job<'a>>,
    order_tx: Sender<Receiver<Result<Done<'a>>>>,
}

/// Runs `plan`, and writes to `out` what it feeds.
pub(super) fn run(
    context: &Context<'_>,
    memory: u64,
    out: &mut dyn Write,
    plan: impl FnOnce(&mut Feed<'_>) -> Result<()> + Send,
) -> Result<(), CommandError> {
    let memory = ByteBudget::new(memory, context.repository.stop().clone());
    let is_over = AtomicBool::new(false);
    let (jobs_tx, jobs_rx) = bounded::<Job<'_>>(REQUESTS);
    let (order_tx, order_rx) = bounded(MAX_GROUPS);
    std::thread::scope(|scope| {
        for _ in 0..REQUESTS {
            let jobs_rx = jobs_rx.clone();
            scope.spawn(move || {
                let mut worker = Worker { context, opener: BlobOpener::new(context.repository), sealed: Vec::new() };
                for Job { group, done_tx, memory } in jobs_rx {
                    let done = worker.work(group).map(|bytes| Done { bytes, _memory: memory });
                    // Whoever waited for it has given up.
                    let _ = done_tx.send(done);
                }
            });
        }
        drop(jobs_rx);
        let (memory, is_over) = (&memory, &is_over);
        let planner = scope.spawn(move || {
            let mut feed = Feed { group: Group::default(), memory, is_over, jobs_tx, order_tx };
            plan(&mut feed)?;
            feed.send()
        });
        let written = order_rx.iter().try_for_each(|done_rx| {
            let done = done_rx.recv().map_err(|_| Error::Stopped)??;
            context.report.progress().add(0, done.bytes.len() as u64);
            out.write_all(&done.bytes).map_err(CommandError::from)
        });
        // Whoever still feeds may wait for the memory of what is on its way.
        is_over.store(true, Ordering::Relaxed);
        order_rx.iter().for_each(drop);
        let planned = planner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written?;
        planned?;
        Ok(out.flush()?)
    })
}

impl Feed<'_> {
    pub(super) fn bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.group.plain + bytes.len() as u64 > MAX_PLAIN {
            self.send()?;
        }
        self.group.plain += bytes.len() as u64;
        self.group.parts.push(Part::Bytes(bytes));
        Ok(())
    }

    pub(super) fn blob(&mut self, location: Location) -> Result<()> {
        if !self.group.takes(&location) {
            self.send()?;
        }
        self.group.add(location);
        Ok(())
    }

    /// Hands a group to a thread, and its place in the order to the writer.
    fn send(&mut self) -> Result<()> {
        let group = std::mem::take(&mut self.group);
        let bytes = u64::from(group.range.end - group.range.start) + group.largest + group.plain;
        let memory = self.memory.take(bytes).ok_or(Error::Stopped)?;
        if self.is_over.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let (done_tx, done_rx) = bounded(1);
        self.order_tx.send(done_rx).map_err(|_| Error::Stopped)?;
        self.jobs_tx.send(Job { group, done_tx, memory }).map_err(|_| Error::Stopped)
    }
}

impl Group {
    fn last_blob(&self) -> Option<&Location> {
        self.parts.iter().rev().find_map(|part| match part {
            Part::Blob(location) => Some(location),
            Part::Bytes(_) => None,
        })
    }

    fn with(&self, location: &Location) -> Range<u32> {
        let (from, to) = (location.blob.offset, location.blob.offset.saturating_add(location.blob.stored));
        if self.last_blob().is_some() { self.range.start.min(from)..self.range.end.max(to) } else { from..to }
    }

    fn takes(&self, location: &Location) -> bool {
        if self.plain + u64::from(location.blob.plain_len()) > MAX_PLAIN {
            return self.parts.is_empty();
        }
        let Some(last) = self.last_blob() else { return true };
        let range = self.with(location);
        let length = range.end - range.start;
        let vain = u64::from(length).saturating_sub(self.stored + u64::from(location.blob.stored));
        last.pack.id == location.pack.id && length <= RANGE && vain <= MAX_VAIN
    }

    fn add(&mut self, location: Location) {
        self.range = self.with(&location);
        self.stored += u64::from(location.blob.stored);
        self.plain += u64::from(location.blob.plain_len());
        self.largest = self.largest.max(u64::from(location.blob.plain_len()));
        self.parts.push(Part::Blob(location));
    }
}

/// One thread.
struct Worker<'a> {
    context: &'a Context<'a>,
    opener: BlobOpener,
    sealed: Vec<u8>,
}

impl Worker<'_> {
    fn work(&mut self, group: Group) -> Result<Vec<u8>> {
        let repository = self.context.repository;
        if repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let is_read = match group.last_blob() {
            None => true,
            Some(location) => {
                let range =
                    ReadRange::Part { offset: u64::from(group.range.start), length: u64::from(group.range.end - group.range.start) };
                match repository.store().read(&ObjectName::pack(location.pack.id), range, &mut self.sealed) {
                    // Other packs may hold what is in it.
                    Err(error) if error.kind.is_lost() => false,
                    read => {
                        read?;
                        true
                    }
                }
            }
        };
        let mut out = Vec::with_capacity(usize::try_from(group.plain).expect("memory is addressed in 64 bits"));
        // Opening overwrites what was sealed: of a blob that comes again, the plaintext is.
        let mut opened: HashMap<u32, Range<usize>> = HashMap::new();
        for part in group.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(&bytes),
                Part::Blob(location) => {
                    if let Some(range) = opened.get(&location.blob.offset) {
                        out.extend_from_within(range.clone());
                        continue;
                    }
                    let from = out.len();
                    self.blob(&location, is_read.then_some(group.range.start), &mut out)?;
                    opened.insert(location.blob.offset, from..out.len());
                }
            }
        }
        Ok(out)
    }

    fn blob(&mut self, location: &Location, range_start: Option<u32>, out: &mut Vec<u8>) -> Result<()> {
        let blob = &location.blob;
        if let Some(start) = range_start {
            let at = (blob.offset - start) as usize;
            if let Ok(plain) = self.opener.open(blob, &mut self.sealed[at..at + blob.stored as usize]) {
                out.extend_from_slice(plain);
                return Ok(());
            }
        }
        // Every copy is tried, and if none is whole, that is said.
        let plain = self.context.repository.read_blob(self.context.index, &mut self.opener, &blob.id, BlobKind::Data)?;
        out.extend_from_slice(&plain);
        Ok(())
    }
}
