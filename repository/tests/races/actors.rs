//! Those who meet, and what they do.

use std::sync::Arc;
use std::time::Duration;

use repository::Repository;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::index::Index;
use repository::lock::Lock;
use repository::prune::{self, MaxUnused, Options, Outcome, Way};
use repository::read::{BlobOpener, Trees};
use repository::repair::{Mode, index};
use repository::snapshots::Filter;

use crate::common;
use crate::meeting::{Actor, FILES};

pub const BACKUP: Actor = ("backup", |repository| common::backup(repository, FILES, 7).map(drop));
/// What a backup relies on may be needed by nothing else from now on.
pub const FORGET_AND_PRUNE: Actor = ("forget all and prune", |repository| {
    forget_all(repository)?;
    pruned(repository).map(drop)
});
pub const FORGET: Actor = ("forget all", forget_all);
pub const PRUNE: Actor = ("prune", |repository| pruned(repository).map(drop));
pub const READ: Actor = ("read", read);
/// As stock restic does it, of what was in the first run: it knows of no lists.
pub const STOCK: Actor = ("stock backup", |repository| common::backup_under(LockMode::Shared, repository, FILES, 1).map(drop));
/// After which packs are named again that a prune has begun to remove.
pub const REPAIR: Actor = ("repair index", |repository| {
    let lock = Lock::acquire(repository, LockMode::Exclusive, Duration::ZERO)?;
    index::run(repository, Mode::Apply)?;
    lock.release()
});
pub const REPAIR_AND_STOCK: Actor = ("repair index, and stock backup", |repository| {
    REPAIR.1(repository)?;
    STOCK.1(repository)
});
pub const TAG: Actor = ("tag", |repository| {
    let lock = Lock::acquire(repository, LockMode::Exclusive, Duration::ZERO)?;
    let all = repository.snapshots(&Filter::default())?;
    all.iter().try_for_each(|stored| repository.tag_snapshot(stored, vec!["tag".to_owned()], &all).map(drop))?;
    lock.release()
});

pub fn forget_all(repository: &Arc<Repository>) -> repository::Result<()> {
    let lock = Lock::acquire(repository, LockMode::Shared, Duration::ZERO)?;
    repository.snapshot_ids()?.into_iter().try_for_each(|id| repository.remove_snapshot(id))?;
    lock.release()
}

pub fn options() -> Options {
    let shares = common::shares();
    Options { max_unused: MaxUnused::Bytes(0), max_repack_bytes: u64::MAX, shares, batch_blobs: 15, may_empty: true }
}

pub fn pruned(repository: &Arc<Repository>) -> repository::Result<Outcome> {
    prune::run(repository, &options(), Way::Beside, Duration::ZERO, common::UNWATCHED)
}

/// Restores the newest snapshot to nowhere. Whoever has begun misses nothing.
pub fn read(repository: &Arc<Repository>) -> repository::Result<()> {
    let look = |_: &_| Ok((repository.snapshots(&Filter::default())?.pop(), Index::load(repository, 1 << 30)?));
    let (lock, (newest, index)) = Lock::acquire_and(repository, LockMode::Shared, Duration::ZERO, look)?;
    let index = Arc::new(index);
    let (trees, mut opener) = (Trees::new(repository, &index, 1 << 20), BlobOpener::new(repository));
    let mut waiting: Vec<_> = newest.into_iter().map(|stored| stored.snapshot.tree).collect();
    while let Some(tree) = waiting.pop() {
        let mut nodes = trees.open(&tree)?;
        while let Some(node) = nodes.next_node()? {
            for id in node.content.into_iter().flatten() {
                repository.read_blob(&index, &mut opener, &id, BlobKind::Data)?;
            }
            waiting.extend(node.subtree);
        }
    }
    lock.release()
}
