//! Any bytes as a tree: an error or nodes; nodes that are read are written back to what reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repository::format::node::Node;
use repository::format::tree::TreeDecoder;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = TreeDecoder::new(bytes);
    while let Ok(Some(node)) = decoder.next_node() {
        let mut json = Vec::new();
        node.encode(&mut json).expect("memory takes all");
        let again = Node::decode(&json).expect("what we write, we read");
        // Text that is not UTF-8 cannot be in JSON; all else survives.
        assert_eq!(again, node);
    }
});
