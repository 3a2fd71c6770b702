//! A tree: `{"nodes":[..]}` and a newline. Read and written node by node: a directory of 500,000 entries is 175 MB of JSON,
//! and never lies in memory as a whole.

use std::io::{self, Read, Write};

use super::node::Node;

/// What a tree begins with.
pub const START: &[u8] = b"{\"nodes\":[";
/// What a tree ends with.
pub const END: &[u8] = b"]}\n";
/// The largest node that is read: a file of 16 TiB in 1 MiB chunks has a gigabyte of content list.
const MAX_NODE_BYTES: usize = 1 << 30;

/// Writes nodes in ascending order of their names.
#[derive(Debug)]
pub struct TreeEncoder<W> {
    out: W,
    last_name: Option<Vec<u8>>,
}

impl<W: Write> TreeEncoder<W> {
    /// Begins a tree.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(START)?;
        Ok(Self { out, last_name: None })
    }

    /// Adds a node. Readers rely on the order, and a second entry of a name would be lost on restore.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not above the last one; those of `out`.
    pub fn push(&mut self, node: &Node) -> io::Result<()> {
        if let Some(last) = &self.last_name {
            if *last >= node.name {
                let text = format!("{:?} after {:?}: names in a tree must ascend", node.name.escape_ascii(), last.escape_ascii());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            self.out.write_all(b",")?;
        }
        self.last_name = Some(node.name.clone());
        node.encode(&mut self.out)
    }

    /// Ends the tree and hands the output back.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(END)?;
        Ok(self.out)
    }
}

/// Why a tree cannot be read further.
#[derive(Debug)]
pub enum TreeError {
    /// The bytes could not be had.
    Read(io::Error),
    /// They are no tree; in words.
    Malformed(String),
}

/// Reads nodes one by one.
#[derive(Debug)]
pub struct TreeDecoder<R> {
    input: R,
    buffer: Vec<u8>,
    /// Unread part of the buffer.
    from: usize,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Start,
    Nodes,
    Ended,
}

impl<R: Read> TreeDecoder<R> {
    /// Starts reading; nothing is read yet.
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), from: 0, state: State::Start }
    }

    /// The input, however far it was read.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The next node, or `None` after the last.
    ///
    /// # Errors
    /// [`TreeError`]; nothing more can be read then.
    pub fn next_node(&mut self) -> Result<Option<Node>, TreeError> {
        if self.state == State::Start {
            self.read_start()?;
        }
        if self.state == State::Ended {
            return Ok(None);
        }
        let mut scan = ObjectScan::default();
        let mut scanned = self.from;
        loop {
            while scanned < self.buffer.len() {
                let byte = self.buffer[scanned];
                scanned += 1;
                match scan.step(byte) {
                    Step::Skip => self.from = scanned,
                    Step::Inside => {}
                    Step::Object => {
                        let node = Node::decode(&self.buffer[self.from..scanned]).map_err(TreeError::Malformed)?;
                        self.from = scanned;
                        return Ok(Some(node));
                    }
                    Step::ListEnd => {
                        self.from = scanned;
                        return self.read_end().map(|()| None);
                    }
                    Step::Unexpected => return Err(malformed("something that is no node stands in the list")),
                }
            }
            if scanned - self.from > MAX_NODE_BYTES {
                return Err(malformed("a node is larger than 1 GiB"));
            }
            let kept = self.from;
            if !self.fill()? {
                return Err(malformed("ends in the middle"));
            }
            scanned -= kept;
        }
    }

    /// Accepts `{"nodes":[` with blanks, and `{"nodes":null}`, which old restic wrote for empty trees.
    fn read_start(&mut self) -> Result<(), TreeError> {
        let mut seen = Vec::new();
        let ended = loop {
            match self.byte()? {
                Some(byte) if byte.is_ascii_whitespace() => {}
                Some(byte) => seen.push(byte),
                None => return Err(malformed("does not begin as a tree")),
            }
            if seen == START {
                break false;
            }
            if seen == b"{\"nodes\":null" {
                break true;
            }
            if !START.starts_with(&seen) && !b"{\"nodes\":null".starts_with(&seen) {
                return Err(malformed("does not begin as a tree"));
            }
        };
        self.state = State::Nodes;
        if ended { self.read_end() } else { Ok(()) }
    }

    /// What may follow the list: other keys of the object, and its end. Everything is read, so that it is all hashed.
    fn read_end(&mut self) -> Result<(), TreeError> {
        self.state = State::Ended;
        let mut last = None;
        while let Some(byte) = self.byte()? {
            if !byte.is_ascii_whitespace() {
                last = Some(byte);
            }
        }
        if last == Some(b'}') { Ok(()) } else { Err(malformed("does not end as a tree")) }
    }

    fn byte(&mut self) -> Result<Option<u8>, TreeError> {
        if self.from == self.buffer.len() && !self.fill()? {
            return Ok(None);
        }
        self.from += 1;
        Ok(Some(self.buffer[self.from - 1]))
    }

    /// Reads more behind what is unread; false at the end.
    fn fill(&mut self) -> Result<bool, TreeError> {
        const STEP: usize = 64 << 10;
        self.buffer.drain(..self.from);
        self.from = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + STEP, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[before..]) {
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TreeError::Read(error)),
            }
        };
        self.buffer.truncate(before + read);
        Ok(read > 0)
    }
}

fn malformed(what: &str) -> TreeError {
    TreeError::Malformed(what.to_owned())
}

/// Finds where one object in a list ends, without building it.
#[derive(Default)]
struct ObjectScan {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

enum Step {
    /// Between objects.
    Skip,
    /// Within one.
    Inside,
    /// An object ends with this byte.
    Object,
    /// The list ends with this byte.
    ListEnd,
    Unexpected,
}

impl ObjectScan {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Step::Inside;
        }
        match byte {
            b'{' => self.depth += 1,
            b'[' if self.depth > 0 => self.depth += 1,
            b']' if self.depth == 0 => return Step::ListEnd,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::Object;
                }
            }
            b'"' if self.depth > 0 => self.in_string = true,
            b',' | b' ' | b'\n' | b'\r' | b'\t' if self.depth == 0 => return Step::Skip,
            _ if self.depth == 0 => return Step::Unexpected,
            _ => {}
        }
        Step::Inside
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::node::{NodeKind, Xattr};
    use super::super::time::Time;
    use super::*;
    use crate::id::BlobId;

    fn decode(bytes: &[u8]) -> Result<Vec<Node>, TreeError> {
        // One byte a read: borders fall everywhere.
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let length = into.len().min(self.0.len()).min(1);
                into[..length].copy_from_slice(&self.0[..length]);
                self.0 = &self.0[length..];
                Ok(length)
            }
        }
        let mut decoder = TreeDecoder::new(Slow(bytes));
        let mut nodes = Vec::new();
        while let Some(node) = decoder.next_node()? {
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn encode(nodes: &[Node]) -> Vec<u8> {
        let mut encoder = TreeEncoder::new(Vec::new()).unwrap();
        nodes.iter().for_each(|node| encoder.push(node).unwrap());
        encoder.finish().unwrap()
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(encode(&[]), b"{\"nodes\":[]}\n");
        assert!(decode(b"{\"nodes\":[]}\n").unwrap().is_empty());
        assert!(decode(b"{\"nodes\":null}\n").unwrap().is_empty());
        let one = encode(&[Node::new(b"a".to_vec(), NodeKind::File)]);
        assert!(one.starts_with(b"{\"nodes\":[{\"name\":\"a\",") && one.ends_with(b"}]}\n"));
    }

    #[test]
    fn names_must_ascend() {
        let mut encoder = TreeEncoder::new(Vec::new()).unwrap();
        encoder.push(&Node::new(b"b".to_vec(), NodeKind::File)).unwrap();
        for name in [b"b", b"a"] {
            assert!(encoder.push(&Node::new(name.to_vec(), NodeKind::File)).is_err());
        }
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let good = encode(&[Node::new(b"a".to_vec(), NodeKind::File), Node::new(b"b".to_vec(), NodeKind::Dir)]);
        for cut in 0..good.len() - 2 {
            assert!(decode(&good[..cut]).is_err(), "{cut}");
        }
        for bad in [&b"{\"nodes\":[1]}"[..], b"{\"nodes\":[{}]}", b"[]", b"{\"nodes\":{}}", b"{\"nodes\":[]", b"{\"nodes\":[]]"] {
            assert!(decode(bad).is_err());
        }
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let kind = prop_oneof![
            Just(NodeKind::File),
            Just(NodeKind::Dir),
            Just(NodeKind::Symlink),
            Just(NodeKind::BlockDevice),
            Just(NodeKind::Fifo)
        ];
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        let ids = proptest::collection::vec(any::<[u8; 32]>().prop_map(BlobId), 0..4);
        let xattrs = proptest::collection::vec((".*", bytes()).prop_map(|(name, value)| Xattr { name, value }), 0..3);
        let time = (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Time::new(seconds, nanos));
        (bytes(), kind, bytes(), ids, xattrs, time, any::<[u64; 5]>(), ".*").prop_map(
            |(name, kind, link_target, ids, xattrs, time, [inode, device_id, size, links, device], user)| Node {
                mtime: time,
                link_target,
                xattrs,
                inode,
                device_id,
                size,
                links,
                device,
                user,
                content: (kind == NodeKind::File).then(|| ids.clone()),
                subtree: ids.first().copied(),
                ..Node::new(name, kind)
            },
        )
    }

    proptest! {
        #[test]
        fn any_tree_comes_back(mut nodes in proptest::collection::vec(any_node(), 0..8)) {
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
            nodes.dedup_by(|a, b| a.name == b.name);
            prop_assert_eq!(decode(&encode(&nodes)).unwrap(), nodes);
        }
    }
}
