//! Hashes chunks and stores those that are not known.

use crossbeam_channel::Receiver;
use repository::crypto::sha256;
use repository::format::BlobKind;
use repository::id::BlobId;

use super::file::Chunk;
use super::{Context, PanicGuard};

pub(super) fn run(context: &Context<'_>, chunks_rx: &Receiver<Chunk>) {
    let _guard = PanicGuard(context);
    let mut sealer = context.writer.sealer();
    for chunk in chunks_rx {
        if context.is_over() {
            return;
        }
        let id = BlobId(sha256(&chunk.bytes));
        if let Err(error) = context.writer.store(&mut sealer, BlobKind::Data, id, &chunk.bytes) {
            return context.fail(error);
        }
        chunk.file.stored(chunk.position, id);
        context.report.progress().add(0, chunk.bytes.len() as u64);
    }
}
