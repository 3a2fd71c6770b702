//! Files that are there already: what they hold is not fetched again, and only what differs is written.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use repository::crypto::sha256;
use repository::error::{Error, Result};
use repository::parallel;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::batch::{Batch, PlannedFile, State, Want};
use super::target::{OpenDir, Sink, Target};
use super::{Context, RestoreMode, add, fetch};

/// Longer blobs are fetched unseen: no writer of ours makes them.
const MAX_COMPARED: u32 = 8 << 20;

/// Takes what is there already off the list of what is wanted.
pub(super) fn run(context: &Context<'_>, target: Option<&Target>, batch: &mut Batch) -> Result<()> {
    let Batch { files, wants, .. } = batch;
    if files.iter().all(|file| !matches!(file.state, State::InPlace(_))) {
        return Ok(());
    }
    let places: Vec<(usize, AtomicBool)> = wants
        .iter()
        .enumerate()
        .filter(|(_, want)| matches!(files[want.file as usize].state, State::InPlace(_)))
        .map(|(at, _)| (at, AtomicBool::new(false)))
        .collect();
    let begin = || (OpenDir::new(target), Vec::new());
    parallel::each(context.request.shares.workers, &places, begin, |(dirs, buffer), (at, is_there)| {
        if context.repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let want = &wants[*at];
        is_there.store(holds(&files[want.file as usize], want, dirs, buffer), Ordering::Relaxed);
        Ok(())
    })?;
    let mut is_wanted = vec![true; wants.len()];
    places.iter().for_each(|(at, is_there)| is_wanted[*at] = !is_there.load(Ordering::Relaxed));
    let mut differs: Vec<bool> = files.iter().map(|file| matches!(file.state, State::InPlace(size) if size != file.size)).collect();
    for (at, _) in &places {
        let (want, length) = (&wants[*at], u64::from(wants[*at].location.blob.plain_len()));
        if is_wanted[*at] {
            differs[want.file as usize] = true;
            add(&context.counts.bytes, length);
        } else {
            add(&context.counts.bytes_in_place, length);
            context.report.progress().add(0, length);
        }
    }
    let mut at = 0;
    wants.retain(|_| {
        at += 1;
        is_wanted[at - 1]
    });
    let mut dirs = OpenDir::new(target);
    for (file, differs) in files.iter().zip(differs).filter(|(file, _)| matches!(file.state, State::InPlace(_))) {
        add(if differs { &context.counts.files } else { &context.counts.skipped }, 1);
        if differs {
            context.plan(contract::Change::Content, &file.path);
            prepare(context, file, &mut dirs)?;
        }
    }
    Ok(())
}

/// Whether a file has a blob where it belongs. One that cannot be read has not.
fn holds(file: &PlannedFile, want: &Want, dirs: &mut OpenDir<'_>, buffer: &mut Vec<u8>) -> bool {
    let State::InPlace(size) = file.state else { return false };
    let blob = &want.location.blob;
    let length = blob.plain_len();
    if length > MAX_COMPARED || want.offset + u64::from(length) > size {
        return false;
    }
    buffer.resize(length as usize, 0);
    file.sink.open(dirs, OFlags::RDONLY).is_ok_and(|open| {
        let is_same = open.read_exact_at(buffer, want.offset).is_ok() && sha256(buffer) == blob.id.0;
        fetch::let_go(&open, want.offset, u64::from(length));
        is_same
    })
}

/// Makes a file as long as it will be; nobody but us may read it until it is whole.
fn prepare(context: &Context<'_>, file: &PlannedFile, dirs: &mut OpenDir<'_>) -> Result<()> {
    if context.request.mode != RestoreMode::Write || matches!(file.sink, Sink::Device(_)) {
        return Ok(());
    }
    let prepared = file.sink.open(dirs, OFlags::WRONLY).and_then(|open| {
        let before = Mode::from_raw_mode(rustix::fs::fstat(&*open)?.st_mode);
        // Of files that belong to others, those who may write may not always say who reads.
        let _ = rustix::fs::fchmod(&*open, Mode::RUSR | Mode::WUSR);
        let sized = rustix::fs::ftruncate(&*open, file.size);
        match sized {
            Ok(()) => file.is_begun.store(true, Ordering::Relaxed),
            Err(_) => drop(rustix::fs::fchmod(&*open, before)),
        }
        sized
    });
    match prepared {
        Err(Errno::NOSPC | Errno::DQUOT) => Err(fetch::full(context, &file.path, &std::io::ErrorKind::StorageFull.into())),
        Err(error) => {
            // It is as it was.
            file.is_damaged.store(true, Ordering::Relaxed);
            context.error(&file.path, &format!("cannot be written to: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
