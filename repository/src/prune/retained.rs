//! What is retained (S3's object lock) takes its room until that ends, whatever is done: it stays, named by the index, and what
//! comes meanwhile may use it again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use super::Plan;
use crate::budget::Shares;
use crate::error::Result;
use crate::id::PackId;
use crate::object::ObjectName;
use crate::parallel;
use crate::repository::Repository;
use crate::store::{Retention, Stat, StoreErrorKind};

/// Packs that would go, or be packed again, and that cannot be freed yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Packs.
    pub packs: u64,
    /// Bytes of them that nothing needs.
    pub bytes: u64,
    /// When the last of them can go, by the store's clock; none if a legal hold keeps one until somebody ends it.
    pub until: Option<Timestamp>,
}

/// Until when an object cannot be freed, if that is so.
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
    let Retention { until, .. } = stat.retention?;
    (until > now).then_some(End::At(until))
}

/// Takes what is retained out of what is to go.
pub(super) fn spare(repository: &Arc<Repository>, shares: &Shares, plan: &mut Plan, orphans: &mut Vec<(PackId, u64)>) -> Result<Retained> {
    let indexed = plan.remove.iter().chain(&plan.repack).map(|usage| (usage.pack.id, usage.needed_bytes));
    let going: Vec<(PackId, u64)> = indexed.chain(orphans.iter().map(|(id, _)| (*id, 0))).collect();
    let spared = Mutex::new((HashSet::new(), Retained { until: Some(Timestamp::MIN), ..Retained::default() }));
    let look = |(): &mut (), (pack, needed): &(PackId, u64)| {
        let stat = match repository.store().stat(&ObjectName::pack(*pack)) {
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(()),
            stat => stat?,
        };
        let Some(end) = end(&stat, repository.clock().now()) else { return Ok(()) };
        let (packs, retained) = &mut *spared.lock().expect("no holder panics");
        packs.insert(*pack);
        retained.packs += 1;
        retained.bytes += stat.size.saturating_sub(*needed);
        retained.until = match end {
            End::At(until) => retained.until.map(|last| last.max(until)),
            End::Never => None,
        };
        Ok(())
    };
    parallel::each(shares.uploads, &going, || (), look)?;
    let (spared, retained) = spared.into_inner().expect("no holder panics");
    for packs in [&mut plan.remove, &mut plan.repack] {
        plan.keep.extend(packs.extract_if(.., |usage| spared.contains(&usage.pack.id)));
    }
    orphans.retain(|(id, _)| !spared.contains(id));
    Ok(if spared.is_empty() { Retained::default() } else { retained })
}
