//! A file of a snapshot, or a directory as a tar archive, as one stream.
//!
//! ```text
//!  walk the trees ──► headers and blobs, in order (tar) ──► groups: one range of a pack each (feed)
//!                 ──► threads that fetch, open and hash ──► in order again ──► out
//! ```

mod feed;
mod tar;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use repository::Repository;
use repository::budget::Shares;
use repository::error::{Error, Result};
use repository::format::BlobKind;
use repository::format::node::Node;
use repository::format::snapshot::Snapshot;
use repository::id::BlobId;
use repository::index::{Index, Location};
use repository::read::{MAX_BLOB, Trees};

use self::feed::Feed;
use crate::cli::exit::CommandError;
use crate::report::Report;
use crate::restore::{Found, find_root};

/// What is written out.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// Part of the snapshot; none: what a restore would restore.
    pub(crate) path: Option<&'a Path>,
    pub(crate) shares: Shares,
}

/// What all parts of one dump share.
struct Context<'a> {
    repository: &'a Arc<Repository>,
    index: &'a Index,
    trees: &'a Trees,
    report: &'a Report,
}

/// Writes it all to `out`, in order. The caller holds a lock.
///
/// # Errors
/// What keeps it from going on; also a blob of which no copy can be read: `out` has been written to until there. Files that are
/// known to lack something before they begin are reported and left out of an archive.
pub(crate) fn run(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    request: &Request<'_>,
    report: &Report,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let trees = Trees::new(repository, index, request.shares.tree_bytes);
    let context = Context { repository, index, trees: &trees, report };
    let memory = request.shares.range_bytes(index);
    if let (None, Some(totals)) = (request.path, &request.snapshot.summary) {
        report.progress().set_totals(totals.total_files_processed, totals.total_bytes_processed);
    }
    match find_root(&trees, request.snapshot, request.path)? {
        Found::Dir { tree, node } => feed::run(&context, memory, out, |feed| tar::write(&context, feed, &tree, node.as_deref())),
        Found::File(node) => {
            is_whole(&context, &node).map_err(CommandError::usage)?;
            feed::run(&context, memory, out, |feed| feed.file(&context, &node))
        }
    }
}

/// Where a blob lies, unless it is what no writer makes.
fn locate(context: &Context<'_>, id: &BlobId) -> Result<Location> {
    let location = context.index.location(id, BlobKind::Data).filter(|location| location.blob.stored <= MAX_BLOB);
    location.ok_or(Error::MissingBlob { id: *id, kind: BlobKind::Data })
}

/// Whether all blobs of a file are named, and make its size; in words, why not.
fn is_whole(context: &Context<'_>, node: &Node) -> Result<(), String> {
    let mut size = 0;
    for id in node.content.iter().flatten() {
        size += u64::from(locate(context, id).map_err(|error| error.to_string())?.blob.plain_len());
    }
    if size == node.size { Ok(()) } else { Err(format!("the snapshot says {} bytes, its content has {size}", node.size)) }
}

impl Feed<'_> {
    fn file(&mut self, context: &Context<'_>, node: &Node) -> Result<()> {
        node.content.iter().flatten().try_for_each(|id| self.blob(locate(context, id)?))?;
        context.report.progress().add(1, 0);
        Ok(())
    }
}
