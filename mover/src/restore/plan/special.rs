//! Links, devices and pipes: they have no content, so they are made at once.

use std::ffi::CString;
use std::sync::Arc;

use contract::Change;
use repository::error::{Error, Result};
use repository::format::node::Node;

use super::super::target::{TargetDir, look};
use super::super::{Overwrite, add, metadata};
use super::{Plan, make_room};

/// How a link, device or pipe came to be there.
#[derive(PartialEq, Eq)]
enum Made {
    /// Now.
    Now,
    /// It was there.
    Before,
    /// Something was there, and is kept.
    Kept,
}

impl Plan<'_> {
    pub(super) fn other(&mut self, dir: &Arc<TargetDir>, name: &CString, node: &Node) -> Result<()> {
        let path = dir.entry(&node.name);
        let may_be_linked = self.context.request.overwrite != Overwrite::Never
            || self.dirs.get(dir).and_then(|fd| look(fd, name)).is_ok_and(|there| there.is_none());
        if may_be_linked && self.is_linked(dir, name, node) {
            add(&self.context.counts.others, 1);
            return Ok(());
        }
        if !self.writes() {
            let there = self.dirs.get(dir).and_then(|fd| metadata::is_special(fd, name, node));
            match there {
                Ok(Some(true)) => {}
                Ok(Some(false)) => {
                    self.context.plan(Change::Content, &path);
                    if let Err(error) = self.see_room(dir, name, &path) {
                        return self.lose(&path, error);
                    }
                }
                Ok(None) | Err(_) => self.context.plan(Change::Added, &path),
            }
            add(&self.context.counts.others, 1);
            return Ok(());
        }
        let context = self.context;
        let made = self.dirs.get(dir).and_then(|fd| match metadata::is_special(fd, name, node)? {
            Some(_) if context.request.overwrite == Overwrite::Never => Ok(Made::Kept),
            Some(true) => Ok(Made::Before),
            there => {
                if there.is_some() {
                    make_room(context, fd, name, &path)?;
                }
                metadata::make_special(fd, name, node).map(|()| Made::Now)
            }
        });
        match made {
            Ok(Made::Kept) => add(&context.counts.skipped, 1),
            Err(error) => return self.lose(&path, error),
            Ok(made) => {
                let fd = self.dirs.get(dir).map_err(|error| Error::Refused(error.to_string()))?;
                if made == Made::Now || metadata::differs_special(fd, name, node) {
                    metadata::apply_special(context, fd, name, node, &path);
                }
                add(&context.counts.others, 1);
            }
        }
        Ok(())
    }
}
