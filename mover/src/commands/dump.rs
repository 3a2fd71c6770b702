//! `mover dump`.

use std::io::Write;
use std::sync::Arc;

use contract::ExitCode;
use repository::error::Error;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::format::node::NodeKind;
use repository::index::Index;
use repository::lock::Lock;
use repository::read::{BlobOpener, Trees};

use super::filter;
use crate::cli::args::Dump;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::restore::find_node;

pub(super) fn run(settings: &Settings, args: Dump) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    let lock = Lock::acquire(&repository, LockMode::Shared, settings.retry_lock)?;
    let found = repository.find_snapshot(&args.snapshot, &filter(args.filter, None))?;
    let index = Arc::new(Index::load(&repository, settings.shares.index_bytes)?);
    let trees = Trees::new(&repository, &index, settings.shares.tree_bytes);
    let node = find_node(&trees, &found.snapshot, &args.path)?;
    let (content, size) = match node {
        Some(node) if node.kind == NodeKind::File => (node.content.unwrap_or_default(), node.size),
        _ => return Err(CommandError::usage(format!("{} is not a file in snapshot {}", args.path.display(), found.id.short()))),
    };
    let mut opener = BlobOpener::new(&repository);
    let mut out = std::io::stdout().lock();
    let mut written = 0;
    for id in content {
        if settings.stop.is_stopped() {
            return Err(Error::Stopped.into());
        }
        let plain = repository.read_blob(&index, &mut opener, &id, BlobKind::Data)?;
        out.write_all(&plain)?;
        written += plain.len() as u64;
    }
    out.flush()?;
    if written != size {
        return Err(CommandError::usage(format!("the snapshot says {size} bytes, and the file's content has {written}")));
    }
    lock.release()?;
    Ok(ExitCode::Success)
}
