//! Reads back what was written and compares it, chunk by chunk, with what the snapshot says.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use repository::crypto::sha256;
use repository::error::Result;
use repository::format::BlobKind;
use rustix::fs::OFlags;

use super::batch::{Batch, PlannedFile, State};
use super::target::{OpenDir, Target};
use super::{Context, ReadBack, add};

pub(super) fn run(context: &Context<'_>, target: Option<&Target>, batch: &Batch) -> Result<()> {
    if context.request.read_back == ReadBack::No {
        return Ok(());
    }
    batch.for_each_whole_file(context, target, |dirs, file| {
        if let Err(why) = compare(context, dirs, file) {
            // Without the time of the one in the snapshot, nobody believes it next time.
            file.is_damaged.store(file.state != State::Kept, Ordering::Relaxed);
            let what = match file.state {
                State::New | State::InPlace(_) => "differs from the snapshot after it was written",
                State::Kept => "was kept, but differs from the snapshot",
            };
            context.error(&file.path, &format!("{what}: {why}"));
        }
    })
}

fn compare(context: &Context<'_>, dirs: &mut OpenDir<'_>, file: &PlannedFile) -> Result<(), String> {
    let open = file.sink.open(dirs, OFlags::RDONLY).map_err(|error| error.to_string())?;
    let (mut offset, mut buffer) = (0, Vec::new());
    for id in &file.content {
        let length = context.index.location(id, BlobKind::Data).map_or(0, |location| location.blob.plain_len());
        buffer.resize(length as usize, 0);
        open.read_exact_at(&mut buffer, offset).map_err(|error| error.to_string())?;
        if sha256(&buffer) != id.0 {
            return Err(format!("{length} bytes at {offset}"));
        }
        offset += u64::from(length);
    }
    add(&context.counts.verified_bytes, offset);
    Ok(())
}
