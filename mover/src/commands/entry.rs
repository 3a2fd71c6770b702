//! An entry of a snapshot, as `ls` and `find` show it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repository::format::node::{Node, NodeKind, unix_permissions};
use repository::id::ObjectId;

use crate::cli::settings::Settings;
use crate::report::Output;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Short,
    Long,
    Json,
}

impl Format {
    pub(super) fn new(settings: &Settings, is_long: bool) -> Self {
        match (settings.report.output(), is_long) {
            (Output::Json, _) => Self::Json,
            (_, true) => Self::Long,
            (_, false) => Self::Short,
        }
    }
}

/// One line; machines are told the snapshot, too, where there are several.
pub(super) fn write(out: &mut dyn Write, format: Format, snapshot: Option<ObjectId>, path: &[u8], node: &Node) -> std::io::Result<()> {
    let shown = crate::source::display(Path::new(OsStr::from_bytes(path)));
    match format {
        Format::Short => writeln!(out, "{shown}")?,
        Format::Long => {
            let link = if node.kind == NodeKind::Symlink { format!(" -> {}", node.link_target.escape_ascii()) } else { String::new() };
            let (mode, time) = (mode(node), node.mtime.to_string());
            writeln!(out, "{mode} {:>6} {:>6} {:>14} {time:<30} {shown}{link}", node.uid, node.gid, node.size)?;
        }
        Format::Json => {
            let mut json = serde_json::json!({
                "message_type": "node", "path": shown, "type": node.kind.as_str(), "mode": format!("{:04o}", unix_permissions(node.mode)),
                "uid": node.uid, "gid": node.gid, "size": node.size, "mtime": node.mtime.to_string(), "ctime": node.ctime.to_string(),
                "inode": node.inode, "links": node.links,
            });
            if let Some(id) = snapshot {
                json["snapshot_id"] = id.hex().into();
            }
            writeln!(out, "{json}")?;
        }
    }
    Ok(())
}

/// As `ls -l` shows it.
fn mode(node: &Node) -> String {
    let bits = unix_permissions(node.mode);
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::BlockDevice => 'b',
        NodeKind::CharDevice => 'c',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letters) in [(6, 0o4000, ['s', 'S']), (3, 0o2000, ['s', 'S']), (0, 0o1000, ['t', 'T'])] {
        let (read, write, execute) = (bits >> shift & 4 != 0, bits >> shift & 2 != 0, bits >> shift & 1 != 0);
        text.push(if read { 'r' } else { '-' });
        text.push(if write { 'w' } else { '-' });
        text.push(match (bits & special != 0, execute) {
            (true, true) => letters[0],
            (true, false) => letters[1],
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
