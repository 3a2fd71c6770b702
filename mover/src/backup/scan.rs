//! Counts files and bytes ahead of the walk, for progress that can say when it will be done. Never decides anything.

use std::path::Path;
use std::sync::Arc;

use repository::format::node::NodeKind;
use rustix::fs::SeekFrom;

use super::{Context, SourceKind};
use crate::source::DirHandle;
use crate::source::metadata::kind;
use crate::source::roots::Root;

pub(super) fn run(context: &Context<'_>) {
    let mut totals = (0, 0);
    match context.request.kind {
        SourceKind::Stream => return,
        SourceKind::Files | SourceKind::Block => root(context, &context.request.roots.root, &mut totals),
    }
    if !context.is_over() && !context.is_paused() {
        context.report.progress().set_totals(totals.0, totals.1);
    }
}

fn root(context: &Context<'_>, at: &Root, totals: &mut (u64, u64)) {
    match at {
        Root::Above { children, .. } => children.values().for_each(|child| root(context, child, totals)),
        Root::Source(path) => source(context, path, totals),
    }
}

fn source(context: &Context<'_>, path: &Path, totals: &mut (u64, u64)) {
    // What cannot be read here is reported by the walk.
    let Ok(stat) = rustix::fs::stat(path) else { return };
    match kind(&stat) {
        Some(NodeKind::File) => add(totals, stat.st_size),
        Some(NodeKind::BlockDevice) => {
            let end = std::fs::File::open(path).ok().and_then(|file| rustix::fs::seek(&file, SeekFrom::End(0)).ok());
            add(totals, i64::try_from(end.unwrap_or(0)).unwrap_or(0));
        }
        Some(NodeKind::Dir) => {
            if let Ok(dir) = DirHandle::open(path) {
                below(context, dir, totals);
            }
        }
        _ => {}
    }
}

fn below(context: &Context<'_>, dir: DirHandle, totals: &mut (u64, u64)) {
    let list = |dir: &DirHandle| dir.names().unwrap_or_default().into_iter();
    let names = list(&dir);
    let mut levels = vec![(Arc::new(dir), names)];
    while let Some((dir, names)) = levels.last_mut() {
        if context.is_over() || context.is_paused() {
            return;
        }
        let Some(name) = names.next() else {
            levels.pop();
            continue;
        };
        let excludes = &context.request.excludes;
        if !excludes.patterns().is_empty() && excludes.matches(&dir.join(&name)) {
            continue;
        }
        let Ok(stat) = dir.stat(&name) else { continue };
        match kind(&stat) {
            Some(NodeKind::File) => add(totals, stat.st_size),
            Some(NodeKind::Dir) => {
                if let Ok(below) = dir.open_dir(&name) {
                    let names = list(&below);
                    levels.push((Arc::new(below), names));
                }
            }
            _ => {}
        }
    }
}

fn add(totals: &mut (u64, u64), size: i64) {
    totals.0 += 1;
    totals.1 += u64::try_from(size).unwrap_or(0);
}
