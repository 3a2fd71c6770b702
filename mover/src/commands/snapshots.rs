//! `mover snapshots`.

use std::fmt::Write;

use contract::ExitCode;
use repository::Repository;
use repository::id::ObjectId;
use repository::snapshots::{self, Filter, Stored};

use super::{filter, reading, shown_time};
use crate::cli::args::{self, Snapshots};
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::{Output, human};

pub(super) fn run(settings: &Settings, args: Snapshots) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    let filter = filter(args.filter, args.before);
    let (lock, mut found) = reading(settings, &repository, || repository.snapshots(&filter))?;
    lock.release()?;
    // The newest come last.
    found.truncate(found.len().saturating_sub(args.skip));
    found.drain(..found.len().saturating_sub(args.limit.unwrap_or(usize::MAX)));
    let mut text = String::new();
    if settings.report.output() == Output::Json {
        for stored in &found {
            writeln!(text, "{}", json(stored)?).expect("strings take all");
        }
    } else {
        let rows: Vec<[String; 6]> = found
            .iter()
            .map(|stored| {
                let size =
                    stored.snapshot.summary.as_ref().map_or_else(|| "?".to_owned(), |summary| human::bytes(summary.total_bytes_processed));
                let (tags, paths) = (stored.snapshot.tags.join(","), stored.snapshot.paths.join(" "));
                [stored.id.short(), shown_time(stored), stored.snapshot.hostname.clone(), size, tags, paths]
            })
            .collect();
        text = table(["ID", "TIME", "HOST", "SIZE", "TAGS", "PATHS"], &rows);
        writeln!(text, "{} snapshots", human::count(found.len() as u64)).expect("strings take all");
    }
    settings.report.print(&text)?;
    Ok(ExitCode::Success)
}

/// Those that were named, or all that the filters let through; oldest first.
pub(super) fn chosen(repository: &Repository, chosen: args::Chosen) -> repository::Result<Vec<Stored>> {
    named(repository, &chosen.snapshots, &filter(chosen.filter, None))
}

/// The same of arguments that are in pieces.
pub(super) fn named(repository: &Repository, wanted: &[String], filter: &Filter) -> repository::Result<Vec<Stored>> {
    among(repository.snapshots(filter)?, wanted)
}

/// Those that were named, or all.
pub(super) fn among(mut all: Vec<Stored>, wanted: &[String]) -> repository::Result<Vec<Stored>> {
    if !wanted.is_empty() {
        let ids = wanted.iter().map(|wanted| snapshots::find(&all, wanted)).collect::<repository::Result<Vec<ObjectId>>>()?;
        all.retain(|stored| ids.contains(&stored.id));
    }
    Ok(all)
}

/// A snapshot as one object.
pub(super) fn json(stored: &Stored) -> Result<serde_json::Value, CommandError> {
    let mut json = serde_json::to_value(&stored.snapshot).map_err(std::io::Error::from)?;
    json["id"] = stored.id.hex().into();
    json["short_id"] = stored.id.short().into();
    json["message_type"] = "snapshot".into();
    Ok(json)
}

/// Columns as wide as their widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(text, "{}", padded.join("  ").trim_end()).expect("strings take all");
    };
    line(head);
    rows.iter().for_each(|row| line(std::array::from_fn(|column| row[column].as_str())));
    text
}
