//! A file on its way through the pipeline: its chunks come back in any order, its node when the last one has.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use repository::budget::Pooled;
use repository::format::node::Node;
use repository::id::BlobId;

/// Shared by the reader, the workers that have its chunks, and the assembler that waits for it.
#[derive(Debug, Default)]
pub(super) struct FileState {
    inner: Mutex<Inner>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    ids: Vec<BlobId>,
    outstanding: usize,
    ended: Option<Ended>,
}

/// How reading ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// All was read; the node lacks its content.
    Read(Box<Node>),
    /// It could not be read; that was reported.
    Failed,
}

/// A chunk on its way to a worker.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Pooled,
    pub(super) file: Arc<FileState>,
    pub(super) position: usize,
}

/// How often a waiting thread looks whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl FileState {
    /// Room for one more chunk; its position.
    pub(super) fn expect_chunk(&self) -> usize {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.ids.push(BlobId([0; 32]));
        inner.outstanding += 1;
        inner.ids.len() - 1
    }

    /// A chunk whose id is known without storing anything.
    pub(super) fn add_known(&self, id: BlobId) {
        self.inner.lock().expect("no holder panics").ids.push(id);
    }

    /// A chunk is stored.
    pub(super) fn stored(&self, position: usize, id: BlobId) {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.ids[position] = id;
        inner.outstanding -= 1;
        if inner.outstanding == 0 && inner.ended.is_some() {
            self.done.notify_all();
        }
    }

    /// No more chunks will come.
    pub(super) fn end(&self, ended: Ended) {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.ended = Some(ended);
        if inner.outstanding == 0 {
            self.done.notify_all();
        }
    }

    /// Waits for the last chunk. `None` if the file could not be read, or all is over.
    pub(super) fn wait(&self, is_over: impl Fn() -> bool) -> Option<Node> {
        let mut inner = self.inner.lock().expect("no holder panics");
        while inner.ended.is_none() || inner.outstanding > 0 {
            if is_over() {
                return None;
            }
            inner = self.done.wait_timeout(inner, LOOK_EVERY).expect("no holder panics").0;
        }
        match inner.ended.take()? {
            Ended::Read(mut node) => {
                node.content = Some(std::mem::take(&mut inner.ids));
                Some(*node)
            }
            Ended::Failed => None,
        }
    }
}
