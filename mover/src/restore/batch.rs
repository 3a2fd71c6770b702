//! What is planned together, fetched together, and then done.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use repository::error::{Error, Result};
use repository::format::node::Node;
use repository::id::BlobId;
use repository::index::Location;
use repository::parallel;

use super::Context;
use super::delete::Extra;
use super::target::{OpenDir, Sink, Target, TargetDir};

/// A file whose content is to be written.
#[derive(Debug)]
pub(super) struct PlannedFile {
    pub(super) sink: Sink,
    /// Its metadata; none for a device.
    pub(super) node: Option<Box<Node>>,
    /// For messages.
    pub(super) path: PathBuf,
    /// What it consists of.
    pub(super) content: Vec<BlobId>,
    /// Bytes that it has.
    pub(super) size: u64,
    pub(super) state: State,
    /// What is there by now is neither the old nor the new one.
    pub(super) is_begun: AtomicBool,
    /// It cannot be whole.
    pub(super) is_damaged: AtomicBool,
}

impl PlannedFile {
    pub(super) fn new(sink: Sink, node: Option<Box<Node>>, path: PathBuf, content: Vec<BlobId>, size: u64, state: State) -> Self {
        let is_begun = AtomicBool::new(state == State::New);
        Self { sink, node, path, content, size, state, is_begun, is_damaged: AtomicBool::new(false) }
    }
}

/// What stands where a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing that is of use: it is written from end to end.
    New,
    /// A file, or a device, of so many bytes: what differs is written into it.
    InPlace(u64),
    /// A file that is believed to be the same: its content is looked at, at most.
    Kept,
}

/// A blob and one place where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) location: Location,
    /// Position in the batch's files.
    pub(super) file: u32,
    pub(super) offset: u64,
}

/// What is worked off together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) files: Vec<PlannedFile>,
    pub(super) wants: Vec<Want>,
    /// Further names of files: made when it is known that the file is whole.
    pub(super) links: Vec<PlannedLink>,
    /// What is not in the snapshot, and goes last.
    pub(super) extras: Vec<Extra>,
}

impl Batch {
    /// Does something with every whole file, on all cores.
    pub(super) fn for_each_whole_file(
        &self,
        context: &Context<'_>,
        target: Option<&Target>,
        act: impl Fn(&mut OpenDir<'_>, &PlannedFile) + Sync,
    ) -> Result<()> {
        let begin = || OpenDir::new(target);
        parallel::each(context.request.shares.workers, &self.files, begin, |dirs, file| {
            if context.repository.stop().is_stopped() {
                return Err(Error::Stopped);
            }
            if !file.is_damaged.load(Ordering::Relaxed) {
                act(dirs, file);
            }
            Ok(())
        })
    }
}

/// A further name of a file.
#[derive(Debug)]
pub(super) struct PlannedLink {
    pub(super) first: (Arc<TargetDir>, CString),
    pub(super) dir: Arc<TargetDir>,
    pub(super) name: CString,
}
