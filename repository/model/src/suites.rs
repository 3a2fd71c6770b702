//! What is run: the protocol, and the protocol with one rule left out.

use crate::config::{Config, Role, Role::*, Rule};

fn two_pages(roles: &[Role]) -> Config {
    Config::new(roles).paged().few_lists().no_repack()
}

/// Configurations that must hold. W writer, R reader, T tagger, P pruner, all ours; S backup, r restore, X prune, F repair index, of a
/// stock client; z: sessions that may be paused until their lock is gone.
pub fn protocol() -> Vec<(&'static str, Config)> {
    let any = |roles: &[Role]| Config::new(roles);
    let few = |roles: &[Role]| Config::new(roles).few_lists();
    vec![
        ("W P z2", any(&[OwnWriter, OwnPruner]).zombies(2)),
        ("W S P z1, one list", few(&[OwnWriter, StockWriter, OwnPruner]).only_pack0().zombies(1)),
        ("W P P", few(&[OwnWriter, OwnPruner, OwnPruner]).no_repack()),
        ("R P", few(&[OwnReader, OwnPruner])),
        ("T P", few(&[OwnTagger, OwnPruner])),
        ("W W S X z1, the exclusive lock alone", few(&[OwnWriter, OwnWriter, StockWriter, StockPrune]).zombies(1)),
        ("W P z1, paged listings", two_pages(&[OwnWriter, OwnPruner]).zombies(1)),
        ("W W P z1", any(&[OwnWriter, OwnWriter, OwnPruner]).zombies(1)),
        ("W S P z1", any(&[OwnWriter, StockWriter, OwnPruner]).zombies(1)),
        ("W W S P z1", few(&[OwnWriter, OwnWriter, StockWriter, OwnPruner]).zombies(1)),
        ("W W S P, then P", few(&[OwnWriter, OwnWriter, StockWriter, OwnPruner, OwnPruner]).no_repack().one_by_one()),
        ("W X P z1", any(&[OwnWriter, StockPrune, OwnPruner]).zombies(1)),
        ("W X P P z1", few(&[OwnWriter, StockPrune, OwnPruner, OwnPruner]).no_repack().zombies(1)),
        ("W P P z1", any(&[OwnWriter, OwnPruner, OwnPruner]).no_repack().zombies(1)),
        ("W P P, repacking", few(&[OwnWriter, OwnPruner, OwnPruner])),
        ("W W P P", few(&[OwnWriter, OwnWriter, OwnPruner, OwnPruner]).no_repack()),
        ("S F P P z1", few(&[StockWriter, StockRepair, OwnPruner, OwnPruner]).no_repack().zombies(1)),
        ("R r P P z1", few(&[OwnReader, StockReader, OwnPruner, OwnPruner]).no_repack().zombies(1)),
        ("R T W P", few(&[OwnReader, OwnTagger, OwnWriter, OwnPruner])),
        ("R W P P, merging only, too", few(&[OwnReader, OwnWriter, OwnPruner, OwnPruner]).compact().no_repack()),
        ("W S P z1, paged listings", two_pages(&[OwnWriter, StockWriter, OwnPruner]).zombies(1)),
        ("W X P z1, paged listings", two_pages(&[OwnWriter, StockPrune, OwnPruner]).zombies(1)),
    ]
}

/// So many of [`protocol`] take seconds; all together take minutes.
pub const SMALL: usize = 7;

/// Configurations of which every state is shown to lead to an end.
pub fn finishing() -> Vec<(&'static str, Config)> {
    let few = |roles: &[Role]| Config::new(roles).few_lists().no_repack();
    vec![
        ("W P z1", few(&[OwnWriter, OwnPruner]).zombies(1)),
        ("W S P z1", few(&[OwnWriter, StockWriter, OwnPruner]).zombies(1)),
        ("W X P z1", few(&[OwnWriter, StockPrune, OwnPruner]).zombies(1)),
        ("R W P P", few(&[OwnReader, OwnWriter, OwnPruner, OwnPruner])),
    ]
}

/// Each rule, and a configuration in which something is lost without it.
pub fn mutations() -> Vec<(Rule, Config)> {
    let few = |roles: &[Role]| Config::new(roles).few_lists();
    let wp = || few(&[OwnWriter, OwnPruner]);
    let sp = || few(&[StockWriter, OwnPruner]);
    let wpp = || few(&[OwnWriter, OwnPruner, OwnPruner]).no_repack();
    let repair = || few(&[StockRepair, StockWriter, OwnPruner, OwnPruner]).no_repack().only_pack0();
    vec![
        (Rule::LockCarriesAck, sp()),
        (Rule::AckRequired, wp()),
        (Rule::AckHonoured, wp()),
        (Rule::ListsAfterLock, wp()),
        (Rule::IndexAfterLock, wp()),
        (Rule::Fence, sp()),
        (Rule::FenceBeforeListing, sp()),
        (Rule::RemarkUnderFence, sp()),
        (Rule::IndexBeforePacks, sp()),
        (Rule::ListingUnderFence, few(&[OwnWriter, OwnPruner, OwnPruner]).no_crash()),
        (Rule::FenceExcludesFence, wpp()),
        (Rule::CopiesOutsideList, wp()),
        (Rule::ListCheckedUnderFence, wpp()),
        (Rule::ListDeletedUnderFence, wpp()),
        (Rule::ResumeFromStart, repair()),
        (Rule::DeleteGuard, few(&[StockRepair, StockWriter, OwnPruner]).no_repack().zombies(1)),
        (Rule::SnapshotGuard, wp().zombies(1)),
        (Rule::IndexGuard, few(&[OwnWriter, OwnWriter, StockPrune]).zombies(1)),
        (Rule::MergeGuard, few(&[OwnWriter, OwnPruner, OwnPruner]).zombies(1).no_crash()),
        (Rule::GuardExpires, wp().zombies(1)),
        (Rule::RefreshChecks, two_pages(&[OwnWriter, OwnPruner]).zombies(1)),
        (Rule::RefreshRechecks, two_pages(&[OwnWriter, OwnPruner]).zombies(1)),
        (Rule::TwoPasses, two_pages(&[StockWriter, OwnPruner])),
        (Rule::TwoPasses, two_pages(&[OwnWriter, StockPrune])),
        (Rule::RefreshOverlaps, two_pages(&[OwnWriter, StockPrune])),
        (Rule::OrphansListed, wp()),
        (Rule::ReaderLocks, few(&[OwnReader, OwnPruner])),
        (Rule::ReaderWaits, few(&[OwnReader, OwnPruner])),
        (Rule::DerivedWaits, few(&[OwnTagger, OwnPruner])),
        (Rule::RespectExclusive, few(&[OwnWriter, StockPrune])),
    ]
}
