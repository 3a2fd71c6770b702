//! Every kind of object flipped, cut, emptied, swapped, removed: it is found, named, and never taken for data.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use repository::object::ObjectKind;
use repository::store::Store;
use repository::store::memory::MemoryStore;
use repository::{ErrorKind, Repository};

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
    assert_eq!(common::findings(&common::open(Arc::new(common::healthy()))), []);
}

#[test]
fn damage_to_packs_indexes_and_snapshots_is_found_and_named() {
    let healthy = common::healthy();
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        for name in healthy.names(kind).unwrap() {
            for (what, damage) in DAMAGES {
                let store = common::copy(&healthy);
                common::change(&store, &name, damage);
                let found = common::errors(&common::open(Arc::new(store)));
                let short = name.id.short();
                let is_named = found.iter().any(|finding| format!("{} {}", finding.object, finding.problem).contains(&short));
                assert!(is_named, "{kind} {short}, {what}: {found:?}");
            }
            let store = common::copy(&healthy);
            store.objects.lock().unwrap().remove(&name);
            let found = common::errors(&common::open(Arc::new(store)));
            // A snapshot that is gone was forgotten; nothing else may go unseen.
            assert!(kind == ObjectKind::Snapshot || !found.is_empty(), "{kind} {} removed", name.id.short());
        }
    }
}

#[test]
fn objects_under_each_others_names_are_found() {
    let healthy = common::healthy();
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        let store = common::copy(&healthy);
        let names = store.names(kind).unwrap();
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
    let healthy = common::healthy();
    let open = |store: MemoryStore| Repository::open(&common::access(Arc::new(store)), common::PASSWORD).unwrap_err();
    for kind in [ObjectKind::Config, ObjectKind::Key] {
        let name = healthy.names(kind).unwrap()[0];
        for (what, damage) in DAMAGES {
            let store = common::copy(&healthy);
            common::change(&store, &name, damage);
            // A bit in a key's salt or ciphertext looks like a wrong password: nobody can tell.
            let kind_found = open(store).kind();
            assert!(matches!(kind_found, ErrorKind::Damaged | ErrorKind::WrongPassword), "{kind}, {what}: {kind_found:?}");
        }
        let store = common::copy(&healthy);
        store.objects.lock().unwrap().remove(&name);
        let expected = if kind == ObjectKind::Config { ErrorKind::NoRepository } else { ErrorKind::Damaged };
        assert_eq!(open(store).kind(), expected, "{kind} removed");
    }
    let wrong = Repository::open(&common::access(Arc::new(common::copy(&healthy))), "wrong").unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::WrongPassword);
}

#[test]
fn a_key_file_with_absurd_cost_costs_nothing() {
    let store = common::healthy();
    let name = store.names(ObjectKind::Key).unwrap()[0];
    common::change(&store, &name, |json| {
        *json = String::from_utf8(std::mem::take(json)).unwrap().replace("\"N\":16", "\"N\":1099511627776").into_bytes();
    });
    let start = std::time::Instant::now();
    let error = Repository::open(&common::access(Arc::new(store)), common::PASSWORD).unwrap_err();
    assert!(error.to_string().contains("refusing to spend it"), "{error}");
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn init_replaces_nothing() {
    let full = common::healthy();
    let init = |store: MemoryStore| {
        Repository::init(&common::access(Arc::new(store)), "x", repository::crypto::kdf::Cost::LOW, None).unwrap_err().to_string()
    };
    assert!(init(full.clone()).contains("config is there already"));
    full.objects.lock().unwrap().retain(|name, _| name.kind != ObjectKind::Config);
    assert!(init(full.clone()).contains("lost its config"));
}

/// Several create a repository in one moment, and one that was not the first is killed before it has taken its key away.
#[test]
fn a_key_of_another_config_is_passed_over() {
    let store = common::healthy();
    for _ in 0..4 {
        let other = MemoryStore::default();
        drop(common::init(Arc::new(other.clone())));
        let key = other.names(ObjectKind::Key).unwrap()[0];
        let object = other.objects.lock().unwrap().remove(&key).unwrap();
        store.objects.lock().unwrap().insert(key, object);
        assert_eq!(common::findings(&common::open(Arc::new(store.clone()))), []);
    }
}
