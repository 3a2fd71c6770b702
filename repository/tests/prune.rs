//! Pruning: what no snapshot needs goes, what one needs stays, at every moment and after every crash.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use repository::clock::SystemClock;
use repository::format::BlobKind;
use repository::format::index::IndexFile;
use repository::format::lock::LockMode;
use repository::format::unpacked;
use repository::id::{BlobId, ObjectId};
use repository::index::Index;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::{Object, ObjectKind, ObjectName};
use repository::prune::{self, MaxUnused, Options, Outcome, Planned, Retained, Watch, Way};
use repository::read::{BlobOpener, Trees};
use repository::snapshots::Filter;
use repository::store::memory::MemoryStore;
use repository::store::record::{Change, Event, Recording, after_crash};
use repository::store::{PutMode, Retention, RetentionMode, Store};
use repository::{Error, Repository};

/// A lock of a run that is gone is left alone for so long.
const STALE: Duration = Duration::from_secs(31 * 60);

fn options(max_unused: MaxUnused) -> Options {
    // Small batches, so that there are some.
    Options { max_unused, max_repack_bytes: u64::MAX, shares: common::shares(), batch_blobs: 15, may_empty: false }
}

fn prune(store: &(impl Store + Clone + 'static), max_unused: MaxUnused) -> repository::Result<Planned> {
    let repository = common::open(Arc::new(store.clone()));
    let repacked = AtomicU64::new(0);
    let on_repacked = |bytes| {
        repacked.fetch_add(bytes, Ordering::Relaxed);
    };
    let watch = Watch { on_planned: &|_| {}, on_repacked: &on_repacked };
    let way = Way::of(&repository)?;
    let Outcome { planned, removed, waiting } = prune::run(&repository, &options(max_unused), way, Duration::ZERO, watch)?;
    assert_eq!((repacked.into_inner(), removed, waiting), (planned.packs.repacked(), planned.goes(), None));
    Ok(planned)
}

/// What could be done still; changes nothing.
fn left_to_do(store: &MemoryStore) -> Planned {
    let repository = common::open(Arc::new(store.clone()));
    prune::look(&repository, &options(MaxUnused::Bytes(0))).unwrap()
}

/// A prune goes one way or the other; it comes to the same.
const WAYS: [Way; 2] = [Way::Alone, Way::Beside];

/// A store that makes it go this way.
fn memory(way: Way) -> MemoryStore {
    refusing(way, MemoryStore::default())
}

fn refusing(way: Way, store: MemoryStore) -> MemoryStore {
    if way == Way::Beside { store.refusing_late(Arc::new(SystemClock)) } else { store }
}

/// Three runs, of which the first two are forgotten.
fn mostly_forgotten(way: Way) -> (Recording<MemoryStore>, Arc<Repository>) {
    let store = Recording::new(memory(way));
    drop(common::init(Arc::new(store.clone())));
    let repository = common::open(Arc::new(store.clone()));
    let ids: Vec<_> = (1..=3).map(|seed| common::backup(&common::open(Arc::new(store.clone())), 40, seed).unwrap()).collect();
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    ids[..2].iter().for_each(|id| repository.remove_snapshot(*id).unwrap());
    lock.release().unwrap();
    let repository = common::open(Arc::new(store.clone()));
    (store, repository)
}

#[test]
fn what_nothing_needs_goes_and_the_rest_stays() {
    for way in WAYS {
        let (store, repository) = mostly_forgotten(way);
        let before = prune::look(&repository, &options(MaxUnused::Unlimited)).unwrap();
        assert!(before.packs.repack.is_empty() && before.unused_blobs > 40, "{before:?}");
        let planned = prune(&store, MaxUnused::Bytes(0)).unwrap();
        assert!(!planned.packs.remove.is_empty() && !planned.packs.repack.is_empty(), "{planned:?}");
        // 40 files, two trees.
        assert_eq!((planned.needed_blobs, planned.packs.unused_after()), (42, 0));
        let after = left_to_do(store.inner());
        assert!(after.is_empty() && after.unused_blobs == 0, "{after:?}");
        // Where blobs share a pack, its list is shorter or longer.
        assert!(
            after.bytes_before.abs_diff(planned.bytes_before - planned.goes().bytes + planned.packs.repacked()) < 5_000,
            "{} {}",
            after.bytes_before,
            planned.goes().bytes
        );
        assert!(common::findings(&common::open(Arc::new(store.clone()))).is_empty());
        let again = prune(&store, MaxUnused::Bytes(0)).unwrap();
        assert!(again.is_empty() && again.needed_blobs == 42);
        common::backup(&common::open(Arc::new(store.clone())), 40, 3).unwrap();
        assert!(common::errors(&common::open(Arc::new(store))).is_empty());
    }
}

#[test]
fn as_much_stays_as_may() {
    let (store, repository) = mostly_forgotten(Way::Alone);
    let all = prune::look(&repository, &options(MaxUnused::Bytes(0))).unwrap();
    let few = Options { max_repack_bytes: all.packs.repacked() / 2, ..options(MaxUnused::Bytes(0)) };
    let half = prune::look(&repository, &few).unwrap();
    assert!((1..=few.max_repack_bytes).contains(&half.packs.repacked()), "{half:?}");
    let planned = prune(&store, MaxUnused::Share(0.3)).unwrap();
    let stays = planned.packs.unused_after();
    assert!(stays > 0 && stays as f64 <= 0.3 * (planned.needed_bytes + stays) as f64, "{planned:?}");
}

/// Every moment of three runs, a forgetting and a prune: of what was under way, nothing, everything, or any part may have
/// arrived. Whatever is visible is whole, and the next prune comes to the same end.
#[test]
fn whatever_a_crash_leaves_is_whole_and_the_next_one_goes_on() {
    for way in WAYS {
        let (store, _) = mostly_forgotten(way);
        let began = store.log().len();
        prune(&store, MaxUnused::Bytes(0)).unwrap();
        let log = store.log();
        let snapshots: BTreeSet<ObjectName> = store.inner().names(ObjectKind::Snapshot).unwrap().into_iter().collect();
        let states = common::after_each_crash(&log, began, |events, store| {
            let store = refusing(way, store);
            assert_eq!(store.names(ObjectKind::Snapshot).unwrap().into_iter().collect::<BTreeSet<_>>(), snapshots);
            let found = common::errors(&common::open(Arc::new(store.clone())));
            assert!(found.is_empty(), "after {events} of {} events: {found:?}", log.len());
            store.age_all(STALE);
            unlock(&common::open(Arc::new(store.clone())), UnlockMode::Stale).unwrap();
            prune(&store, MaxUnused::Bytes(0)).unwrap();
            let after = left_to_do(&store);
            assert!(after.is_empty() && after.unused_blobs == 0, "after {events} events: {after:?}");
            let found = common::findings(&common::open(Arc::new(store)));
            assert!(found.is_empty(), "after {events} events and another prune: {found:?}");
        });
        println!("{way:?}: {states} states");
        assert!(states > 100, "only {states} states were looked at");
    }
}

#[test]
fn a_pack_goes_after_all_that_names_it() {
    for way in WAYS {
        let (store, _) = mostly_forgotten(way);
        let began = store.log().len();
        prune(&store, MaxUnused::Bytes(0)).unwrap();
        let log = store.log();
        let mut removed = 0;
        for (position, event) in log.iter().enumerate().skip(began) {
            let Event::Began(_, Change::Delete(name)) = event else { continue };
            if name.kind != ObjectKind::Pack {
                continue;
            }
            // What was under way has not happened: index files that are to go are still there.
            let before = common::open(Arc::new(after_crash(&log, position, |_| false)));
            let index = Index::load(&before, 1 << 30).unwrap();
            assert!(!index.packs().iter().any(|pack| ObjectName::pack(pack.id) == *name), "{name} goes while it is named");
            removed += 1;
        }
        assert!(removed > 20, "{removed}");
    }
}

/// Two index files that name the same packs, and blobs that lie in two packs: what is needed is counted once.
#[test]
fn copies_are_counted_once() {
    for way in WAYS {
        let (store, repository) = mostly_forgotten(way);
        // The same packs again, in one file.
        let mut packs = Vec::new();
        for name in store.inner().names(ObjectKind::Index).unwrap() {
            packs.extend(repository.index_file(&name).unwrap().packs);
        }
        let mut sealed = Vec::new();
        repository.key().seal(&unpacked::encode(IndexFile { packs }.encode(), 2), &mut sealed);
        store.inner().put(&Object::content_named(ObjectKind::Index, Bytes::from(sealed)), PutMode::Replace).unwrap();
        let planned = prune(&store, MaxUnused::Bytes(0)).unwrap();
        assert_eq!(planned.needed_blobs, 42);
        assert!(left_to_do(store.inner()).is_empty());
        assert!(common::findings(&common::open(Arc::new(store))).is_empty());
    }
}

/// Each run writes an index file, and whoever opens the repository reads them all: a prune puts them together, also where there is
/// nothing to remove.
#[test]
fn many_small_index_files_become_one() {
    for way in WAYS {
        let store = memory(way);
        drop(common::init(Arc::new(store.clone())));
        for seed in 1..=12 {
            common::backup(&common::open(Arc::new(store.clone())), 2, seed).unwrap();
        }
        let files = || store.names(ObjectKind::Index).unwrap().len();
        assert_eq!(files(), 12);
        let planned = prune(&store, MaxUnused::Unlimited).unwrap();
        assert_eq!((planned.goes().packs, files()), (0, 1), "{way:?}");
        assert!(left_to_do(&store).is_empty());
        assert!(common::findings(&common::open(Arc::new(store.clone()))).is_empty());
    }
}

#[test]
fn what_is_needed_and_not_there_stops_it_before_anything_is_changed() {
    for way in WAYS {
        let (store, repository) = mostly_forgotten(way);
        let planned = prune::look(&repository, &options(MaxUnused::Bytes(0))).unwrap();
        let names = |kind| store.inner().names(kind).unwrap().into_iter().collect::<BTreeSet<_>>();
        let needed = planned.packs.keep.iter().chain(&planned.packs.repack).next().unwrap().pack.id;
        store.inner().delete(&ObjectName::pack(needed)).unwrap();
        let before = (names(ObjectKind::Pack), names(ObjectKind::Index));
        assert!(matches!(prune(&store, MaxUnused::Bytes(0)), Err(Error::Damaged { .. })));
        assert_eq!((names(ObjectKind::Pack), names(ObjectKind::Index)), before);
        // One that is cut counts as little as one that is gone.
        store
            .inner()
            .put(
                &Object { name: ObjectName::pack(needed), ..Object::content_named(ObjectKind::Pack, Bytes::from_static(b"cut")) },
                PutMode::Replace,
            )
            .unwrap();
        assert!(matches!(prune(&store, MaxUnused::Bytes(0)), Err(Error::Damaged { .. })));
        assert_eq!(names(ObjectKind::Index), before.1);
    }
}

#[test]
fn it_waits_for_nobody_to_write() {
    let (store, repository) = mostly_forgotten(Way::Alone);
    let writes = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    assert!(matches!(prune(&store, MaxUnused::Bytes(0)), Err(Error::Locked { .. })));
    writes.release().unwrap();
    prune(&store, MaxUnused::Bytes(0)).unwrap();
}

/// What cannot be freed is neither removed nor stored again; what can be, is.
#[test]
fn what_is_retained_stays_until_that_ends() {
    let hour = jiff::SignedDuration::from_hours(1);
    for way in WAYS {
        let (store, repository) = mostly_forgotten(way);
        let memory = store.inner();
        let before = left_to_do(memory);
        let (goes, again) = (before.goes(), before.packs.repacked());
        assert!(again > 0 && !before.packs.remove.is_empty());
        let retain = |until| {
            let retention = Retention { mode: RetentionMode::Governance, until };
            let packs = memory.names(ObjectKind::Pack).unwrap();
            packs.iter().for_each(|pack| memory.retain(pack, retention).unwrap());
        };
        let end = jiff::Timestamp::now() + hour;
        retain(end);
        let planned = prune(memory, MaxUnused::Bytes(0)).unwrap();
        assert!(planned.is_versioned && planned.packs.remove.is_empty() && planned.packs.repack.is_empty());
        let Retained { packs, bytes, until } = &planned.retained;
        assert_eq!((packs.len() as u64, *bytes, *until), (goes.packs, goes.bytes - again, Some(end)), "{way:?}");
        // One of them alone, by the store's clock: by ours the others are as well.
        memory.ahead_secs.store(100, Ordering::Relaxed);
        retain(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(50));
        let kept = before.packs.remove[0].pack;
        memory.retain(&ObjectName::pack(kept.id), Retention { mode: RetentionMode::Compliance, until: end }).unwrap();
        let planned = prune(memory, MaxUnused::Bytes(0)).unwrap();
        assert_eq!((planned.retained.packs.len(), planned.retained.bytes), (1, kept.size), "{way:?}");
        assert_eq!(planned.goes().packs, goes.packs - 1);
        assert_eq!(left_to_do(memory).goes(), prune::Removed::default());
        assert_eq!(common::errors(&repository).len(), 0);
    }
}

/// The content that snapshots need and that can be read.
fn readable(store: &MemoryStore) -> BTreeSet<BlobId> {
    let repository = common::open(Arc::new(store.clone()));
    let index = Arc::new(Index::load(&repository, 1 << 30).unwrap());
    let trees = Trees::new(&repository, &index, 1 << 20);
    let mut opener = BlobOpener::new(&repository);
    let mut found = BTreeSet::new();
    let mut waiting: Vec<_> = repository.snapshots(&Filter::default()).unwrap().into_iter().map(|stored| stored.snapshot.tree).collect();
    while let Some(tree) = waiting.pop() {
        let mut nodes = trees.open(&tree).unwrap();
        while let Some(node) = nodes.next_node().unwrap() {
            let content = node.content.into_iter().flatten();
            found.extend(content.filter(|id| repository.read_blob(&index, &mut opener, id, BlobKind::Data).is_ok()));
            waiting.extend(node.subtree);
        }
    }
    found
}

/// Two runs that did not see each other, so that what they have in common lies there twice.
fn twice(way: Way, seeds: [u64; 2]) -> (MemoryStore, Vec<ObjectId>, Vec<ObjectName>) {
    let store = memory(way);
    drop(common::init(Arc::new(store.clone())));
    let first = common::backup(&common::open(Arc::new(store.clone())), 12, seeds[0]).unwrap();
    let older = store.names(ObjectKind::Pack).unwrap();
    let names = store.names(ObjectKind::Index).unwrap().into_iter();
    let hidden: Vec<_> = names.map(|name| (name, store.objects.lock().unwrap().remove(&name).unwrap())).collect();
    let second = common::backup(&common::open(Arc::new(store.clone())), 12, seeds[1]).unwrap();
    store.objects.lock().unwrap().extend(hidden);
    (store, vec![first, second], older)
}

/// Each blob of some 30 KB is hit; the list at the end is not.
fn rot(store: &MemoryStore, pack: &ObjectName) {
    common::change(store, pack, |bytes| (100..bytes.len().saturating_sub(200)).step_by(1000).for_each(|at| bytes[at] ^= 1));
}

/// Everything twice, and one of the two rotten: a prune that believed the index alone would keep the wrong one.
#[test]
fn of_two_copies_the_one_that_can_be_read_stays() {
    for way in WAYS {
        for rotten_is_older in [true, false] {
            let (store, _, older) = twice(way, [1, 1]);
            let all = store.names(ObjectKind::Pack).unwrap();
            let rotten: Vec<_> = all.iter().filter(|name| older.contains(name) == rotten_is_older).collect();
            assert!(rotten.len() > 2 && rotten.len() < all.len());
            rotten.into_iter().for_each(|name| rot(&store, name));
            let before = readable(&store);
            assert_eq!(before.len(), 12);
            // It may find the rotten ones and stop, or get rid of them; it loses nothing either way.
            match prune(&store, MaxUnused::Bytes(0)) {
                Ok(_) | Err(Error::Damaged { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            assert_eq!(readable(&store), before);
        }
    }
}

/// Half of what lies in these packs lies in others too, and the other half nothing needs any more; one pack is rotten, and
/// then another one. Whatever could be read can be read afterwards, and what may go has gone.
#[test]
fn a_copy_stays_where_what_is_to_replace_it_is_rotten() {
    for way in WAYS {
        let mut kept = 0;
        for forgotten in [0, 1] {
            let (whole, ids, _) = twice(way, [1, 2]);
            let repository = common::open(Arc::new(whole.clone()));
            let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
            repository.remove_snapshot(ids[forgotten]).unwrap();
            lock.release().unwrap();
            let index = Index::load(&repository, 1 << 30).unwrap();
            let of_content = index.by_pack().into_iter().filter(|pack| pack.blobs.iter().all(|blob| blob.kind == BlobKind::Data));
            for pack in of_content {
                let store = common::copy(&whole);
                rot(&store, &ObjectName::pack(pack.id));
                let before = readable(&store);
                let pruned = prune(&store, MaxUnused::Bytes(0));
                assert_eq!(readable(&store), before, "{pruned:?}");
                assert!(matches!(pruned, Ok(_) | Err(Error::Damaged { .. })), "{pruned:?}");
                kept += usize::from(pruned.is_err() && pack.blobs.iter().any(|blob| before.contains(&blob.id)));
                let useless = left_to_do(&store).packs.remove.into_iter().filter(|usage| usage.copies == 0).count();
                assert_eq!(useless, 0, "what nothing needs is gone all the same");
            }
        }
        assert!(kept > 0, "no copy had to stay");
    }
}

#[test]
fn without_any_snapshot_it_asks() {
    for way in WAYS {
        let (store, repository) = mostly_forgotten(way);
        let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
        repository.snapshot_ids().unwrap().into_iter().for_each(|id| repository.remove_snapshot(id).unwrap());
        lock.release().unwrap();
        let repository = common::open(Arc::new(store.clone()));
        assert!(matches!(prune::look(&repository, &options(MaxUnused::Unlimited)), Err(Error::Refused(_))));
        // Nor where the index is gone as well.
        let bare = common::copy(store.inner());
        bare.objects.lock().unwrap().retain(|name, _| name.kind != ObjectKind::Index);
        assert!(matches!(prune(&bare, MaxUnused::Unlimited), Err(Error::Refused(_))));
        let all = prune::look(&repository, &Options { may_empty: true, ..options(MaxUnused::Unlimited) }).unwrap();
        assert!(all.packs.keep.is_empty() && all.needed_blobs == 0 && all.goes().bytes > 0);
    }
}
