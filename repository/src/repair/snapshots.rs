//! Snapshots that lack something: each again, without what is lost. The old ones stay until somebody removes them.

use std::sync::Arc;

use super::Mode;
use crate::budget::Shares;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::node::{Node, NodeKind};
use crate::id::ObjectId;
use crate::index::Index;
use crate::object::ObjectName;
use crate::repository::Repository;
use crate::retention::INCOMPLETE_TAG;
use crate::rewrite::{Outcome, Rewriter, Rules};
use crate::snapshots::Stored;
use crate::write::WriteMode;

/// Told of each thing that is lost: of which snapshot, where, and why.
pub type OnLost<'a> = &'a dyn Fn(&ObjectId, &[u8], &str);

/// What became of snapshots.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Those that lack something.
    pub incomplete: Vec<ObjectId>,
    /// Those whose root cannot be read: they stay as they are.
    pub lost: Vec<ObjectId>,
    /// In the places of the incomplete ones; none where nothing was changed.
    pub saved: Vec<(ObjectId, ObjectId)>,
}

/// Looks at these snapshots. To apply it takes a shared lock.
///
/// # Errors
/// Those of the store; a damaged index, which is to be repaired before.
pub fn run(repository: &Arc<Repository>, snapshots: &[Stored], mode: Mode, shares: Shares, on_lost: OnLost<'_>) -> Result<Repaired> {
    let index = Arc::new(Index::load(repository, shares.index_bytes)?);
    let stored = repository.stored_packs()?;
    // What is stored again relies on what the index says.
    if let Some(wrong) = index.packs().iter().find(|pack| stored.get(&pack.id) != Some(&pack.size)) {
        let name = ObjectName::pack(wrong.id);
        return Err(repository.damaged(&name, "the index names it, and it is not there as it says: `mover repair index` comes first"));
    }
    let write = if mode == Mode::Apply { WriteMode::Store } else { WriteMode::DryRun };
    let mut rewriter = Rewriter::start(repository, &index, shares, write)?;
    let mut repaired = Repaired::default();
    for snapshot in snapshots {
        let mut rules = WhatIsThere { index: &index, snapshot: &snapshot.id, on_lost };
        match rewriter.snapshot(snapshot, &mut rules)? {
            Outcome::Same => {}
            Outcome::Changed => repaired.incomplete.push(snapshot.id),
            Outcome::Lost => repaired.lost.push(snapshot.id),
        }
    }
    repaired.saved = rewriter.finish(|snapshot| {
        if !snapshot.tags.iter().any(|tag| tag == INCOMPLETE_TAG) {
            snapshot.tags.push(INCOMPLETE_TAG.to_owned());
        }
    })?;
    Ok(repaired)
}

struct WhatIsThere<'a> {
    index: &'a Index,
    snapshot: &'a ObjectId,
    on_lost: OnLost<'a>,
}

impl Rules for WhatIsThere<'_> {
    fn stays(&mut self, path: &[u8], node: &mut Node) -> Result<bool> {
        let lose = |why: &str| {
            (self.on_lost)(self.snapshot, path, why);
            Ok(false)
        };
        if node.kind == NodeKind::Dir && node.subtree.is_none() {
            return lose("is a directory without a tree");
        }
        if node.kind != NodeKind::File {
            return Ok(true);
        }
        let Some(content) = &node.content else { return lose("is a file without content") };
        let mut size = 0;
        for id in content {
            let Some(place) = self.index.location(id, BlobKind::Data) else { return lose(&format!("blob {} is lost", id.short())) };
            size += u64::from(place.blob.plain_len());
        }
        if size != node.size {
            (self.on_lost)(self.snapshot, path, &format!("says {} bytes, and its content has {size}: it stays, with that size", node.size));
            node.size = size;
        }
        Ok(true)
    }

    fn lose(&mut self, path: &[u8], error: Error) -> Result<()> {
        (self.on_lost)(self.snapshot, path, &format!("what is in it is lost: {error}"));
        Ok(())
    }

    fn is_the_same_everywhere(&self) -> bool {
        true
    }

    // What is lost is worse.
    fn may_lose_fields(&self) -> bool {
        true
    }
}
