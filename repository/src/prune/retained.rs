//! What is retained (S3's object lock) takes its room until that ends, whatever is done: it stays as it is, and what comes
//! meanwhile may use it again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use super::plan::plan;
use super::{Options, Plan};
use crate::error::Result;
use crate::id::PackId;
use crate::index::Usage;
use crate::object::ObjectName;
use crate::parallel;
use crate::repository::Repository;
use crate::store::{Stat, StoreErrorKind};

/// Packs that would go, or be packed again, and that cannot be freed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    /// Which.
    pub packs: HashSet<PackId>,
    /// Bytes of them that nothing needs.
    pub bytes: u64,
    /// When the last of them can go, by the store's clock; none if a legal hold keeps one until somebody ends it.
    pub until: Option<Timestamp>,
}

impl Retained {
    fn add(&mut self, pack: PackId, bytes: u64, end: End) {
        let until = if self.packs.is_empty() { Some(Timestamp::MIN) } else { self.until };
        self.until = match end {
            End::At(end) => until.map(|last| last.max(end)),
            End::Never => None,
        };
        self.packs.insert(pack);
        self.bytes += bytes;
    }
}

/// Until when an object cannot be freed, if that is so.
#[derive(Clone, Copy)]
enum End {
    At(Timestamp),
    Never,
}

fn end(stat: &Stat, now: Timestamp) -> Option<End> {
    if stat.has_legal_hold {
        return Some(End::Never);
    }
    // By the store's clock: that is the one that counts.
    let now = now.saturating_add(SignedDuration::from_secs(stat.store_ahead_secs)).unwrap_or(Timestamp::MAX);
    stat.retention.map(|retention| retention.until).filter(|until| *until > now).map(End::At)
}

/// Plans with what is not retained; the rest stays.
pub(super) fn plan_without(
    repository: &Arc<Repository>,
    options: &Options,
    mut packs: Vec<Usage>,
    orphans: &mut Vec<(PackId, u64)>,
) -> Result<(Plan, Retained)> {
    let (retained, mut looked_at) = (Mutex::new(Retained::default()), HashSet::new());
    let mut stay = Vec::new();
    loop {
        let mut plan = plan(packs.clone(), options.max_unused, options.max_repack_bytes);
        let indexed = plan.remove.iter().chain(&plan.repack).map(|usage| (usage.pack.id, usage.needed_bytes));
        let going = indexed.chain(orphans.iter().map(|(id, _)| (*id, 0))).filter(|(id, _)| looked_at.insert(*id));
        let going: Vec<(PackId, u64)> = going.collect();
        let before = retained.lock().expect("no holder panics").packs.len();
        let look = |(): &mut (), (pack, needed): &(PackId, u64)| {
            let stat = match repository.store().stat(&ObjectName::pack(*pack)) {
                Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(()),
                stat => stat?,
            };
            if let Some(end) = end(&stat, repository.clock().now()) {
                retained.lock().expect("no holder panics").add(*pack, stat.size.saturating_sub(*needed), end);
            }
            Ok(())
        };
        parallel::each(options.shares.uploads, &going, || (), look)?;
        let found = retained.lock().expect("no holder panics");
        if found.packs.len() == before {
            plan.keep.append(&mut stay);
            return Ok((plan, found.clone()));
        }
        // Others may go in the place of those that stay.
        stay.extend(packs.extract_if(.., |usage| found.packs.contains(&usage.pack.id)));
        orphans.retain(|(id, _)| !found.packs.contains(id));
    }
}
