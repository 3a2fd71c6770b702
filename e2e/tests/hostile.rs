//! A snapshot made to harm whoever restores it: nothing is ever written outside the target.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e::program::{PASSWORD, mover};
use repository::Repository;
use repository::access::Access;
use repository::budget::Shares;
use repository::compress::Compression;
use repository::crypto::sha256;
use repository::format::BlobKind;
use repository::format::lock::LockMode;
use repository::format::node::{Node, NodeKind, go_mode};
use repository::format::snapshot::{Snapshot, SnapshotTime};
use repository::id::BlobId;
use repository::index::Index;
use repository::lock::{Identity, Lock};
use repository::store::local::LocalStore;
use repository::write::{Sealer, Verify, WriteMode, WriteOptions, Writer};

/// Writes trees as they are given, whatever rules they break.
struct Forger {
    writer: Writer,
    sealer: Sealer,
}

impl Forger {
    fn tree(&mut self, nodes: &[Node]) -> BlobId {
        let encoded = nodes.iter().map(|node| {
            let mut json = Vec::new();
            node.encode(&mut json).unwrap();
            json
        });
        let json = [&b"{\"nodes\":["[..], &encoded.collect::<Vec<_>>().join(&b','), b"]}\n"].concat();
        self.blob(BlobKind::Tree, &json)
    }

    fn blob(&mut self, kind: BlobKind, plain: &[u8]) -> BlobId {
        let id = BlobId(sha256(plain));
        self.writer.store(&mut self.sealer, kind, id, plain).unwrap();
        id
    }

    fn file(&mut self, name: &[u8]) -> Node {
        let content = self.blob(BlobKind::Data, b"evil");
        Node { size: 4, mode: 0o644, content: Some(vec![content]), ..Node::new(name.to_vec(), NodeKind::File) }
    }
}

fn dir(name: &[u8], tree: BlobId) -> Node {
    Node { mode: go_mode(NodeKind::Dir, 0o755), subtree: Some(tree), ..Node::new(name.to_vec(), NodeKind::Dir) }
}

fn link(name: &[u8], target: &Path) -> Node {
    Node { link_target: target.to_str().unwrap().into(), ..Node::new(name.to_vec(), NodeKind::Symlink) }
}

/// Saves a snapshot whose root is what `forge` makes.
fn forge(at: &Path, forge: impl FnOnce(&mut Forger) -> BlobId) {
    let access = Access::new(Arc::new(LocalStore::new(at.to_owned())), Identity::new("forger".to_owned(), "forger".to_owned()));
    let repository = Arc::new(Repository::open(&access, PASSWORD).unwrap());
    let lock = Lock::acquire(&repository, LockMode::Shared, Duration::ZERO).unwrap();
    let shares = Shares::of(Shares::DEFAULT, 2).unwrap();
    let index = Arc::new(Index::load(&repository, 1 << 30).unwrap());
    let options = WriteOptions { shares, compression: Compression::Default, verify: Verify::Sealed, mode: WriteMode::Store };
    let writer = Writer::start(&repository, &index, options).unwrap();
    let sealer = writer.sealer();
    let mut forger = Forger { writer, sealer };
    let tree = forge(&mut forger);
    let (committed, _) = forger.writer.finish().unwrap();
    let json = format!(r#"{{"time":"2026-01-01T00:00:00Z","tree":"{tree}","paths":["/a","/b"],"hostname":"h"}}"#);
    let snapshot = Snapshot { time: SnapshotTime(jiff::Timestamp::now()), ..Snapshot::decode(json.as_bytes()).unwrap() };
    repository.save_snapshot(&snapshot, &committed).unwrap();
    lock.release().unwrap();
}

#[test]
fn nothing_leaves_the_target() {
    let place = tempfile::tempdir().unwrap();
    let (repository, outside, target) = (place.path().join("repository"), place.path().join("outside"), place.path().join("target"));
    fs::create_dir(&outside).unwrap();
    mover(&repository).ok(&["init"]);
    forge(&repository, |forger| {
        let evil = [forger.file(b"evil")];
        let inner = forger.tree(&evil);
        let files: Vec<Node> = [&b""[..], b"..", ".".as_bytes(), b"../outside/a", b"/tmp/outside", b"good", b"nul\0byte"]
            .iter()
            .map(|name| forger.file(name))
            .collect();
        let mut nodes = files;
        // A link, then a directory of the same name through which something would be written.
        nodes.push(link(b"through", &outside));
        nodes.push(dir(b"through", inner));
        nodes.push(dir(b"..", inner));
        nodes.push(link(b"zz", &outside));
        nodes.push(forger.file(b"zz"));
        forger.tree(&nodes)
    });
    let ran = mover(&repository).run(&["restore", "latest", target.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.lines("item").len() >= 8, "{ran:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["good", "through", "zz"]);
    let mut beside: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    beside.sort();
    assert_eq!(beside, ["outside", "repository", "target"]);
    // Our own check, unlike stock restic's, names all of it.
    let check = mover(&repository).run(&["check", "--json"]);
    assert!(check.code == 1 && check.json("errors").as_u64().unwrap() >= 8, "{check:?}");
}

#[test]
fn files_that_lie_about_themselves_are_not_restored() {
    let place = tempfile::tempdir().unwrap();
    let (repository, target) = (place.path().join("repository"), place.path().join("target"));
    mover(&repository).ok(&["init"]);
    forge(&repository, |forger| {
        let mut longer = forger.file(b"says it is longer");
        longer.size = 1 << 40;
        let mut missing = forger.file(b"zz names a blob that is nowhere");
        missing.content = Some(vec![BlobId([7; 32])]);
        let good = forger.file(b"good");
        forger.tree(&[good, longer, missing])
    });
    let ran = mover(&repository).run(&["restore", "latest", target.to_str().unwrap(), "--json"]);
    assert_eq!((ran.code, ran.lines("item").len()), (3, 2), "{ran:?}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    assert_eq!(fs::read(target.join("good")).unwrap(), b"evil");
}
