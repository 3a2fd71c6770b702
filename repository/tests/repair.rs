//! An index that is damaged, or gone, says again what is there.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use repository::check::Counts;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::format::unpacked;
use repository::id::ObjectId;
use repository::index::Index;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::{Object, ObjectKind, ObjectName};
use repository::repair::index::{self, Wrong};
use repository::repair::{Mode, packs, snapshots};
use repository::snapshots::Filter;
use repository::store::memory::MemoryStore;
use repository::store::record::{Change, Event, Recording};
use repository::store::{PutMode, Store};

fn look(store: &MemoryStore) -> Wrong {
    index::run(&common::open(Arc::new(store.clone())), Mode::Look).unwrap()
}

fn repair(store: &(impl Store + Clone + 'static)) {
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Exclusive, Duration::ZERO).unwrap();
    index::run(&repository, Mode::Apply).unwrap();
    lock.release().unwrap();
}

/// Changes one object of a kind.
fn change(store: &MemoryStore, kind: ObjectKind, which: usize, change: impl Fn(&mut Vec<u8>)) {
    common::change(store, &store.names(kind).unwrap()[which], change);
}

#[test]
fn a_healthy_index_is_left_alone() {
    let store = Recording::new(common::healthy());
    assert!(look(store.inner()).is_nothing());
    repair(&store);
    let is_of_lock = |event: &Event| match event {
        Event::Began(_, Change::Put(name, _) | Change::Delete(name)) => name.kind == ObjectKind::Lock,
        Event::Ended(_) => true,
    };
    assert!(store.log().iter().all(is_of_lock));
}

#[test]
fn whatever_happens_to_the_index_all_of_it_comes_back() {
    type Damage = (&'static str, fn(&MemoryStore));
    let damages: [Damage; 4] = [
        ("one flipped", |store| change(store, ObjectKind::Index, 0, |bytes| bytes[40] ^= 1)),
        ("all emptied", |store| {
            (0..store.names(ObjectKind::Index).unwrap().len()).for_each(|i| change(store, ObjectKind::Index, i, Vec::clear));
        }),
        ("one removed", |store| store.delete(&store.names(ObjectKind::Index).unwrap()[0]).unwrap()),
        ("all removed", |store| store.names(ObjectKind::Index).unwrap().iter().for_each(|name| store.delete(name).unwrap())),
    ];
    for (what, damage) in damages {
        let store = common::healthy();
        damage(&store);
        assert!(!common::errors(&common::open(Arc::new(store.clone()))).is_empty(), "{what}");
        assert!(!look(&store).unnamed.is_empty(), "{what}");
        repair(&store);
        assert_eq!(common::findings(&common::open(Arc::new(store.clone()))), [], "{what}");
        assert!(look(&store).is_nothing(), "{what}");
    }
}

/// What only it held is lost; what the source still has is stored again, because nobody says any more that it is there.
#[test]
fn a_pack_that_is_gone_is_no_longer_named_and_the_next_backup_heals() {
    for what in ["gone", "cut", "replaced"] {
        let store = common::healthy();
        for which in 0..2 {
            match what {
                "gone" => store.delete(&store.names(ObjectKind::Pack).unwrap()[which]).unwrap(),
                "cut" => change(&store, ObjectKind::Pack, which, |bytes| bytes.truncate(bytes.len() / 2)),
                _ => change(&store, ObjectKind::Pack, which, |bytes| *bytes = vec![7; bytes.len() + 1]),
            }
        }
        let wrong = look(&store);
        assert_eq!((wrong.misnamed.len(), wrong.unnamed.len(), wrong.lost.len()), (2, 0, if what == "gone" { 0 } else { 2 }), "{what}");
        repair(&store);
        assert!(!common::errors(&common::open(Arc::new(store.clone()))).is_empty(), "{what}: nobody can bring it back but the source");
        for seed in 1..=2 {
            common::backup(&common::open(Arc::new(store.clone())), 20, seed).unwrap();
        }
        assert_eq!(common::errors(&common::open(Arc::new(store.clone()))), [], "{what}");
    }
}

/// Two lists of one pack, of which one is wrong: nobody could tell its size from the index, and every prune would refuse.
#[test]
fn a_second_list_that_is_wrong_goes() {
    let store = common::healthy();
    let repository = common::open(Arc::new(store.clone()));
    let mut file = repository.index_file(&store.names(ObjectKind::Index).unwrap()[0]).unwrap();
    file.packs.truncate(1);
    let mut other = file.packs[0].blobs[0];
    (other.id.0[0], other.offset) = (other.id.0[0] ^ 1, 1 << 20);
    file.packs[0].blobs.push(other);
    let mut sealed = Vec::new();
    repository.key().seal(&unpacked::encode(file.encode(), 2), &mut sealed);
    store.put(&Object::content_named(ObjectKind::Index, Bytes::from(sealed)), PutMode::Replace).unwrap();
    assert!(!common::errors(&common::open(Arc::new(store.clone()))).is_empty());
    assert_eq!((look(&store).misnamed.len(), look(&store).unnamed.len()), (1, 0));
    repair(&store);
    assert_eq!(common::findings(&common::open(Arc::new(store.clone()))), []);
    assert!(look(&store).is_nothing());
}

/// Every moment of a repair: of what was under way, nothing, everything or a part has arrived. The next one comes to the same end.
#[test]
fn whatever_a_crash_leaves_the_next_one_goes_on() {
    let store = Recording::new(MemoryStore::default());
    common::fill(&store);
    // One index file is gone, and another one cannot be read.
    let names = store.inner().names(ObjectKind::Index).unwrap();
    store.delete(&names[0]).unwrap();
    let broken = Object { name: names[1], ..Object::content_named(ObjectKind::Index, Bytes::from_static(b"nonsense")) };
    store.put(&broken, PutMode::Replace).unwrap();
    let began = store.log().len();
    repair(&store);
    let log = store.log();
    assert!(log.len() >= began + 8, "{} events", log.len() - began);
    common::after_each_crash(&log, began, |events, store| {
        unlock(&common::open(Arc::new(store.clone())), UnlockMode::All).unwrap();
        repair(&store);
        assert_eq!(common::errors(&common::open(Arc::new(store))), [], "after {events} of {} events", log.len());
    });
}

fn repair_packs(store: &(impl Store + Clone + 'static), mode: Mode) -> packs::Wrong {
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Exclusive, Duration::ZERO).unwrap();
    let wrong = packs::run(&repository, &[], mode, common::shares(), &Counts::default()).unwrap();
    lock.release().unwrap();
    wrong
}

/// The paths that are lost, and the snapshots that are saved again.
fn repair_snapshots(store: &(impl Store + Clone + 'static), mode: Mode) -> (BTreeSet<String>, snapshots::Repaired) {
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    let all = repository.snapshots(&Filter::default()).unwrap();
    let lost = RefCell::new(BTreeSet::new());
    let on_lost = |_: &ObjectId, path: &[u8], _: &str| lost.borrow_mut().extend([String::from_utf8(path.to_vec()).unwrap()]);
    let repaired = snapshots::run(&repository, &all, mode, common::shares(), &on_lost).unwrap();
    repaired.saved.iter().for_each(|(old, _)| repository.remove_snapshot(*old).unwrap());
    lock.release().unwrap();
    (lost.into_inner(), repaired)
}

/// One flipped bit in each pack in turn: what the bit hit is lost, and nothing else.
#[test]
fn of_a_damaged_pack_all_is_saved_that_can_be_read() {
    let healthy = common::healthy();
    let index = Index::load(&common::open(Arc::new(healthy.clone())), 1 << 30).unwrap();
    for pack in index.by_pack() {
        let store = common::copy(&healthy);
        let hit = pack.blobs[pack.blobs.len() / 2];
        common::change(&store, &ObjectName::pack(pack.id), |bytes| bytes[hit.offset as usize + 20] ^= 4);
        let before = store.names(ObjectKind::Pack).unwrap();
        let looked = repair_packs(&store, Mode::Look);
        assert_eq!((looked.damaged.len(), looked.lost.as_slice()), (1, [(hit.kind, hit.id)].as_slice()));
        assert_eq!(store.names(ObjectKind::Pack).unwrap(), before);
        let wrong = repair_packs(&store, Mode::Apply);
        assert_eq!((wrong.saved, wrong.lost.len()), (pack.blobs.len() as u64 - 1, 1));
        let (lost, looked) = repair_snapshots(&store, Mode::Look);
        assert!(looked.saved.is_empty() && !lost.is_empty());
        let (again, repaired) = repair_snapshots(&store, Mode::Apply);
        assert_eq!((again, repaired.saved.len()), (lost.clone(), looked.incomplete.len()));
        // The rest is whole, and says that it is not all; of a snapshot without its root there is no rest.
        let repository = common::open(Arc::new(store.clone()));
        let all = repository.snapshots(&Filter::default()).unwrap();
        let incomplete = all.iter().filter(|stored| stored.snapshot.tags.iter().any(|tag| tag == "estiba:incomplete")).count();
        assert_eq!((all.len(), incomplete), (2, repaired.saved.len()));
        assert_eq!(common::findings(&repository).len(), repaired.lost.len());
        assert_eq!(repair_snapshots(&store, Mode::Apply).0.len(), repaired.lost.len(), "there is nothing left to repair");
        if hit.kind == BlobKind::Data {
            assert!(lost.len() == 1 && lost.iter().all(|path| path.starts_with("/dir/file-")), "{lost:?}");
        }
        // Whoever has it stores it again.
        for seed in 1..=2 {
            common::backup(&common::open(Arc::new(store.clone())), 20, seed).unwrap();
        }
        assert_eq!(common::errors(&common::open(Arc::new(store))), []);
    }
}

/// Packs that are cut, or replaced, or of which the list alone is damaged: what is left of them is saved.
#[test]
fn whatever_happens_to_packs_the_rest_is_saved() {
    type Damage = (&'static str, fn(&mut Vec<u8>));
    let damages: [Damage; 4] = [
        ("cut in the middle", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", Vec::clear),
        ("all of it replaced", |bytes| bytes.fill(7)),
        ("its list damaged", |bytes| {
            let end = bytes.len() - 10;
            bytes[end] ^= 1;
        }),
    ];
    for (what, damage) in damages {
        let store = common::healthy();
        let index = Index::load(&common::open(Arc::new(store.clone())), 1 << 30).unwrap();
        let of_content = index.by_pack().into_iter().find(|pack| pack.blobs.iter().all(|blob| blob.kind == BlobKind::Data)).unwrap();
        common::change(&store, &ObjectName::pack(of_content.id), damage);
        let wrong = repair_packs(&store, Mode::Apply);
        assert_eq!(wrong.saved + wrong.lost.len() as u64, of_content.blobs.len() as u64, "{what}");
        assert_eq!(wrong.lost.is_empty(), what == "its list damaged", "{what}");
        repair_snapshots(&store, Mode::Apply);
        assert_eq!(common::findings(&common::open(Arc::new(store))), [], "{what}");
    }
}

/// Every moment of it: of what was under way, nothing, everything or a part has arrived. No more is lost than was, and the next ones
/// come to the same end.
#[test]
fn a_crash_while_packs_and_snapshots_are_repaired_costs_nothing() {
    let store = Recording::new(MemoryStore::default());
    common::fill(&store);
    let index = Index::load(&common::open(Arc::new(store.clone())), 1 << 30).unwrap();
    let of_content = index.by_pack().into_iter().find(|pack| pack.blobs.iter().all(|blob| blob.kind == BlobKind::Data)).unwrap();
    let name = ObjectName::pack(of_content.id);
    let mut bytes = store.inner().objects.lock().unwrap()[&name].0.to_vec();
    bytes[30] ^= 1;
    store.put(&Object { name, ..Object::content_named(name.kind, Bytes::from(bytes)) }, PutMode::Replace).unwrap();
    let began = store.log().len();
    assert_eq!(repair_packs(&store, Mode::Apply).lost.len(), 1);
    let (hit, repaired) = repair_snapshots(&store, Mode::Apply);
    assert!(!repaired.saved.is_empty() && hit.len() == 1 && hit.iter().all(|path| path.starts_with("/dir/file-")), "{hit:?}");
    let log = store.log();
    common::after_each_crash(&log, began, |events, store| {
        unlock(&common::open(Arc::new(store.clone())), UnlockMode::All).unwrap();
        repair_packs(&store, Mode::Apply);
        let (lost, _) = repair_snapshots(&store, Mode::Apply);
        assert!(lost.is_subset(&hit), "after {events} of {} events: {lost:?}", log.len());
        assert_eq!(common::errors(&common::open(Arc::new(store))), [], "after {events} of {} events", log.len());
    });
}
