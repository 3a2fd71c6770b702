//! An index that is damaged, or gone, says again what is there.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use repository::format::lock::LockMode;
use repository::format::unpacked;
use repository::lock::{Lock, UnlockMode, unlock};
use repository::object::{Object, ObjectKind};
use repository::repair::{self, Mode, Wrong};
use repository::store::memory::MemoryStore;
use repository::store::record::{Change, Event, Recording, after_crash};
use repository::store::{PutMode, Store};

fn look(store: &MemoryStore) -> Wrong {
    repair::index(&common::open(Arc::new(store.clone())), Mode::Look).unwrap()
}

fn repair(store: &(impl Store + Clone + 'static)) {
    let repository = common::open(Arc::new(store.clone()));
    let lock = Lock::acquire(&repository, LockMode::Exclusive, Duration::ZERO).unwrap();
    repair::index(&repository, Mode::Apply).unwrap();
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

/// Every moment of a repair: of what was under way, nothing or everything has arrived. The next one comes to the same end.
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
    for events in began..=log.len() {
        for survives in [false, true] {
            let store = after_crash(&log, events, |_| survives);
            unlock(&common::open(Arc::new(store.clone())), UnlockMode::All).unwrap();
            repair(&store);
            assert_eq!(common::errors(&common::open(Arc::new(store))), [], "after {events} of {} events", log.len());
        }
    }
}
