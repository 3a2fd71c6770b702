//! `mover dump`.

use std::io::Write;

use contract::ExitCode;
use repository::error::Error;
use repository::format::BlobKind;
use repository::format::node::NodeKind;
use repository::read::{BlobOpener, Trees};

use super::{Opened, open};
use crate::cli::args::Dump;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::restore::find_node;

pub(super) fn run(settings: &Settings, args: Dump) -> Result<ExitCode, CommandError> {
    let Opened { repository, lock, stored: found, index } = open(settings, &args.snapshot, args.filter, None)?;
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
