//! A directory as a tar archive: POSIX (pax) headers, which every tar of this century reads.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use contract::Severity;
use repository::error::{Error, Result};
use repository::format::node::{Node, NodeKind, unix_permissions};
use repository::format::time::Time;
use repository::id::BlobId;
use repository::read::{TreeStream, check_depth};
use tar::{Builder, EntryType, Header};

use super::{Context, Feed, is_whole};

/// Archives are made of blocks.
const BLOCK: u64 = 512;
/// The largest size that the plain header has room for.
const MAX_PLAIN_SIZE: u64 = 0o77_777_777_777;
/// The largest owner or group that the plain header has room for.
const MAX_PLAIN_OWNER: u32 = 0o7_777_777;

struct Level {
    path: Vec<u8>,
    nodes: TreeStream,
}

/// Writes what is in a directory; `node` is the directory itself.
pub(super) fn write(context: &Context<'_>, feed: &mut Feed<'_>, tree: &BlobId, node: Option<&Node>) -> Result<()> {
    let mut links = HashMap::new();
    if let Some(node) = node {
        feed.bytes(header(node, b"./", None))?;
    }
    let mut levels = vec![Level { path: Vec::new(), nodes: context.trees.open(tree)? }];
    while let Some(level) = levels.last_mut() {
        if context.repository.stop().is_stopped() {
            return Err(Error::Stopped);
        }
        let next = level.nodes.next_node();
        let Some(node) = next.or_else(|error| lose(context, &level.path, &error).map_err(|()| error))? else {
            levels.pop();
            continue;
        };
        let path = if level.path.is_empty() { node.name.clone() } else { [level.path.as_slice(), b"/", &node.name].concat() };
        if node.name.is_empty() || node.name == b"." || node.name == b".." || node.name.contains(&b'/') || node.name.contains(&0) {
            item(context, &path, "such a name leads elsewhere: left out");
            continue;
        }
        match (node.kind, node.subtree) {
            (NodeKind::Dir, Some(tree)) => {
                check_depth(levels.len())?;
                feed.bytes(header(&node, &[path.as_slice(), b"/"].concat(), None))?;
                match context.trees.open(&tree) {
                    Ok(nodes) => levels.push(Level { path, nodes }),
                    Err(error) => drop(lose(context, &path, &error).map_err(|()| error)?),
                }
            }
            (NodeKind::Dir, None) => item(context, &path, "the snapshot names no tree for this directory"),
            (NodeKind::Socket, _) => {}
            _ => entry(context, feed, &mut links, &node, path)?,
        }
    }
    // The end of an archive.
    feed.bytes(vec![0; 2 * BLOCK as usize])
}

/// A tree that cannot be read (further) costs what was in it, not the rest.
fn lose(context: &Context<'_>, path: &[u8], error: &Error) -> Result<Option<Node>, ()> {
    match error {
        Error::Damaged { .. } | Error::MissingBlob { .. } => {
            item(context, path, &format!("what is in it is lost, or part of it: {error}"));
            Ok(None)
        }
        _ => Err(()),
    }
}

fn item(context: &Context<'_>, path: &[u8], problem: &str) {
    context.report.item(Path::new(OsStr::from_bytes(path)), problem, Severity::Error);
}

type Links = HashMap<(u64, u64), Vec<u8>>;

fn entry(context: &Context<'_>, feed: &mut Feed<'_>, links: &mut Links, node: &Node, path: Vec<u8>) -> Result<()> {
    let has_more_names = node.links > 1 && node.inode != 0;
    if let Some(first) = links.get(&(node.inode, node.device_id)).filter(|_| has_more_names) {
        return feed.bytes(header(node, &path, Some(first)));
    }
    if node.kind == NodeKind::File {
        if let Err(why) = is_whole(context, node) {
            item(context, &path, &format!("left out: {why}"));
            return Ok(());
        }
        feed.bytes(header(node, &path, None))?;
        feed.file(context, node)?;
        feed.bytes(vec![0; (node.size.next_multiple_of(BLOCK) - node.size) as usize])?;
    } else {
        feed.bytes(header(node, &path, None))?;
    }
    if has_more_names {
        links.insert((node.inode, node.device_id), path);
    }
    Ok(())
}

/// The header of an entry, with what the plain one has no room for before it.
fn header(node: &Node, path: &[u8], link_to: Option<&[u8]>) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let kind = match (link_to, node.kind) {
        (Some(_), _) => EntryType::Link,
        (None, NodeKind::Dir) => EntryType::Directory,
        (None, NodeKind::Symlink) => EntryType::Symlink,
        (None, NodeKind::BlockDevice) => EntryType::Block,
        (None, NodeKind::CharDevice) => EntryType::Char,
        (None, NodeKind::Fifo) => EntryType::Fifo,
        (None, NodeKind::File | NodeKind::Socket) => EntryType::Regular,
    };
    let size = if kind == EntryType::Regular { node.size } else { 0 };
    let mut more: Vec<(String, Vec<u8>)> = Vec::new();
    header.set_entry_type(kind);
    header.set_mode(unix_permissions(node.mode));
    header.set_size(size.min(MAX_PLAIN_SIZE));
    if size > MAX_PLAIN_SIZE {
        more.push(("size".to_owned(), size.to_string().into_bytes()));
    }
    header.set_uid(u64::from(node.uid.min(MAX_PLAIN_OWNER)));
    header.set_gid(u64::from(node.gid.min(MAX_PLAIN_OWNER)));
    for (key, id) in [("uid", node.uid), ("gid", node.gid)] {
        if id > MAX_PLAIN_OWNER {
            more.push((key.to_owned(), id.to_string().into_bytes()));
        }
    }
    let (seconds, nanos) = (node.mtime.seconds(), node.mtime.nanos());
    header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(MAX_PLAIN_SIZE));
    if nanos != 0 || seconds < 0 || seconds.unsigned_abs() > MAX_PLAIN_SIZE {
        more.push(("mtime".to_owned(), decimal(node.mtime).into_bytes()));
    }
    if matches!(kind, EntryType::Block | EntryType::Char) {
        // Device numbers of Linux have 12 and 20 bits: there is room for them.
        let _ = header.set_device_major(rustix::fs::major(node.device));
        let _ = header.set_device_minor(rustix::fs::minor(node.device));
    }
    let target = link_to.unwrap_or(if kind == EntryType::Symlink { &node.link_target } else { b"" });
    for (key, text) in [("path", path), ("linkpath", target)] {
        let field = if key == "path" { &mut header.as_old_mut().name } else { &mut header.as_old_mut().linkname };
        let length = text.len().min(field.len());
        field[..length].copy_from_slice(&text[..length]);
        if length < text.len() {
            more.push((key.to_owned(), text.to_vec()));
        }
    }
    if kind != EntryType::Link {
        more.extend(node.xattrs.iter().map(|xattr| (format!("SCHILY.xattr.{}", keyword(&xattr.name)), xattr.value.clone())));
    }
    header.set_cksum();
    let mut archive = Builder::new(Vec::new());
    let written = archive.append_pax_extensions(more.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
    written.expect("memory takes all");
    let bytes = archive.get_mut();
    bytes.extend_from_slice(header.as_bytes());
    // The end of an archive is not for each entry.
    std::mem::take(bytes)
}

/// A name of an attribute as GNU tar writes it: the keyword ends at the first `=`.
fn keyword(name: &str) -> String {
    name.replace('%', "%25").replace('=', "%3D")
}

/// Seconds with their fraction, also before 1970.
fn decimal(time: Time) -> String {
    let (seconds, nanos) = (time.seconds(), time.nanos());
    if seconds < 0 && nanos > 0 {
        return format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_backwards() {
        for (seconds, nanos, text) in
            [(0, 5, "0.000000005"), (-1, 0, "-1.000000000"), (-1, 500_000_000, "-0.500000000"), (-5, 1, "-4.999999999")]
        {
            assert_eq!(decimal(Time::new(seconds, nanos)), text);
        }
    }

    #[test]
    fn what_the_plain_header_lacks_comes_before_it() {
        let node = Node { uid: 3_000_000, size: 1 << 40, ..Node::new(b"x".to_vec(), NodeKind::File) };
        let path = vec![b'a'; 300];
        let bytes = header(&node, &path, None);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!((entry.size(), &*entry.path_bytes()), (1 << 40, path.as_slice()));
        let keys: Vec<String> = entry.pax_extensions().unwrap().unwrap().map(|each| each.unwrap().key().unwrap().to_owned()).collect();
        assert_eq!(keys, ["size", "uid", "path"]);
    }
}
