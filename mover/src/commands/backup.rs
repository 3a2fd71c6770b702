//! `mover backup`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use contract::{BackupSummary, ExitCode, Line};
use repository::Repository;
use repository::compress::Compression;
use repository::resume::Source;
use repository::retention::is_complete;
use repository::snapshots::Filter;
use repository::write::{Verify, WriteMode};

use crate::backup::{self, ChangeTest, EmptySource, FileSystems, Outcome, ParentChoice, Request, Resume, SourceKind, Unchanged};
use crate::cli::args::{Backup, CompressionLevel};
use crate::cli::exit::CommandError;
use crate::cli::settings::{Settings, hostname, username};
use crate::report::{Report, requests, summary};
use crate::source::exclude::Excludes;
use crate::source::roots::Roots;

pub(super) fn run(settings: &Settings, args: Backup) -> Result<ExitCode, CommandError> {
    let is_once = args.once;
    let request = request(settings, args)?;
    // Before a password is asked for or the storage is.
    refuse_missing(&request)?;
    let repository = settings.open()?;
    let report = &settings.report;
    if is_once && let Some(made) = made_before(&repository, &request.tags)? {
        return finish(report, &made);
    }
    let outcome = report.during(|| backup::run(&repository, &request, report))?;
    finish(report, &summarize(&outcome, &repository, report, request.mode))
}

fn finish(report: &Report, summary: &BackupSummary) -> Result<ExitCode, CommandError> {
    report.last(&Line::BackupSummary(summary.clone()), || summary::backup(summary))?;
    Ok(if summary.errors > 0 { ExitCode::Incomplete } else { ExitCode::Success })
}

/// What an earlier run with all of these tags has made.
fn made_before(repository: &Repository, tags: &[String]) -> Result<Option<BackupSummary>, CommandError> {
    let filter = Filter { tags: tags.to_vec(), ..Filter::default() };
    Ok(repository.snapshots(&filter)?.pop().map(|made| BackupSummary {
        repository_id: repository.config().id.hex(),
        was_there: true,
        snapshot_id: Some(made.id.hex()),
        parent_id: made.snapshot.parent.map(|id| id.hex()),
        tree_id: made.snapshot.tree.hex(),
        // How many they were, only that run knew.
        errors: u64::from(!is_complete(&made)),
        ..BackupSummary::default()
    }))
}

fn request(settings: &Settings, args: Backup) -> Result<Request, CommandError> {
    let kind = match &args {
        Backup { stdin: true, .. } => SourceKind::Stream,
        Backup { block: true, .. } => SourceKind::Block,
        _ => SourceKind::Files,
    };
    let mut patterns = args.excludes;
    for file in &args.exclude_files {
        let text = std::fs::read_to_string(file)
            .map_err(|error| CommandError::usage(format!("cannot read exclude file {}: {error}", file.display())))?;
        patterns.extend(Excludes::lines(&text));
    }
    let roots = roots(kind, &args.paths, args.stored_as.as_deref(), args.stdin_filename.as_deref())?;
    let host = args.host.unwrap_or_else(hostname);
    if args.record_every.0.is_zero() {
        return Err(CommandError::usage("--record-every needs a time, for instance 10m"));
    }
    let compare = |ignore| if ignore { backup::Compare::Ignore } else { backup::Compare::Yes };
    Ok(Request {
        kind,
        excludes: Excludes::new(patterns).map_err(CommandError::usage)?,
        file_systems: if args.one_file_system { FileSystems::One } else { FileSystems::All },
        parent: match args.parent.as_str() {
            "auto" => ParentChoice::Auto,
            "none" => ParentChoice::None,
            id => ParentChoice::Id(id.to_owned()),
        },
        change_test: ChangeTest { inode: compare(args.ignore_inode), ctime: compare(args.ignore_ctime) },
        empty: if args.allow_empty { EmptySource::Allow } else { EmptySource::Refuse },
        unchanged: if args.skip_if_unchanged { Unchanged::Skip } else { Unchanged::Save },
        mode: if args.dry_run { WriteMode::DryRun } else { WriteMode::Store },
        resume: args.source_id.map(|id| Resume {
            source: Source { id, host: host.clone(), paths: roots.paths.clone() },
            grace: args.grace.0,
            every: args.record_every.0,
        }),
        host,
        username: username(),
        tags: args.tags,
        time: args.time.map(|time| time.0),
        compression: match args.compression {
            CompressionLevel::Off => Compression::Off,
            CompressionLevel::Fast => Compression::Fast,
            CompressionLevel::Default => Compression::Default,
            CompressionLevel::Better => Compression::Better,
        },
        verify: if args.no_extra_verify { Verify::Nothing } else { Verify::Sealed },
        shares: settings.source_shares,
        retry_lock: settings.retry_lock,
        roots,
    })
}

fn roots(kind: SourceKind, paths: &[PathBuf], stored_as: Option<&Path>, stdin_filename: Option<&str>) -> Result<Roots, CommandError> {
    if kind == SourceKind::Stream {
        let name = stdin_filename.unwrap_or_default().trim_start_matches('/');
        if name.is_empty() {
            return Err(CommandError::usage("--stdin-filename needs a name"));
        }
        return Ok(Roots::under(Path::new("-"), &Path::new("/").join(name)));
    }
    if let Some(stored) = stored_as {
        return match paths {
            [one] if stored.is_absolute() && stored != Path::new("/") => Ok(Roots::under(one, stored)),
            [_] => Err(CommandError::usage("--as needs an absolute path such as /namespace/claim")),
            _ => Err(CommandError::usage("--as goes with one source")),
        };
    }
    let current = std::env::current_dir().map_err(|error| CommandError::usage(format!("cannot tell the current directory: {error}")))?;
    Ok(Roots::of(paths, &current))
}

fn refuse_missing(request: &Request) -> Result<(), CommandError> {
    use crate::source::roots::Root;
    fn check(root: &Root) -> Result<(), CommandError> {
        match root {
            Root::Above { children, .. } => children.values().try_for_each(check),
            Root::Source(path) => rustix::fs::stat(path).map(drop).map_err(|error| CommandError::Usage {
                message: format!("cannot read source {}: {error}", crate::source::display(path)),
                hint: Some("a source that is missing is never saved as an empty one; check the path, and that it is mounted"),
            }),
        }
    }
    if request.kind == SourceKind::Stream { Ok(()) } else { check(&request.roots.root) }
}

fn summarize(outcome: &Outcome, repository: &Repository, report: &Report, mode: WriteMode) -> BackupSummary {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let Outcome { snapshot_id, parent_id, tree, counts, added } = outcome;
    let [files_new, files_changed, files_unchanged] = [&counts.files_new, &counts.files_changed, &counts.files_unchanged].map(get);
    BackupSummary {
        repository_id: repository.config().id.hex(),
        was_there: false,
        snapshot_id: snapshot_id.map(|id| id.hex()),
        parent_id: parent_id.map(|id| id.hex()),
        tree_id: tree.hex(),
        files_new,
        files_changed,
        files_unchanged,
        dirs_new: get(&counts.dirs_new),
        dirs_changed: get(&counts.dirs_changed),
        dirs_unchanged: get(&counts.dirs_unchanged),
        sockets_skipped: get(&counts.sockets),
        total_files: files_new + files_changed + files_unchanged,
        total_bytes: get(&counts.total_bytes),
        bytes_read: get(&counts.bytes_read),
        files_resumed: get(&counts.files_resumed),
        bytes_resumed: get(&counts.bytes_resumed),
        data_blobs: get(&added.data_blobs),
        tree_blobs: get(&added.tree_blobs),
        bytes_added: get(&added.plain_bytes),
        bytes_stored: get(&added.stored_bytes),
        errors: report.errors(),
        warnings: report.warnings(),
        seconds: report.seconds(),
        requests: requests(repository.counters()),
        dry_run: mode == WriteMode::DryRun,
    }
}
