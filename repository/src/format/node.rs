//! A node: one entry of a directory. Field order and the rules for leaving fields out are restic's, so that trees of the
//! same content have the same id whoever wrote them.

use std::io::{self, Write};

use serde::Deserialize;

use super::time::Time;
use super::{gojson, name};
use crate::id::BlobId;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum NodeKind {
    /// A regular file.
    #[serde(rename = "file")]
    File,
    /// A directory.
    #[serde(rename = "dir")]
    Dir,
    /// A symbolic link.
    #[serde(rename = "symlink")]
    Symlink,
    /// A block device.
    #[serde(rename = "dev")]
    BlockDevice,
    /// A character device.
    #[serde(rename = "chardev")]
    CharDevice,
    /// A named pipe.
    #[serde(rename = "fifo")]
    Fifo,
    /// A socket: recorded, never restored.
    #[serde(rename = "socket")]
    Socket,
}

impl NodeKind {
    /// The format's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::BlockDevice => "dev",
            Self::CharDevice => "chardev",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Such as `user.comment` or `system.posix_acl_access`.
    pub name: String,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Raw bytes, as the file system has them.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Go's `os.FileMode`, see [`go_mode`].
    pub mode: u32,
    /// Last change of content.
    pub mtime: Time,
    /// Written as the `mtime`: access times would make every tree new.
    pub atime: Time,
    /// Last change of metadata.
    pub ctime: Time,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name, where the machine knew it.
    pub user: String,
    /// Group's name, where the machine knew it.
    pub group: String,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system; kept for hard links alone.
    pub device_id: u64,
    /// Bytes of a file.
    pub size: u64,
    /// Number of hard links; 0 where it does not apply.
    pub links: u64,
    /// Where a symbolic link points; raw bytes.
    pub link_target: Vec<u8>,
    /// Sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Device number of a device node.
    pub device: u64,
    /// A file's chunks; `None` for everything else.
    pub content: Option<Vec<BlobId>>,
    /// A directory's tree.
    pub subtree: Option<BlobId>,
}

impl Node {
    /// A node of nothing but a name and a kind.
    #[must_use]
    pub fn new(name: Vec<u8>, kind: NodeKind) -> Self {
        Self {
            name,
            kind,
            mode: 0,
            mtime: Time::default(),
            atime: Time::default(),
            ctime: Time::default(),
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            inode: 0,
            device_id: 0,
            size: 0,
            links: 0,
            link_target: Vec::new(),
            xattrs: Vec::new(),
            device: 0,
            content: (kind == NodeKind::File).then(Vec::new),
            subtree: None,
        }
    }

    /// Writes the node as one JSON object; `content` may be long and is written id by id.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn encode(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"{\"name\":")?;
        gojson::write_string(out, &name::quote(&self.name))?;
        write!(out, ",\"type\":\"{}\"", self.kind.as_str())?;
        write_nonzero(out, "mode", u64::from(self.mode))?;
        write!(out, ",\"mtime\":\"{}\",\"atime\":\"{}\",\"ctime\":\"{}\"", self.mtime, self.atime, self.ctime)?;
        write!(out, ",\"uid\":{},\"gid\":{}", self.uid, self.gid)?;
        for (key, text) in [("user", &self.user), ("group", &self.group)] {
            if !text.is_empty() {
                write!(out, ",\"{key}\":")?;
                gojson::write_string(out, text)?;
            }
        }
        write_nonzero(out, "inode", self.inode)?;
        write_nonzero(out, "device_id", self.device_id)?;
        write_nonzero(out, "size", self.size)?;
        write_nonzero(out, "links", self.links)?;
        self.encode_link_target(out)?;
        self.encode_xattrs(out)?;
        write_nonzero(out, "device", self.device)?;
        self.encode_content(out)?;
        if let Some(subtree) = &self.subtree {
            write!(out, ",\"subtree\":\"{subtree}\"")?;
        }
        out.write_all(b"}")
    }

    fn encode_link_target(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.link_target.is_empty() {
            return Ok(());
        }
        out.write_all(b",\"linktarget\":")?;
        gojson::write_lossy(out, &self.link_target)?;
        if std::str::from_utf8(&self.link_target).is_err() {
            write!(out, ",\"linktarget_raw\":\"{}\"", data_encoding::BASE64.encode(&self.link_target))?;
        }
        Ok(())
    }

    fn encode_xattrs(&self, out: &mut dyn Write) -> io::Result<()> {
        for (i, xattr) in self.xattrs.iter().enumerate() {
            out.write_all(if i == 0 { b",\"extended_attributes\":[{\"name\":" } else { b",{\"name\":" })?;
            gojson::write_string(out, &xattr.name)?;
            write!(out, ",\"value\":\"{}\"}}", data_encoding::BASE64.encode(&xattr.value))?;
        }
        if self.xattrs.is_empty() { Ok(()) } else { out.write_all(b"]") }
    }

    fn encode_content(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(content) = &self.content else { return out.write_all(b",\"content\":null") };
        out.write_all(b",\"content\":[")?;
        for (i, id) in content.iter().enumerate() {
            let mut quoted = *b",\"................................................................\"";
            data_encoding::HEXLOWER.encode_mut(&id.0, &mut quoted[2..66]);
            out.write_all(if i == 0 { &quoted[1..] } else { &quoted })?;
        }
        out.write_all(b"]")
    }

    /// Reads one JSON object. Unknown fields are passed over.
    ///
    /// # Errors
    /// Not a node, a time without zone, an unknown type, a broken name; in words.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let node: NodeJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let base64 = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).map_err(|error| error.to_string());
        let time = |text: Option<&str>| text.map_or(Ok(Time::default()), Time::parse);
        let mut xattrs = Vec::with_capacity(node.extended_attributes.len());
        for xattr in node.extended_attributes {
            xattrs.push(Xattr { name: xattr.name, value: base64(xattr.value.as_deref().unwrap_or_default())? });
        }
        Ok(Self {
            name: name::unquote(&node.name)?,
            kind: node.r#type,
            mode: node.mode,
            mtime: time(node.mtime.as_deref())?,
            atime: time(node.atime.as_deref())?,
            ctime: time(node.ctime.as_deref())?,
            uid: node.uid,
            gid: node.gid,
            user: node.user,
            group: node.group,
            inode: node.inode,
            device_id: node.device_id,
            size: node.size,
            links: node.links,
            link_target: match &node.linktarget_raw {
                Some(raw) => base64(raw)?,
                None => node.linktarget.into_bytes(),
            },
            xattrs,
            device: node.device,
            content: node.content,
            subtree: node.subtree,
        })
    }
}

fn write_nonzero(out: &mut dyn Write, key: &str, number: u64) -> io::Result<()> {
    if number == 0 { Ok(()) } else { write!(out, ",\"{key}\":{number}") }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct NodeJson<'a> {
    name: String,
    r#type: NodeKind,
    #[serde(default)]
    mode: u32,
    mtime: Option<std::borrow::Cow<'a, str>>,
    atime: Option<std::borrow::Cow<'a, str>>,
    ctime: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    user: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    device_id: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default)]
    linktarget: String,
    linktarget_raw: Option<String>,
    #[serde(default)]
    extended_attributes: Vec<XattrJson>,
    #[serde(default)]
    device: u64,
    content: Option<Vec<BlobId>>,
    subtree: Option<BlobId>,
}

#[derive(Deserialize)]
struct XattrJson {
    name: String,
    value: Option<String>,
}

const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_CHAR_DEVICE: u32 = 1 << 21;
const GO_STICKY: u32 = 1 << 20;

/// Go's `os.FileMode` of a kind and the low twelve bits of a Unix mode.
#[must_use]
pub fn go_mode(kind: NodeKind, unix: u32) -> u32 {
    let kind_bits = match kind {
        NodeKind::File => 0,
        NodeKind::Dir => GO_DIR,
        NodeKind::Symlink => GO_SYMLINK,
        NodeKind::BlockDevice => GO_DEVICE,
        NodeKind::CharDevice => GO_DEVICE | GO_CHAR_DEVICE,
        NodeKind::Fifo => GO_FIFO,
        NodeKind::Socket => GO_SOCKET,
    };
    let special = [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];
    special.iter().filter(|(bit, _)| unix & bit != 0).fold(kind_bits | unix & 0o777, |mode, (_, go)| mode | go)
}

/// The low twelve bits of a Unix mode of Go's `os.FileMode`.
#[must_use]
pub fn unix_permissions(go: u32) -> u32 {
    let special = [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];
    special.iter().filter(|(_, bit)| go & bit != 0).fold(go & 0o777, |mode, (unix, _)| mode | unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(node: &Node) -> String {
        let mut out = Vec::new();
        node.encode(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden_file() {
        let mut node = Node::new(b"a\xff<b>".to_vec(), NodeKind::File);
        node.mode = go_mode(NodeKind::File, 0o4755);
        node.mtime = Time::new(1, 500_000_000);
        node.user = "root".to_owned();
        node.inode = 7;
        node.size = 3;
        node.links = 1;
        node.xattrs = vec![Xattr { name: "user.a".to_owned(), value: b"v".to_vec() }, Xattr { name: "user.b".to_owned(), value: vec![] }];
        node.content = Some(vec![BlobId([1; 32]), BlobId([2; 32])]);
        let expected = format!(
            concat!(
                r#"{{"name":"a\\xff\u003cb\u003e","type":"file","mode":8389101,"mtime":"1970-01-01T00:00:01.5Z","#,
                r#""atime":"1970-01-01T00:00:00Z","ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0,"user":"root","inode":7,"size":3,"links":1,"#,
                r#""extended_attributes":[{{"name":"user.a","value":"dg=="}},{{"name":"user.b","value":""}}],"content":["{}","{}"]}}"#
            ),
            "01".repeat(32),
            "02".repeat(32)
        );
        assert_eq!(json(&node), expected);
        assert_eq!(Node::decode(expected.as_bytes()).unwrap(), node);
    }

    #[test]
    fn golden_others() {
        let tail = r#""mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z","ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0"#;
        let mut dir = Node::new(b"d".to_vec(), NodeKind::Dir);
        dir.mode = go_mode(NodeKind::Dir, 0o1777);
        dir.subtree = Some(BlobId([3; 32]));
        let subtree = "03".repeat(32);
        assert_eq!(json(&dir), format!(r#"{{"name":"d","type":"dir","mode":2148532735,{tail},"content":null,"subtree":"{subtree}"}}"#));
        let mut link = Node::new(b"l".to_vec(), NodeKind::Symlink);
        link.link_target = b"to\xfe".to_vec();
        let expected = format!(r#"{{"name":"l","type":"symlink",{tail},"linktarget":"to\ufffd","linktarget_raw":"dG/+","content":null}}"#);
        assert_eq!(json(&link), expected);
        assert_eq!(Node::decode(expected.as_bytes()).unwrap(), link);
        assert!(json(&Node::new(b"e".to_vec(), NodeKind::File)).ends_with(r#","content":[]}"#));
    }

    #[test]
    fn modes_survive() {
        for unix in [0, 0o644, 0o4755, 0o2755, 0o1777, 0o7777] {
            assert_eq!(unix_permissions(go_mode(NodeKind::CharDevice, unix)), unix);
        }
    }

    #[test]
    fn nodes_that_cannot_be_are_refused() {
        for bad in [
            r#"{"name":"a"}"#,
            r#"{"name":"a","type":"irregular"}"#,
            r#"{"name":"a\\q","type":"file"}"#,
            r#"{"name":"a","type":"file","mtime":"2020-01-01T00:00:00"}"#,
            r#"{"name":"a","type":"file","content":["00"]}"#,
        ] {
            assert!(Node::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
