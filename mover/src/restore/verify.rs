//! Reads back what was written and compares it, chunk by chunk, with what the snapshot says.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use repository::crypto::sha256;
use repository::error::{Error, Result};
use repository::format::BlobKind;
use rustix::fs::OFlags;

use super::batch::{Batch, PlannedFile};
use super::target::{OpenDir, Target};
use super::{Context, ReadBack, add};

pub(super) fn run(context: &Context<'_>, target: Option<&Target>, batch: &Batch) -> Result<()> {
    if context.request.read_back == ReadBack::No {
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut dirs, mut buffer) = (OpenDir::new(target), Vec::new());
        while let Some(file) = batch.files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if context.repository.stop().is_stopped() {
                return;
            }
            if !file.is_damaged.load(Ordering::Relaxed)
                && let Err(why) = compare(context, &mut dirs, file, &mut buffer)
            {
                context.error(&file.path, &format!("differs from the snapshot after it was written: {why}"));
            }
        }
    };
    std::thread::scope(|scope| (0..context.request.shares.workers).for_each(|_| drop(scope.spawn(work))));
    if context.repository.stop().is_stopped() { Err(Error::Stopped) } else { Ok(()) }
}

fn compare(context: &Context<'_>, dirs: &mut OpenDir<'_>, file: &PlannedFile, buffer: &mut Vec<u8>) -> Result<(), String> {
    let open = file.sink.open(dirs, OFlags::RDONLY).map_err(|error| error.to_string())?;
    let mut offset = 0;
    for id in &file.content {
        let length = context.index.location(id, BlobKind::Data).map_or(0, |location| location.blob.plain_len());
        buffer.resize(length as usize, 0);
        open.read_exact_at(buffer, offset).map_err(|error| error.to_string())?;
        if sha256(buffer) != id.0 {
            return Err(format!("{length} bytes at {offset}"));
        }
        offset += u64::from(length);
    }
    add(&context.counts.verified_bytes, offset);
    Ok(())
}
