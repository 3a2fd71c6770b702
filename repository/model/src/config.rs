//! Who takes part, and which single rule (if any) is left out.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    OwnWriter,
    OwnReader,
    OwnPruner,
    StockWriter,
    StockReader,
    StockPrune,
    StockRepair,
    /// Of ours, and derives a snapshot from another: writes a copy of snapshot 0, deletes snapshot 0.
    OwnTagger,
}

/// The rule that is missing; the comment says what happens then. `Nothing` = the protocol as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    Nothing,
    /// Locks that look like ours (same host, pid, user) do not block a fence
    LockCarriesAck,
    /// Own sessions need not have acknowledged the list
    AckRequired,
    /// A session acknowledges at its start but does not treat the packs as absent
    AckHonoured,
    /// A session reads the lists before it has its lock
    ListsAfterLock,
    /// A session reads the index before it has its lock
    IndexAfterLock,
    /// No fence lock at all
    Fence,
    /// Locks are listed before the fence is written
    FenceBeforeListing,
    /// Snapshots are not read again under the fence
    RemarkUnderFence,
    /// Packs are deleted before the old index files
    IndexBeforePacks,
    /// Old index files come from a listing made before the fence
    ListingUnderFence,
    /// Fences do not exclude each other
    FenceExcludesFence,
    /// A copy in another condemned pack counts as a copy
    CopiesOutsideList,
    /// The list's existence is not checked again under the fence
    ListCheckedUnderFence,
    /// A list may be withdrawn without a fence
    ListDeletedUnderFence,
    /// A resumed pruner deletes un-indexed listed packs at once
    ResumeFromStart,
    /// Fence is not checked before the pack deletions
    DeleteGuard,
    /// Own lock is not checked before the snapshot is written
    SnapshotGuard,
    /// Own lock is not checked before an index file is written
    IndexGuard,
    /// Fence is not checked before the merged index is written
    MergeGuard,
    /// A checked request may land at any later time
    GuardExpires,
    /// Refresh does not look for the old lock first
    RefreshChecks,
    /// Refresh does not look for the old lock again after writing the new one
    RefreshRechecks,
    /// One pass over the locks instead of two
    TwoPasses,
    /// Own refresh deletes the old lock at once
    RefreshOverlaps,
    /// Any pack that is in no index is deleted under the fence, listed or not
    OrphansListed,
    /// Own readers take no lock
    ReaderLocks,
    /// Own readers do not wait for a fence that is already up
    ReaderWaits,
    /// Own sessions that derive a snapshot from another one acknowledge and do not wait for a fence
    DerivedWaits,
    /// Own sessions do not respect a stock exclusive lock
    RespectExclusive,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub roles: Vec<Role>,
    /// how many live actors may lose their lock as stale
    pub zombies: u8,
    /// lock listings read two pages one after the other, locks get refreshed
    pub paged: bool,
    /// snapshot 0 may be forgotten at any time
    pub forget: bool,
    /// a pruner may condemn any set of packs (otherwise: all packs, or only pack 0)
    pub any_list: bool,
    /// a pruner condemns pack 0 and nothing else
    pub only_pack0: bool,
    /// every actor may crash after every step
    pub crash: bool,
    /// pruner number k+1 starts only when pruner k has ended or crashed
    pub one_by_one: bool,
    /// pruners may first repack (copy `b` into a new pack)
    pub repack: bool,
    /// pruners may also raise a fence only to merge index files
    pub compact: bool,
    /// a dangling index entry alone is no violation
    pub only_snapshots: bool,
    /// changes all fingerprints (a run with another seed must find as many states)
    pub seed: u64,
    /// the rule left out
    pub missing: Rule,
}

impl Config {
    pub fn new(roles: &[Role]) -> Config {
        Config {
            roles: roles.to_vec(),
            zombies: 0,
            paged: false,
            forget: true,
            any_list: true,
            only_pack0: false,
            crash: true,
            one_by_one: false,
            repack: true,
            compact: false,
            only_snapshots: false,
            seed: 0,
            missing: Rule::Nothing,
        }
    }
    pub fn zombies(mut self, n: u8) -> Config {
        self.zombies = n;
        self
    }
    pub fn seed(mut self, seed: u64) -> Config {
        self.seed = seed;
        self
    }
    pub fn paged(mut self) -> Config {
        self.paged = true;
        self
    }
    pub fn without(mut self, d: Rule) -> Config {
        self.missing = d;
        self
    }
    pub fn few_lists(mut self) -> Config {
        self.any_list = false;
        self
    }
    pub fn only_pack0(mut self) -> Config {
        self.any_list = false;
        self.only_pack0 = true;
        self
    }
    pub fn one_by_one(mut self) -> Config {
        self.one_by_one = true;
        self
    }
    pub fn no_repack(mut self) -> Config {
        self.repack = false;
        self
    }
    pub fn compact(mut self) -> Config {
        self.compact = true;
        self
    }
    pub fn only_snapshots(mut self) -> Config {
        self.only_snapshots = true;
        self
    }
    pub fn no_crash(mut self) -> Config {
        self.crash = false;
        self
    }
    /// May a pruner condemn exactly `set`?
    pub fn may_condemn(&self, set: u8, packs: u8) -> bool {
        let kind = self.any_list || set == 1 || set == packs && !self.only_pack0;
        set != 0 && set & !packs == 0 && kind
    }
    /// ordinal of a pruner = place of its list
    pub fn list_of(&self, i: usize) -> usize {
        self.roles[..i].iter().filter(|r| **r == Role::OwnPruner).count()
    }
    pub fn name(&self, i: usize) -> String {
        let r = self.roles[i];
        let n = self.roles[..i].iter().filter(|x| **x == r).count() + 1;
        let base = match r {
            Role::OwnWriter => "writer",
            Role::OwnReader => "reader",
            Role::OwnPruner => "pruner",
            Role::StockWriter => "stock-backup",
            Role::StockReader => "stock-restore",
            Role::StockPrune => "stock-prune",
            Role::StockRepair => "stock-repair-index",
            Role::OwnTagger => "tagger",
        };
        format!("{base}{n}")
    }
}
