//! Trees that are written again, and trees that must not be: large ones, and those of other programs.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use repository::check::Counts;
use repository::compress::Compression;
use repository::copy::{self, Watcher};
use repository::crypto::sha256;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::format::node::{Node, NodeKind};
use repository::format::pack::PackedBlob;
use repository::id::{BlobId, ObjectId};
use repository::index::Index;
use repository::lock::Lock;
use repository::object::{ObjectKind, ObjectName};
use repository::prune::{self, MaxUnused, Way};
use repository::repair::{Mode, packs, snapshots};
use repository::rewrite::{Outcome, Rewriter, Rules};
use repository::snapshots::Filter;
use repository::store::Store;
use repository::store::memory::MemoryStore;
use repository::write::{TreeWriter, Verify, WriteMode, WriteOptions, Writer};
use repository::{Error, Repository};

/// A snapshot of the tree that `make` stores.
fn save(store: &MemoryStore, make: impl FnOnce(&Writer) -> BlobId) -> ObjectId {
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    let index = Arc::new(Index::load(&repository, 1 << 30).unwrap());
    let options =
        WriteOptions { shares: common::shares(), compression: Compression::Default, verify: Verify::Sealed, mode: WriteMode::Store };
    let writer = Writer::start(&repository, &index, options).unwrap();
    let tree = make(&writer);
    let (committed, _) = writer.finish().unwrap();
    let id = repository.save_snapshot(&common::snapshot(tree), &committed).unwrap();
    lock.release().unwrap();
    id
}

fn empty() -> MemoryStore {
    let store = MemoryStore::default();
    drop(common::init(Arc::new(store.clone())));
    store
}

/// Forty thousand entries: 12 MB, more than is held in memory where it can be helped.
fn large() -> MemoryStore {
    let store = empty();
    save(&store, |writer| {
        let mut tree = TreeWriter::default();
        for i in 0..40_000_u32 {
            let target = format!("{i}").repeat(40).into_bytes();
            tree.push(&Node { link_target: target, ..Node::new(format!("link-{i:06}").into_bytes(), NodeKind::Symlink) }).unwrap();
        }
        tree.finish(writer, &mut writer.sealer()).unwrap().0
    });
    store
}

struct Unwatched;

impl Watcher for Unwatched {
    fn planned(&self, _: u64) {}
    fn copied(&self, _: u64) {}
}

fn repair_packs(store: &MemoryStore) -> repository::Result<packs::Wrong> {
    packs::run(&common::open(Arc::new(store.clone())), &[], Mode::Look, common::shares(), &Counts::default())
}

#[test]
fn a_large_directory_is_checked_copied_and_packed_again() {
    let store = large();
    let repository = common::open(Arc::new(store.clone()));
    assert_eq!(common::findings(&repository), []);
    assert!(repair_packs(&store).unwrap().damaged.is_empty());
    let target = empty();
    let to = common::open(Arc::new(target.clone()));
    let lock = Lock::acquire(&to, LockMode::Shared, Duration::ZERO).unwrap();
    let all = repository.snapshots(&Filter::default()).unwrap();
    let copied = copy::run(&repository, &to, &all, common::shares(), WriteMode::Store, &Unwatched).unwrap();
    lock.release().unwrap();
    assert_eq!((copied.saved.len(), copied.blobs), (1, 1));
    assert_eq!(common::findings(&common::open(Arc::new(target))), []);
    // One flipped bit is found all the same.
    let index = Index::load(&repository, 1 << 30).unwrap();
    let pack = index.by_pack().into_iter().max_by_key(|pack| pack.blobs.iter().map(PackedBlob::plain_len).max()).unwrap();
    assert!(pack.blobs.iter().any(|blob| blob.plain_len() > 8 << 20));
    common::change(&store, &ObjectName::pack(pack.id), |bytes| bytes[10_000] ^= 1);
    assert_eq!(repair_packs(&store).unwrap().lost.len(), 1);
}

/// Half of what its pack holds goes, so that the rest is packed again.
#[test]
fn a_large_directory_beside_rubbish_is_packed_again() {
    let store = large();
    let options = |max_unused| prune::Options {
        max_unused,
        max_repack_bytes: u64::MAX,
        shares: common::shares(),
        batch_blobs: prune::BATCH_BLOBS,
        may_empty: false,
    };
    // The same once more, which nobody saw: of two copies one goes, and the other is read before.
    let names = store.names(ObjectKind::Index).unwrap().into_iter();
    let hidden: Vec<_> = names.map(|name| (name, store.objects.lock().unwrap().remove(&name).unwrap())).collect();
    let again = large();
    let (from, to) = (common::open(Arc::new(again)), common::open(Arc::new(store.clone())));
    let lock = Lock::acquire(&to, LockMode::Shared, Duration::ZERO).unwrap();
    let all = from.snapshots(&Filter::default()).unwrap();
    copy::run(&from, &to, &all, common::shares(), WriteMode::Store, &Unwatched).unwrap();
    lock.release().unwrap();
    store.objects.lock().unwrap().extend(hidden);
    let repository = common::open(Arc::new(store.clone()));
    let outcome = prune::run(&repository, &options(MaxUnused::Bytes(0)), Way::Alone, Duration::ZERO, common::UNWATCHED).unwrap();
    assert!(!outcome.planned.is_empty());
    assert_eq!(store.names(ObjectKind::Pack).unwrap().len(), 1);
    assert_eq!(common::findings(&common::open(Arc::new(store))), []);
}

/// A tree as another program wrote it.
fn foreign(json: &str) -> MemoryStore {
    let store = empty();
    save(&store, |writer| {
        let id = BlobId(sha256(json.as_bytes()));
        writer.store(&mut writer.sealer(), BlobKind::Tree, id, json.as_bytes()).unwrap();
        id
    });
    store
}

/// Leaves out one name.
struct Without(&'static [u8]);

impl Rules for Without {
    fn stays(&mut self, _: &[u8], node: &mut Node) -> repository::Result<bool> {
        Ok(node.name != self.0)
    }
}

fn rewrite(store: &MemoryStore, name: &'static [u8]) -> repository::Result<Outcome> {
    let repository: Arc<Repository> = common::open(Arc::new(store.clone()));
    let index = Arc::new(Index::load(&repository, 1 << 30)?);
    let mut rewriter = Rewriter::start(&repository, &index, common::shares(), WriteMode::DryRun)?;
    let stored = repository.snapshots(&Filter::default())?.remove(0);
    rewriter.snapshot(&stored, &mut Without(name))
}

#[test]
fn what_another_program_knows_is_not_lost_here() {
    let link = |name: &str, more: &str| {
        format!(
            r#"{{"name":"{name}","type":"symlink","mode":134218239,"mtime":"2026-01-02T03:04:05Z","atime":"2026-01-02T03:04:05Z","ctime":"2026-01-02T03:04:05Z","uid":0,"gid":0,"links":1,"linktarget":"x"{more},"content":null}}"#
        )
    };
    let tree = |more: &str| format!("{{\"nodes\":[{},{}]}}\n", link("a", more), link("b.tmp", ""));
    // As restic writes it: all of it is known.
    let known = foreign(&tree(""));
    assert_eq!(rewrite(&known, b"b.tmp").unwrap(), Outcome::Changed);
    assert_eq!(rewrite(&known, b"nothing").unwrap(), Outcome::Same);
    // A field that only its writer knows.
    let attributes = foreign(&tree(r#","generic_attributes":{"windows.creation_time":"x"}"#));
    assert!(matches!(rewrite(&attributes, b"b.tmp"), Err(Error::Refused(why)) if why.contains("does not know")));
    assert_eq!(rewrite(&attributes, b"nothing").unwrap(), Outcome::Same);
    // An entry of a kind that is not known: its directory is whole, and nobody calls it lost.
    let kind = foreign(&tree("").replacen("symlink", "irregular", 1));
    let repository = common::open(Arc::new(kind));
    let all = repository.snapshots(&Filter::default()).unwrap();
    let lost = AtomicU64::new(0);
    let on_lost = |_: &ObjectId, _: &[u8], _: &str| {
        lost.fetch_add(1, Ordering::Relaxed);
    };
    let repaired = snapshots::run(&repository, &all, Mode::Look, common::shares(), &on_lost);
    assert!(matches!(repaired, Err(Error::Refused(why)) if why.contains("cannot be written again by this program")));
    assert_eq!(lost.into_inner(), 0);
}

/// Nothing of a snapshot without its root can be saved: it is not replaced by an empty one.
#[test]
fn a_lost_root_is_not_an_empty_snapshot() {
    let store = common::healthy();
    let repository = common::open(Arc::new(store.clone()));
    let all = repository.snapshots(&Filter::default()).unwrap();
    let index = Index::load(&repository, 1 << 30).unwrap();
    let root = index.location(&all[0].snapshot.tree, BlobKind::Tree).unwrap();
    common::change(&store, &ObjectName::pack(root.pack.id), |bytes| bytes[root.blob.offset as usize + 20] ^= 1);
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    let repaired = snapshots::run(&repository, &all, Mode::Apply, common::shares(), &|_, _, _| {}).unwrap();
    lock.release().unwrap();
    assert_eq!((repaired.lost, repaired.saved), (vec![all[0].id], vec![]));
    assert_eq!(store.names(ObjectKind::Snapshot).unwrap().len(), 2);
}
