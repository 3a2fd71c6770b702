//! Until when what snapshots need can be neither removed nor replaced, in buckets with S3's object lock; and for longer.
//!
//! What a backup writes is retained for a period ([`S3Options::retain`](crate::store::s3::S3Options::retain)). What it uses and
//! did not write was retained when that was written, and that ends sooner: so it is extended now and then.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::budget::Shares;
use crate::condemned::Condemned;
use crate::error::{Error, Result};
use crate::index::Usage;
use crate::lock::MAX_CLOCK_SKEW_SECS;
use crate::object::{ObjectKind, ObjectName};
use crate::parallel;
use crate::repository::Repository;
use crate::store::{Retain, Retention, StoreErrorKind};
use crate::survey::Survey;

/// What snapshots need, of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// Which.
    pub name: ObjectName,
    /// Bytes.
    pub size: u64,
    /// How long it is retained; none if it is not, or if that has ended.
    pub retention: Option<Retention>,
    /// It is retained until somebody ends that.
    pub has_legal_hold: bool,
    /// It was extended just now.
    pub is_extended: bool,
}

impl Needed {
    /// Whether it is retained until then. A legal hold is no promise: whoever may set it may end it at once.
    #[must_use]
    pub fn lasts_until(&self, then: Timestamp) -> bool {
        self.retention.is_some_and(|retention| retention.until >= then)
    }
}

/// What is to be extended, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extend {
    /// From now on. What is retained by another mode stays in that.
    pub retain: Retain,
    /// Only what is not retained for that long anyway.
    pub at_least: Duration,
}

/// All that snapshots need: `config`, keys, snapshots, index files, and the packs that have their blobs, every copy.
/// `on_needed` is called by several threads.
///
/// # Errors
/// Damage; [`Error::MemoryBound`]; [`Error::Refused`] if the clocks differ; those of the store.
pub fn run(repository: &Arc<Repository>, shares: &Shares, extend: Option<Extend>, on_needed: &(dyn Fn(&Needed) + Sync)) -> Result<()> {
    // What is to go is not kept from it.
    let condemned = Condemned::read(repository)?.packs();
    let survey = Survey::take(repository, shares, &condemned)?;
    let store = repository.store();
    let mut names = vec![ObjectName::CONFIG];
    for kind in [ObjectKind::Key, ObjectKind::Index] {
        names.extend(store.names(kind)?);
    }
    names.extend(survey.snapshots.iter().map(|id| ObjectName::new(ObjectKind::Snapshot, *id)));
    let packs = survey.index.usage();
    let is_needed = |usage: &&Usage| usage.needed_blobs > 0 || usage.copies > 0 && !condemned.contains(&usage.pack.id);
    names.extend(packs.iter().filter(is_needed).map(|usage| ObjectName::pack(usage.pack.id)));
    drop(survey);
    let look = |(): &mut (), name: &ObjectName| {
        match look_at(repository, *name, extend) {
            // Forgotten, or a password removed, meanwhile: these we do not keep from going.
            Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound && name.kind != ObjectKind::Pack => {}
            needed => on_needed(&needed?),
        }
        Ok(())
    };
    parallel::each(shares.uploads, &names, || (), look)
}

fn look_at(repository: &Repository, name: ObjectName, extend: Option<Extend>) -> Result<Needed> {
    let stat = repository.store().stat(&name)?;
    if stat.store_ahead_secs.abs() > MAX_CLOCK_SKEW_SECS {
        let ahead = stat.store_ahead_secs;
        return Err(Error::Refused(format!(
            "the storage's clock is {ahead} s ahead of this machine's, so nobody knows until when: set the clock"
        )));
    }
    let now = repository.clock().now();
    let retention = stat.retention.filter(|retention| retention.until > now);
    let mut needed = Needed { name, size: stat.size, retention, has_legal_hold: stat.has_legal_hold, is_extended: false };
    if let Some(Extend { retain, at_least }) = extend {
        let wanted = now.saturating_add(SignedDuration::try_from(at_least).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX);
        if needed.retention.is_none_or(|retention| retention.until < wanted) {
            let mode = needed.retention.map_or(retain.mode, |retention| retention.mode);
            let longer = Retention { mode, ..retain.since(now) };
            repository.store().retain(&name, longer)?;
            needed = Needed { retention: Some(longer), is_extended: true, ..needed };
        }
    }
    Ok(needed)
}
