//! From a mover's lines to an answer. No client required.

use serde::Deserialize;

use crate::api::RepositoryQuerySpec;
use crate::api::repository_query::{FileEntry, RepositoryQueryStatus, SnapshotEntry};

/// A line of `mover snapshots` or `mover ls`.
#[derive(Debug, Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
enum Line {
    Snapshot(Snapshot),
    Node(FileEntry),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Snapshot {
    id: String,
    time: String,
    #[serde(default)]
    hostname: String,
    paths: Vec<String>,
    summary: Option<Summary>,
}

#[derive(Debug, Deserialize)]
struct Summary {
    total_bytes_processed: u64,
}

/// Reads a log, of which the end is missing if `is_cut`.
pub(super) fn read(log: &str, spec: &RepositoryQuerySpec, is_cut: bool, status: &mut RepositoryQueryStatus) {
    let limit = spec.limit as usize;
    status.more = is_cut;
    // A line that was cut is none.
    for line in log.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Snapshot(snapshot) if spec.files.is_some() => status.snapshot = Some(entry(snapshot)),
            Line::Snapshot(snapshot) => status.snapshots.push(entry(snapshot)),
            Line::Node(file) if status.files.len() < limit => status.files.push(file),
            Line::Node(_) => status.more = true,
            Line::Other => {}
        }
    }
    let root = status.snapshot.as_ref().map(|snapshot| snapshot.path.clone()).unwrap_or_default();
    for file in &mut status.files {
        file.path = match file.path.strip_prefix(&root) {
            Some("") | None => file.path.clone(),
            Some(path) => path.to_owned(),
        };
    }
    // The newest are told last.
    status.snapshots.reverse();
    status.more |= status.snapshots.len() > limit;
    status.snapshots.truncate(limit);
}

fn entry(snapshot: Snapshot) -> SnapshotEntry {
    SnapshotEntry {
        id: snapshot.id,
        time: snapshot.time,
        path: snapshot.paths.into_iter().next().unwrap_or_default(),
        cluster: snapshot.hostname,
        bytes: snapshot.summary.map(|summary| summary.total_bytes_processed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(more: &serde_json::Value) -> RepositoryQuerySpec {
        let mut spec = json!({"repository": "main", "source": {"claim": "data"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn answer(lines: &[serde_json::Value], spec: &RepositoryQuerySpec) -> RepositoryQueryStatus {
        let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut status = RepositoryQueryStatus::default();
        read(&format!("{log}{{\"message_type\": \"no"), spec, false, &mut status);
        status
    }

    #[test]
    fn snapshots_come_newest_first_and_in_pages() {
        let of = |id: u32| {
            json!({"message_type": "snapshot", "id": id.to_string(), "time": "t", "hostname": "h", "paths": ["/shop/data"],
                "summary": {"total_bytes_processed": 7}, "tree": "x"})
        };
        let all: Vec<_> = (0..5).map(of).collect();
        let ids = |status: &RepositoryQueryStatus| status.snapshots.iter().map(|each| each.id.clone()).collect::<Vec<_>>();
        // One more than was asked for tells that there are more.
        let first = answer(&all[2..], &spec(&json!({"limit": 2})));
        assert_eq!((ids(&first), first.more, first.snapshots[0].bytes), (vec!["4".to_owned(), "3".to_owned()], true, Some(7)));
        let last = answer(&all[..1], &spec(&json!({"limit": 2, "skip": 4})));
        assert_eq!((ids(&last), last.more), (vec!["0".to_owned()], false));
    }

    #[test]
    fn files_are_told_from_the_root_of_their_volume() {
        let node = |path: &str| json!({"message_type": "node", "path": path, "type": "file", "mode": "0644", "uid": 1, "gid": 2, "size": 3, "mtime": "m", "inode": 9});
        let snapshot = json!({"message_type": "snapshot", "id": "i", "time": "t", "hostname": "h", "paths": ["/shop/data"]});
        let lines = [snapshot, node("/shop/data/a"), node("/shop/data/b"), json!({"message_type": "retry", "problem": "x"})];
        let whole = answer(&lines, &spec(&json!({"files": {"path": "/"}})));
        assert_eq!((whole.files[1].path.as_str(), whole.files[1].size, whole.more), ("/b", 3, false));
        assert_eq!(whole.snapshot.unwrap().id, "i");
        let first = answer(&lines, &spec(&json!({"files": {}, "limit": 1})));
        assert_eq!((first.files.len(), first.more), (1, true));
        // A volume that is one device is its own root.
        let device = answer(&[lines[0].clone(), node("/shop/data")], &spec(&json!({"files": {}})));
        assert_eq!(device.files[0].path, "/shop/data");
    }
}
