//! Which packs stay, which are packed again, which go. Pure.

use crate::index::Usage;

/// How much may stay that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// So much of what is stored in the end, from 0 to 1.
    Share(f64),
    /// So many bytes.
    Bytes(u64),
    /// Anything: only packs of which nothing is needed go.
    Unlimited,
}

impl MaxUnused {
    fn bytes(self, needed: u64) -> u64 {
        match self {
            // Of what will be there: needed and not needed together.
            Self::Share(share) if share < 1.0 => (needed as f64 * share / (1.0 - share)) as u64,
            Self::Bytes(bytes) => bytes,
            Self::Share(_) | Self::Unlimited => u64::MAX,
        }
    }
}

/// What becomes of the packs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nothing in them is needed.
    pub remove: Vec<Usage>,
    /// What is needed of them is stored again, and then they go.
    pub repack: Vec<Usage>,
    /// They stay as they are.
    pub keep: Vec<Usage>,
}

impl Plan {
    /// Bytes that nothing needs, and that stay.
    #[must_use]
    pub fn unused_after(&self) -> u64 {
        self.keep.iter().map(unused).sum()
    }

    /// Packs that go and that hold copies of what is needed.
    pub(super) fn with_copies(&self) -> impl Iterator<Item = &Usage> {
        self.remove.iter().chain(&self.repack).filter(|usage| usage.copies > 0)
    }

    /// Bytes of blobs that are stored again.
    #[must_use]
    pub fn repacked(&self) -> u64 {
        self.repack.iter().map(|usage| usage.needed_bytes).sum()
    }
}

/// Bytes of a pack that nothing needs. Its list counts only where it would get shorter.
fn unused(usage: &Usage) -> u64 {
    if usage.needed_blobs == usage.blobs { 0 } else { usage.pack.size.saturating_sub(usage.needed_bytes) }
}

/// Those with the largest useless share are packed again first, until no more than allowed is left; of those that hold trees
/// all are, for they are read on every way.
pub(super) fn plan(packs: Vec<Usage>, max_unused: MaxUnused, max_repack_bytes: u64) -> Plan {
    let needed: u64 = packs.iter().map(|usage| usage.needed_bytes).sum();
    let mut plan = Plan::default();
    let mut partly = Vec::new();
    for usage in packs {
        match usage.needed_blobs {
            0 => plan.remove.push(usage),
            all if all == usage.blobs => plan.keep.push(usage),
            _ => partly.push(usage),
        }
    }
    let share = |usage: &Usage| unused(usage) as f64 / usage.pack.size.max(1) as f64;
    partly.sort_by(|a, b| b.has_trees.cmp(&a.has_trees).then(share(b).total_cmp(&share(a))).then(a.pack.id.cmp(&b.pack.id)));
    let allowed = max_unused.bytes(needed);
    let mut left: u64 = partly.iter().map(unused).sum();
    let mut repacked = 0_u64;
    for usage in partly {
        let is_wanted = left > allowed || (usage.has_trees && max_unused != MaxUnused::Unlimited);
        if is_wanted && repacked.saturating_add(usage.needed_bytes) <= max_repack_bytes {
            left -= unused(&usage);
            repacked += usage.needed_bytes;
            plan.repack.push(usage);
        } else {
            plan.keep.push(usage);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;
    use crate::index::PackInfo;

    fn pack(id: u8, needed_blobs: u32, has_trees: bool) -> Usage {
        let pack = PackInfo { id: PackId([id; 32]), blobs_end: 100, size: 100, files: 1 };
        Usage { pack, blobs: 10, needed_blobs, needed_bytes: u64::from(needed_blobs) * 10, copies: 0, has_trees }
    }

    fn ids(packs: &[Usage]) -> Vec<u8> {
        packs.iter().map(|usage| usage.pack.id.0[0]).collect()
    }

    #[test]
    fn what_is_useless_goes_and_what_is_nearly_so_is_packed_again() {
        let packs = || vec![pack(1, 0, false), pack(2, 10, false), pack(3, 9, false), pack(4, 1, false), pack(5, 9, true)];
        let unlimited = plan(packs(), MaxUnused::Unlimited, u64::MAX);
        assert_eq!((ids(&unlimited.remove), ids(&unlimited.repack), unlimited.unused_after()), (vec![1], vec![], 110));
        let none = plan(packs(), MaxUnused::Bytes(0), u64::MAX);
        assert_eq!((ids(&none.repack), none.unused_after(), none.repacked()), (vec![5, 4, 3], 0, 190));
        // 10 % of what is there in the end is more than pack 3 wastes, so that stays; trees do not.
        let some = plan(packs(), MaxUnused::Share(0.1), u64::MAX);
        assert_eq!((ids(&some.repack), ids(&some.keep)), (vec![5, 4], vec![2, 3]));
        assert_eq!(plan(packs(), MaxUnused::Share(1.0), u64::MAX).unused_after(), 100);
        assert_eq!(ids(&plan(packs(), MaxUnused::Bytes(0), 95).repack), [5]);
    }
}
