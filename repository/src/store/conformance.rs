//! What every store must do: run against local, memory and S3 alike.

use bytes::Bytes;

use super::{PutMode, ReadRange, Store, StoreErrorKind};
use crate::id::ObjectId;
use crate::object::{Object, ObjectKind, ObjectName};

/// Fails by panicking at the first guarantee that does not hold. The store must be empty, and is not empty afterwards.
///
/// # Panics
/// When a guarantee of [`Store`] does not hold.
pub fn run(store: &dyn Store) {
    empty(store);
    put_read_list_delete(store);
    ranges(store);
    create_new(store);
    large_and_empty(store);
    many(store);
}

fn object(kind: ObjectKind, body: &'static [u8]) -> Object {
    Object::content_named(kind, Bytes::from_static(body))
}

fn list(store: &dyn Store, kind: ObjectKind) -> Vec<(ObjectName, u64)> {
    let mut all = Vec::new();
    store.list(kind, &mut |listed| all.push((listed.name, listed.size))).expect("list");
    all.sort_unstable();
    all
}

fn empty(store: &dyn Store) {
    for kind in ObjectKind::LISTED {
        assert!(list(store, kind).is_empty(), "{kind} is empty at first");
    }
    for name in [ObjectName::CONFIG, ObjectName::new(ObjectKind::Pack, ObjectId([1; 32]))] {
        let mut into = Vec::new();
        let whole = ReadRange::Whole { limit: 10 };
        assert_eq!(store.read(&name, whole, &mut into).expect_err("nothing to read").kind, StoreErrorKind::NotFound);
        let part = ReadRange::Part { offset: 0, length: 1 };
        assert_eq!(store.read(&name, part, &mut into).expect_err("nothing to read").kind, StoreErrorKind::NotFound);
        assert_eq!(store.stat(&name).expect_err("nothing to stat").kind, StoreErrorKind::NotFound);
        store.delete(&name).expect("deleting what is not there is no error");
    }
}

fn put_read_list_delete(store: &dyn Store) {
    for kind in ObjectKind::LISTED {
        let object = object(kind, b"content");
        store.put(&object, PutMode::Replace).expect("put");
        store.put(&object, PutMode::Replace).expect("put again");
        assert_eq!(list(store, kind), [(object.name, 7)]);
        let mut into = b"rubbish from before".to_vec();
        store.read(&object.name, ReadRange::Whole { limit: 7 }, &mut into).expect("read");
        assert_eq!(into, b"content");
        let stat = store.stat(&object.name).expect("stat");
        assert_eq!(stat.size, 7);
        assert!(stat.age.as_secs() < 60, "just written, not {:?} ago", stat.age);
        store.delete(&object.name).expect("delete");
        assert!(list(store, kind).is_empty());
        assert_eq!(store.stat(&object.name).expect_err("deleted").kind, StoreErrorKind::NotFound);
    }
}

fn ranges(store: &dyn Store) {
    let object = object(ObjectKind::Pack, b"0123456789");
    store.put(&object, PutMode::Replace).expect("put");
    let read = |offset, length| {
        let mut into = b"more than ten bytes from before".to_vec();
        store.read(&object.name, ReadRange::Part { offset, length }, &mut into).map(|()| into)
    };
    assert_eq!(read(0, 10).expect("all"), b"0123456789");
    assert_eq!(read(3, 4).expect("middle"), b"3456");
    assert_eq!(read(9, 1).expect("last"), b"9");
    for (offset, length) in [(0, 11), (9, 2), (10, 1), (100, 1)] {
        assert_eq!(read(offset, length).expect_err("beyond the end").kind, StoreErrorKind::Truncated, "{offset}+{length}");
    }
    let mut into = Vec::new();
    let error = store.read(&object.name, ReadRange::Whole { limit: 9 }, &mut into).expect_err("over the limit");
    assert_eq!(error.kind, StoreErrorKind::TooLarge);
    store.delete(&object.name).expect("delete");
}

fn create_new(store: &dyn Store) {
    let config = |body: &'static [u8]| Object::named(ObjectName::CONFIG, Bytes::from_static(body));
    let exclusive = store.creates_exclusively().expect("probe");
    store.put(&config(b"first"), PutMode::CreateNew).expect("create");
    if exclusive {
        let error = store.put(&config(b"second"), PutMode::CreateNew).expect_err("must not replace");
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
        let mut into = Vec::new();
        store.read(&ObjectName::CONFIG, ReadRange::Whole { limit: 100 }, &mut into).expect("read");
        assert_eq!(into, b"first");
    }
    store.delete(&ObjectName::CONFIG).expect("delete");
    assert!(list(store, ObjectKind::Probe).is_empty(), "the probe cleans up");
}

fn large_and_empty(store: &dyn Store) {
    let large = Object::content_named(ObjectKind::Pack, Bytes::from(vec![7; 20 << 20]));
    store.put(&large, PutMode::Replace).expect("put 20 MiB");
    let mut into = Vec::new();
    store.read(&large.name, ReadRange::Whole { limit: 20 << 20 }, &mut into).expect("read 20 MiB");
    assert!(into == large.body);
    store.delete(&large.name).expect("delete");
    let empty = object(ObjectKind::Lock, b"");
    store.put(&empty, PutMode::Replace).expect("put nothing");
    store.read(&empty.name, ReadRange::Whole { limit: 0 }, &mut into).expect("read nothing");
    assert!(into.is_empty());
    store.delete(&empty.name).expect("delete");
}

/// More than one page of a list.
fn many(store: &dyn Store) {
    let names: Vec<ObjectName> = std::thread::scope(|scope| {
        let put = |from: u32| {
            (from..1100).step_by(8).map(|i| {
                let object = Object::content_named(ObjectKind::Lock, Bytes::from(i.to_le_bytes().to_vec()));
                store.put(&object, PutMode::Replace).expect("put");
                object.name
            })
        };
        let threads: Vec<_> = (0..8).map(|from| scope.spawn(move || put(from).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(list(store, ObjectKind::Lock).len(), 1100);
    std::thread::scope(|scope| {
        for part in names.chunks(140) {
            scope.spawn(move || part.iter().for_each(|name| store.delete(name).expect("delete")));
        }
    });
    assert!(list(store, ObjectKind::Lock).is_empty());
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_conforms() {
        super::run(&super::super::memory::MemoryStore::default());
    }
}
