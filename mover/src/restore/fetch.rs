//! Works off a batch: each needed part of a pack is fetched once, opened, checked, and written wherever it belongs.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use repository::error::{Error, Result};
use repository::format::BlobKind;
use repository::object::ObjectName;
use repository::parallel;
use repository::read::ranges::{PackRange, merge};
use repository::read::{BlobOpener, RANGE, REQUESTS};
use repository::store::ReadRange;
use rustix::fs::OFlags;

use super::batch::{Batch, PlannedFile, Want};
use super::target::{OpenDir, Sink, Target};
use super::{Context, RestoreMode, Zeros, add};

/// Threads that write to one file wait here, asleep; in the kernel they would spin for its inode.
const WRITE_LOCKS: usize = 64;
/// Holes begin and end at multiples of this: what file systems allocate.
const PAGE: u64 = 4096;

/// A range of a pack and the wants that it serves.
struct Fetch<'a> {
    wants: &'a [Want],
    range: PackRange,
}

pub(super) fn run(context: &Context<'_>, target: Option<&Target>, batch: &mut Batch) -> Result<()> {
    let mut wants = std::mem::take(&mut batch.wants);
    let batch = &*batch;
    wants.sort_unstable_by_key(|want| (want.location.pack.id, want.location.blob.offset, want.file, want.offset));
    let fetches: Vec<Fetch<'_>> = wants.chunk_by(|a, b| a.location.pack.id == b.location.pack.id).flat_map(of_pack).collect();
    add(&context.counts.fetch_requests, fetches.len() as u64);
    add(&context.counts.fetch_bytes, fetches.iter().map(|fetch| u64::from(fetch.range.length)).sum());
    if context.request.mode == RestoreMode::DryRun {
        return Ok(());
    }
    let write_locks: Vec<Mutex<()>> = (0..WRITE_LOCKS).map(|_| Mutex::default()).collect();
    let begin = || Worker {
        context,
        batch,
        write_locks: &write_locks,
        dirs: OpenDir::new(target),
        opener: BlobOpener::new(context.repository),
        sealed: Vec::new(),
    };
    parallel::each(REQUESTS, &fetches, begin, Worker::fetch)?;
    if context.request.mode == RestoreMode::Write {
        remove_damaged(context, target, batch);
    }
    Ok(())
}

fn of_pack<'a>(wants: &'a [Want]) -> Vec<Fetch<'a>> {
    let blobs: Vec<(u32, u32)> = wants.iter().map(|want| (want.location.blob.offset, want.location.blob.stored)).collect();
    merge(&blobs, RANGE).into_iter().map(|range| Fetch { wants: &wants[range.blobs.clone()], range }).collect()
}

/// What is not whole is taken away: zeros in place of content would be invented.
fn remove_damaged(context: &Context<'_>, target: Option<&Target>, batch: &Batch) {
    let mut dirs = OpenDir::new(target);
    let is_half = |file: &&PlannedFile| file.is_damaged.load(Ordering::Relaxed) && file.is_begun.load(Ordering::Relaxed);
    for file in batch.files.iter().filter(is_half) {
        if let Sink::File { dir, name } = &file.sink {
            let removed = dirs.get(dir).and_then(|fd| rustix::fs::unlinkat(fd, name, rustix::fs::AtFlags::empty()));
            if let Err(error) = removed {
                context.error(&file.path, &format!("it is incomplete and cannot be removed: {error}"));
            }
        }
    }
}

/// One thread.
struct Worker<'a> {
    context: &'a Context<'a>,
    batch: &'a Batch,
    write_locks: &'a [Mutex<()>],
    dirs: OpenDir<'a>,
    opener: BlobOpener,
    sealed: Vec<u8>,
}

impl Worker<'_> {
    fn fetch(&mut self, fetch: &Fetch<'_>) -> Result<()> {
        let context = self.context;
        if context.repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let largest = fetch.wants.iter().map(|want| u64::from(want.location.blob.plain_len())).max().unwrap_or(0);
        let _memory = context.memory.take(u64::from(fetch.range.length) + largest).ok_or(Error::Stopped)?;
        let Some(first) = fetch.wants.first() else { return Ok(()) };
        let name = ObjectName::pack(first.location.pack.id);
        let range = ReadRange::Part { offset: u64::from(fetch.range.offset), length: u64::from(fetch.range.length) };
        let read = match context.repository.store().read(&name, range, &mut self.sealed) {
            Err(error) if error.kind.is_lost() => Err(error.to_string()),
            other => {
                other?;
                Ok(())
            }
        };
        // The same blob may be wanted in many places: it is opened once.
        for wants in fetch.wants.chunk_by(|a, b| a.location.blob == b.location.blob) {
            self.blob(wants, fetch.range.offset, read.as_ref().err().map(String::as_str))?;
        }
        Ok(())
    }

    fn blob(&mut self, wants: &[Want], range_offset: u32, read_error: Option<&str>) -> Result<()> {
        let Self { context, batch, write_locks, dirs, opener, sealed } = self;
        let blob = wants[0].location.blob;
        let opened = match read_error {
            Some(error) => Err(error.to_owned()),
            None => {
                let at = (blob.offset - range_offset) as usize;
                opener.open(&blob, &mut sealed[at..at + blob.stored as usize])
            }
        };
        let other_copy;
        let plain = match opened {
            Ok(plain) => plain,
            // Another pack may hold it as well.
            Err(why) => {
                match context.repository.read_blob(context.index, &mut BlobOpener::new(context.repository), &blob.id, BlobKind::Data) {
                    Ok(plain) => {
                        other_copy = plain;
                        &other_copy
                    }
                    Err(Error::Damaged { .. } | Error::MissingBlob { .. }) => return lose(context, batch, wants, &why),
                    Err(error) => return Err(error),
                }
            }
        };
        for want in wants {
            let file = &batch.files[want.file as usize];
            let writing = write_locks[want.file as usize % WRITE_LOCKS].lock().expect("no holder panics");
            write(context, dirs, file, want.offset, plain)?;
            drop(writing);
            context.report.progress().set_current(&|| file.path.clone());
            context.report.progress().add(0, plain.len() as u64);
        }
        Ok(())
    }
}

/// No copy of a blob can be read: every file that needs it is lost, and said so once.
fn lose(context: &Context<'_>, batch: &Batch, wants: &[Want], why: &str) -> Result<()> {
    for want in wants {
        let file = &batch.files[want.file as usize];
        if !file.is_damaged.swap(true, Ordering::Relaxed) {
            let id = want.location.blob.id.short();
            let pack = want.location.pack.id.short();
            context.error(&file.path, &format!("not restored: blob {id} in pack {pack} is damaged: {why}"));
        }
        if let Sink::Device(_) = file.sink {
            return Err(Error::Refused(format!(
                "blob {id} at {} cannot be read: the device is incomplete",
                want.offset,
                id = want.location.blob.id.short()
            )));
        }
    }
    Ok(())
}

fn write(context: &Context<'_>, dirs: &mut OpenDir<'_>, file: &PlannedFile, offset: u64, plain: &[u8]) -> Result<()> {
    if file.is_damaged.load(Ordering::Relaxed) || context.request.mode == RestoreMode::Nowhere {
        return Ok(());
    }
    let result = file.sink.open(dirs, OFlags::WRONLY).map_err(io::Error::from).and_then(|open| {
        // A device may hold old bytes: only new files have holes.
        if context.request.zeros == Zeros::Skip && file.node.is_some() {
            return nonzero_parts(plain, offset).try_for_each(|part| open.write_all_at(&plain[part.clone()], offset + part.start as u64));
        }
        open.write_all_at(plain, offset)?;
        start_writeback(&open, offset, plain.len());
        Ok(())
    });
    match result {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Err(full(context, &file.path, &error))
        }
        Err(error) if file.node.is_none() => Err(Error::Refused(format!("cannot write to {}: {error}", file.path.display()))),
        Err(error) => {
            if !file.is_damaged.swap(true, Ordering::Relaxed) {
                context.error(&file.path, &format!("cannot be written: {error}"));
            }
            Ok(())
        }
    }
}

/// Small pieces are left to the kernel.
const WRITEBACK_FROM: usize = 256 << 10;

/// So far behind the piece in hand, a file is on disk by now.
const WRITTEN_BEHIND: u64 = 64 << 20;
/// So much of it is let go of with each piece: far more than a piece, for they do not come in order.
const LET_GO: u64 = 32 << 20;

/// Has the kernel begin to write a piece to disk, so that little is left to wait for at the end, and lets go of what was
/// written before: a restore should not push everything else out of memory, and reuses its own.
fn start_writeback(file: &std::fs::File, offset: u64, length: usize) {
    if length >= WRITEBACK_FROM {
        let_go(file, offset, length as u64);
        if let Some(behind) = offset.checked_sub(WRITTEN_BEHIND) {
            let_go(file, behind.saturating_sub(LET_GO), LET_GO);
        }
    }
}

/// Lets go of a part of a file in memory.
pub(super) fn let_go(file: &std::fs::File, offset: u64, length: u64) {
    // Advice: whether it is taken changes nothing.
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(length), rustix::fs::Advice::DontNeed);
}

/// The end of a restore that found no room.
pub(super) fn full(context: &Context<'_>, path: &Path, error: &io::Error) -> Error {
    let target = context.request.target.display();
    Error::Refused(format!(
        "cannot write {}: {error}; {target} is too small: what is there is incomplete, restore into more room",
        path.display()
    ))
}

/// The parts of a blob, between page borders of the file, that are not all zeros.
fn nonzero_parts(plain: &[u8], offset: u64) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
    let mut from = 0;
    while from < plain.len() {
        let to_border = usize::try_from(PAGE - (offset + from as u64) % PAGE).expect("at most a page");
        let to = (from + to_border).min(plain.len());
        if plain[from..to].iter().any(|&byte| byte != 0) {
            match parts.last_mut() {
                Some(last) if last.end == from => last.end = to,
                _ => parts.push(from..to),
            }
        }
        from = to;
    }
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one part")]
    fn holes_lie_between_page_borders_of_the_file() {
        let mut plain = vec![0; 20_000];
        plain[5000] = 1;
        assert_eq!(nonzero_parts(&plain, 0).collect::<Vec<_>>(), [4096..8192]);
        assert_eq!(nonzero_parts(&plain, 96).collect::<Vec<_>>(), [4000..8096]);
        plain[19_999] = 1;
        assert_eq!(nonzero_parts(&plain, 0).collect::<Vec<_>>(), [4096..8192, 16_384..20_000]);
        assert_eq!(nonzero_parts(&[1; 9000], 100).collect::<Vec<_>>(), [0..9000]);
        assert!(nonzero_parts(&[0; 9000], 100).next().is_none());
    }
}
