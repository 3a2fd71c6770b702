//! `mover tag`.

use contract::{ExitCode, Line, TagSummary};
use repository::format::lock::LockMode;
use repository::lock::Lock;
use repository::retention::INCOMPLETE_TAG;
use repository::snapshots::Filter;

use super::filter;
use super::snapshots::among;
use crate::cli::args::{Tag, TagChange};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::human::count;

pub(super) fn run(settings: &Settings, args: Tag) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    // A policy that is applied beside it could take the new one for the double of the old.
    let lock = Lock::acquire(&repository, LockMode::Exclusive, settings.retry_lock)?;
    let others = repository.snapshots(&Filter::default())?;
    let filter = filter(args.chosen.filter, None);
    let fitting = others.iter().filter(|stored| filter.matches(&stored.snapshot)).cloned().collect();
    let all = among(fitting, &args.chosen.snapshots)?;
    let mut saved = Vec::new();
    for stored in &all {
        let tags = tags(&stored.snapshot.tags, &args.change);
        if tags != stored.snapshot.tags {
            saved.push((stored.id.hex(), repository.tag_snapshot(stored, tags, &others)?.hex()));
        }
    }
    lock.release()?;
    let summary = TagSummary { snapshots: all.len() as u64, saved };
    let (changed, looked_at) = (count(summary.saved.len() as u64), count(summary.snapshots));
    settings.report.last(&Line::TagSummary(summary), || format!("{changed} of {looked_at} snapshots have other tags now"))?;
    Ok(ExitCode::Success)
}

/// The tags afterwards: in the order they had, new ones last, each once.
fn tags(before: &[String], change: &TagChange) -> Vec<String> {
    let stays = |tag: &&String| match &change.set {
        Some(_) => *tag == INCOMPLETE_TAG,
        None => !change.remove.contains(tag),
    };
    let mut after: Vec<String> = before.iter().filter(stays).cloned().collect();
    for tag in change.set.iter().flatten().chain(&change.add).filter(|tag| !tag.is_empty()) {
        if !after.contains(tag) {
            after.push(tag.clone());
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_incomplete_stays_so_unless_it_is_said() {
        let list = |text: &str| text.split_terminator(' ').map(str::to_owned).collect::<Vec<_>>();
        let change = |set: Option<&str>, add, remove| TagChange { set: set.map(list), add: list(add), remove: list(remove) };
        for (before, change, after) in [
            ("a b", change(Some("c"), "", ""), "c"),
            ("a b", change(Some(""), "", ""), ""),
            ("a estiba:incomplete", change(Some("c"), "", ""), "estiba:incomplete c"),
            ("a estiba:incomplete", change(None, "", "estiba:incomplete"), "a"),
            ("a b", change(None, "c b c", "a"), "b c"),
            ("a b", change(None, "", "c"), "a b"),
        ] {
            assert_eq!(tags(&list(before), &change), list(after), "{before:?} {change:?}");
        }
    }
}
