//! The last word of a command, for people.

use std::fmt::Write;
use std::time::Duration;

use contract::{BackupSummary, CheckSummary, PruneSummary, Requests, RestoreSummary, VerifySummary};

use super::human::{bytes, count, duration, local_time};

pub(crate) fn backup(summary: &BackupSummary) -> String {
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    let of =
        |new, changed, unchanged| format!("{:>10} new, {:>10} changed, {:>10} unchanged", count(new), count(changed), count(unchanged));
    row("files", of(summary.files_new, summary.files_changed, summary.files_unchanged));
    row("dirs", of(summary.dirs_new, summary.dirs_changed, summary.dirs_unchanged));
    let rate = summary.total_bytes as f64 / summary.seconds.max(0.001);
    row("source", format!("{} in {} files, {} read", bytes(summary.total_bytes), count(summary.total_files), bytes(summary.bytes_read)));
    row("added", added(summary));
    row("time", format!("{}, {}/s", duration(Duration::from_secs_f64(summary.seconds)), bytes(rate as u64)));
    row("requests", requests(&summary.requests));
    if summary.sockets_skipped > 0 {
        row("skipped", format!("{} sockets", count(summary.sockets_skipped)));
    }
    if summary.warnings > 0 {
        row("warnings", format!("{} items changed while they were read, or the like: see above", count(summary.warnings)));
    }
    if summary.errors > 0 {
        row("errors", format!("{} items could not be read whole: see above", count(summary.errors)));
    }
    let last = match (&summary.snapshot_id, summary.dry_run) {
        (Some(id), _) => format!("snapshot {} saved", &id[..8]),
        (None, true) => "dry run: nothing was stored".to_owned(),
        (None, false) => "nothing has changed: no snapshot saved".to_owned(),
    };
    row("result", last);
    text
}

fn added(summary: &BackupSummary) -> String {
    if summary.bytes_added == 0 {
        return "nothing: all of it was there".to_owned();
    }
    let ratio = summary.bytes_added as f64 / summary.bytes_stored.max(1) as f64;
    format!(
        "{}, stored as {} ({ratio:.2} : 1) in {} blobs",
        bytes(summary.bytes_added),
        bytes(summary.bytes_stored),
        count(summary.data_blobs + summary.tree_blobs)
    )
}

pub(crate) fn restore(summary: &RestoreSummary) -> String {
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    let verb = if summary.dry_run { "to write" } else { "written" };
    row("files", format!("{} {verb}, {} left as they were", count(summary.files_restored), count(summary.files_skipped)));
    row("dirs", format!("{}, and {} links, devices and pipes", count(summary.dirs_restored), count(summary.others_restored)));
    row("bytes", bytes(summary.bytes_restored));
    if summary.bytes_in_place > 0 {
        row("in place", format!("{} were there already", bytes(summary.bytes_in_place)));
    }
    if summary.deleted > 0 {
        row("deleted", format!("{} entries that the snapshot does not have", count(summary.deleted)));
    }
    if summary.extras_kept > 0 {
        row("kept", format!("{} entries that the snapshot does not have, because of the errors", count(summary.extras_kept)));
    }
    row("fetch", format!("{} in {} requests", bytes(summary.bytes_to_fetch), count(summary.pack_requests)));
    let rate = summary.bytes_restored as f64 / summary.seconds.max(0.001);
    if !summary.dry_run {
        row("time", format!("{}, {}/s", duration(Duration::from_secs_f64(summary.seconds)), bytes(rate as u64)));
        row("requests", requests(&summary.requests));
    }
    if summary.bytes_verified > 0 {
        row("verified", format!("{} read back and compared", bytes(summary.bytes_verified)));
    }
    if summary.owners_not_set > 0 {
        row("owners", format!("of {} items not set: only root may give files to others", count(summary.owners_not_set)));
    }
    if summary.errors > 0 {
        row("errors", format!("{} items are not as they were: see above", count(summary.errors)));
    }
    let last = if summary.dry_run { "dry run: nothing was written" } else { "restored" };
    row("result", format!("{last} (snapshot {})", &summary.snapshot_id[..8]));
    text
}

pub(crate) fn verify(summary: &VerifySummary) -> String {
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    let entries = [("files", summary.files), ("directories", summary.dirs), ("links, devices and pipes", summary.others)];
    row("read", entries.map(|(what, number)| format!("{} {what}", count(number))).join(", "));
    let rate = summary.bytes as f64 / summary.seconds.max(0.001);
    row("bytes", bytes(summary.bytes));
    row("time", format!("{}, {}/s", duration(Duration::from_secs_f64(summary.seconds)), bytes(rate as u64)));
    row("requests", requests(&summary.requests));
    let snapshot = &summary.snapshot_id[..8];
    row(
        "result",
        match summary.errors {
            0 => format!("all of snapshot {snapshot} can be restored"),
            errors => format!("{} items of snapshot {snapshot} cannot be restored as they were: see above", count(errors)),
        },
    );
    text
}

pub(crate) fn check(summary: &CheckSummary) -> String {
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    row("snapshots", format!("{} with {} trees", count(summary.snapshots), count(summary.trees)));
    row("index", format!("{} blobs in {} packs", count(summary.blobs), count(summary.packs)));
    if summary.packs_read > 0 {
        row("read", format!("{} packs, {}, every byte hashed", count(summary.packs_read), bytes(summary.bytes_read)));
    }
    row("time", duration(Duration::from_secs_f64(summary.seconds)));
    row("requests", requests(&summary.requests));
    let last = match (summary.errors, summary.hints) {
        (0, 0) => "no errors were found".to_owned(),
        (0, hints) => format!("no errors were found; {hints} hints: see above"),
        (errors, _) => format!("{errors} errors: see above"),
    };
    row("result", last);
    text
}

pub(crate) fn prune(summary: &PruneSummary) -> String {
    let mut text = String::new();
    let mut row = |name: &str, what: String| writeln!(text, "{name:<10} {what}").expect("strings take all");
    let PruneSummary { bytes_before, bytes_freed, .. } = *summary;
    row("needed", format!("{} in {} blobs, of {}", bytes(summary.bytes_needed), count(summary.blobs_needed), bytes(bytes_before)));
    let (kept, again, removed) = (summary.packs_kept, summary.packs_repacked, summary.packs_removed);
    row("packs", format!("{} stay, {} packed again, {} removed", count(kept), count(again), count(removed)));
    row("repacked", bytes(summary.bytes_repacked));
    row("unused", format!("{} stay", bytes(summary.bytes_unused_after)));
    row("time", duration(Duration::from_secs_f64(summary.seconds)));
    row("requests", format!("{}{}", if summary.dry_run { "about " } else { "" }, requests(&summary.requests)));
    if summary.packs_waiting > 0 {
        let (what, packs) = (bytes(summary.bytes_waiting), count(summary.packs_waiting));
        row("waiting", format!("{what} in {packs} packs go with a prune after these have ended: {}", summary.waits_for.join("; ")));
    }
    if summary.packs_retained > 0 {
        let until = summary.retained_until.as_deref().map_or("somebody ends a legal hold".to_owned(), local_time);
        row("retained", format!("{} in {} packs until {until}", bytes(summary.bytes_retained), count(summary.packs_retained)));
    }
    if summary.keeps_versions && bytes_freed > 0 {
        row(
            "versions",
            "this bucket keeps what is removed as old versions: room comes back when its lifecycle rule removes those".to_owned(),
        );
    }
    let freed = bytes(bytes_freed);
    row("result", if summary.dry_run { format!("{freed} would be freed; nothing was changed") } else { format!("{freed} freed") });
    text
}

fn requests(requests: &Requests) -> String {
    let mut text = format!(
        "{} put, {} get, {} head, {} list, {} delete; {} sent, {} received",
        requests.put,
        requests.get,
        requests.head,
        requests.list,
        requests.delete,
        bytes(requests.bytes_sent),
        bytes(requests.bytes_received)
    );
    if requests.retries > 0 {
        write!(text, "; {} tried again", requests.retries).expect("strings take all");
    }
    text
}
