//! Every kind of object flipped, cut, emptied, swapped, removed: it is found, named, and never taken for data.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use repository::object::ObjectKind;
use repository::store::memory::MemoryStore;
use repository::{ErrorKind, Repository};

fn healthy() -> MemoryStore {
    let store = MemoryStore::default();
    drop(common::init(Arc::new(store.clone())));
    for seed in 1..=2 {
        common::backup(&common::open(Arc::new(store.clone())), 20, seed).unwrap();
    }
    store
}

fn copy(store: &MemoryStore) -> MemoryStore {
    MemoryStore::with(store.objects.lock().unwrap().iter().map(|(name, (body, _))| (*name, body.clone())))
}

type Damage = (&'static str, fn(&mut Vec<u8>));

const DAMAGES: [Damage; 5] = [
    ("first byte flipped", |bytes| bytes[0] ^= 1),
    ("middle bit flipped", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    }),
    ("last byte flipped", |bytes| *bytes.last_mut().unwrap() ^= 0x80),
    ("cut", |bytes| bytes.truncate(bytes.len() - 1)),
    ("emptied", Vec::clear),
];

#[test]
fn a_healthy_repository_has_nothing_to_find() {
    assert_eq!(common::findings(&common::open(Arc::new(healthy()))), []);
}

#[test]
fn damage_to_packs_indexes_and_snapshots_is_found_and_named() {
    let healthy = healthy();
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        for name in healthy.names(kind) {
            for (what, damage) in DAMAGES {
                let store = copy(&healthy);
                {
                    let mut objects = store.objects.lock().unwrap();
                    let (body, _) = objects.get_mut(&name).unwrap();
                    let mut bytes = body.to_vec();
                    damage(&mut bytes);
                    *body = Bytes::from(bytes);
                }
                let found = common::errors(&common::open(Arc::new(store)));
                let short = name.id.short();
                let is_named = found.iter().any(|finding| format!("{} {}", finding.object, finding.problem).contains(&short));
                assert!(is_named, "{kind} {short}, {what}: {found:?}");
            }
            let store = copy(&healthy);
            store.objects.lock().unwrap().remove(&name);
            let found = common::errors(&common::open(Arc::new(store)));
            // A snapshot that is gone was forgotten; nothing else may go unseen.
            assert!(kind == ObjectKind::Snapshot || !found.is_empty(), "{kind} {} removed", name.id.short());
        }
    }
}

#[test]
fn objects_under_each_others_names_are_found() {
    let healthy = healthy();
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        let store = copy(&healthy);
        let names = store.names(kind);
        {
            let mut objects = store.objects.lock().unwrap();
            let (first, second) = (objects[&names[0]].clone(), objects[&names[1]].clone());
            objects.insert(names[0], second);
            objects.insert(names[1], first);
        }
        assert!(!common::errors(&common::open(Arc::new(store))).is_empty(), "{kind} swapped");
    }
}

#[test]
fn a_repository_without_its_head_says_so() {
    let healthy = healthy();
    let open = |store: MemoryStore| Repository::open(&common::access(Arc::new(store)), common::PASSWORD).unwrap_err();
    for kind in [ObjectKind::Config, ObjectKind::Key] {
        let name = healthy.names(kind)[0];
        for (what, damage) in DAMAGES {
            let store = copy(&healthy);
            {
                let mut objects = store.objects.lock().unwrap();
                let mut bytes = objects[&name].0.to_vec();
                damage(&mut bytes);
                objects.insert(name, (Bytes::from(bytes), std::time::Instant::now()));
            }
            // A bit in a key's salt or ciphertext looks like a wrong password: nobody can tell.
            let kind_found = open(store).kind();
            assert!(matches!(kind_found, ErrorKind::Damaged | ErrorKind::WrongPassword), "{kind}, {what}: {kind_found:?}");
        }
        let store = copy(&healthy);
        store.objects.lock().unwrap().remove(&name);
        let expected = if kind == ObjectKind::Config { ErrorKind::NoRepository } else { ErrorKind::Damaged };
        assert_eq!(open(store).kind(), expected, "{kind} removed");
    }
    let wrong = Repository::open(&common::access(Arc::new(copy(&healthy))), "wrong").unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::WrongPassword);
}

#[test]
fn a_key_file_with_absurd_cost_costs_nothing() {
    let store = healthy();
    let name = store.names(ObjectKind::Key)[0];
    let json = String::from_utf8(store.objects.lock().unwrap()[&name].0.to_vec()).unwrap().replace("\"N\":16", "\"N\":1099511627776");
    store.objects.lock().unwrap().insert(name, (Bytes::from(json), std::time::Instant::now()));
    let start = std::time::Instant::now();
    let error = Repository::open(&common::access(Arc::new(store)), common::PASSWORD).unwrap_err();
    assert!(error.to_string().contains("refusing to spend it"), "{error}");
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn init_replaces_nothing() {
    let full = healthy();
    let init = |store: MemoryStore| {
        Repository::init(&common::access(Arc::new(store)), "x", repository::crypto::kdf::Cost::LOW).unwrap_err().to_string()
    };
    assert!(init(full.clone()).contains("config is there already"));
    full.objects.lock().unwrap().retain(|name, _| name.kind != ObjectKind::Config);
    assert!(init(full.clone()).contains("lost its config"));
}

/// Several create a repository in one moment, and one that was not the first is killed before it has taken its key away.
#[test]
fn a_key_of_another_config_is_passed_over() {
    let store = healthy();
    for _ in 0..4 {
        let other = MemoryStore::default();
        drop(common::init(Arc::new(other.clone())));
        let key = other.names(ObjectKind::Key)[0];
        let object = other.objects.lock().unwrap().remove(&key).unwrap();
        store.objects.lock().unwrap().insert(key, object);
        assert_eq!(common::findings(&common::open(Arc::new(store.clone()))), []);
    }
}
