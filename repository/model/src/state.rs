//! The object store and the actors, as plain bytes.
//!
//! One *shared* blob `b` is what sessions may deduplicate against. Pack 0 holds it at the start and is
//! named by index file 0; snapshot 0 uses it. Every writer `i` also has one blob of its own, which only
//! ever lives in its pack `1+i` (so that every session has a pack in flight for a while). A writer that
//! does not find `b` puts a second copy of it into its own pack.

pub(crate) const MAX: usize = 6; // actors
pub(crate) const SLOTS: usize = 2 * MAX + 1; // index files: 0 = initial, 1+i and 1+MAX+i belong to actor i

/// A set of packs. Pack 0 = initial, pack 1+i = the one pack that actor i may upload.
pub(crate) type Packs = u8;

pub(crate) fn pack_of(i: usize) -> Packs {
    1 << (1 + i)
}
pub(crate) fn snap_of(i: usize) -> u8 {
    1 << (1 + i)
}
/// Snapshots with a blob of their own; the others, 0 and its copy, need only `b`.
pub(crate) const OWN_BLOB: u8 = 0x7e;
pub(crate) const COPY_OF_0: u8 = 0x80;
pub(crate) fn slot1(i: usize) -> usize {
    1 + i
}
pub(crate) fn slot2(i: usize) -> usize {
    1 + MAX + i
}

/// Marks a condemned list as present (its packs are in the other bits).
pub(crate) const LIST: u8 = 0x80;

/// Lock object: bit 0 present, bit 1 exclusive, bit 2 written by our software, bits 3.. acknowledged lists.
pub(crate) const PRESENT: u8 = 1;
pub(crate) const EXCLUSIVE: u8 = 2;
pub(crate) const OWN: u8 = 4;
pub(crate) const ACK0: u8 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Actor {
    pub(crate) pc: u8,
    pub(crate) flags: u8,
    /// lock refresh: step (0 = none) in bits 0..3, page of the confirmed lock object in bit 4
    pub(crate) refresh: u8,
    /// stock actors: pairs of listing passes (bit per lister) during which a refresh has begun
    pub(crate) refreshed_during: u8,
    /// packs with `b` that the session relies on (writer, reader); snapshot listing (pruner)
    pub(crate) view: u8,
    /// lists honoured (writer, reader); list worked on (pruner)
    pub(crate) lists: u8,
    /// packs to delete
    pub(crate) set: Packs,
    /// index file to write
    pub(crate) new: Packs,
    /// index files to delete
    pub(crate) old: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) packs: Packs,
    /// packs that hold (or held) a copy of `b`; an index entry claims so even if the pack is gone
    pub(crate) has_b: Packs,
    /// index files: packs named (0 = no such file)
    pub(crate) index: [Packs; SLOTS],
    pub(crate) snaps: u8,
    /// condemned lists (0 = no such list, else LIST + packs), one place for each pruner
    pub(crate) lists: [Packs; 3],
    /// session locks, two "pages" of the lock listing
    pub(crate) locks: [[u8; 2]; MAX],
    /// fence locks of own pruners
    pub(crate) fences: [u8; MAX],
    pub(crate) actors: [Actor; MAX],
    /// live actors whose lock may still be removed as stale
    pub(crate) zombies: u8,
    /// bit 0: a protected reader lost a pack
    pub(crate) bad: u8,
}

impl State {
    pub(crate) fn initial(zombies: u8) -> State {
        let mut s = State {
            packs: 1,
            has_b: 1,
            index: [0; SLOTS],
            snaps: 1,
            lists: [0; 3],
            locks: [[0; 2]; MAX],
            fences: [0; MAX],
            actors: [Actor::default(); MAX],
            zombies,
            bad: 0,
        };
        s.index[0] = 1;
        s
    }

    /// All packs named by some index file.
    pub(crate) fn indexed(&self) -> Packs {
        self.index.iter().fold(0, |a, m| a | m)
    }

    pub(crate) fn index_files(&self) -> u16 {
        (0..SLOTS).filter(|&k| self.index[k] != 0).fold(0, |a, k| a | 1 << k)
    }

    pub(crate) fn has_lock(&self, i: usize) -> bool {
        self.locks[i][0] | self.locks[i][1] != 0
    }

    /// A name that is gone is also dropped from the lists: names are never used twice.
    pub(crate) fn delete_pack(&mut self, p: Packs) {
        self.packs &= !p;
        for l in self.lists.iter_mut() {
            *l &= !p;
        }
    }

    /// Every visible snapshot can be restored, protected readers keep their packs, no index entry dangles.
    pub(crate) fn violation(&self, only_snapshots: bool) -> Option<&'static str> {
        let live = self.packs & self.indexed();
        if self.snaps != 0 && live & self.has_b == 0 {
            return Some(if self.packs & self.has_b == 0 {
                "a visible snapshot's blob is in no pack"
            } else {
                "a visible snapshot's blob is in no indexed pack"
            });
        }
        let mine = self.snaps & OWN_BLOB; // snapshot 1+i needs pack 1+i
        if mine & !live != 0 {
            return Some(if mine & !self.packs != 0 {
                "a visible snapshot's own pack is gone"
            } else {
                "a visible snapshot's own pack is in no index"
            });
        }
        if self.bad & 1 != 0 {
            return Some("a reader with a lock lost a pack it needs");
        }
        if !only_snapshots && self.indexed() & !self.packs != 0 {
            return Some("an index file names a pack that does not exist");
        }
        None
    }

    /// The same state with actors `i` and `j` (of equal role) exchanged.
    pub(crate) fn swapped(&self, i: usize, j: usize) -> State {
        let bits = |m: u8| {
            let (x, y) = (m >> (1 + i) & 1, m >> (1 + j) & 1);
            m & !(1 << (1 + i) | 1 << (1 + j)) | y << (1 + i) | x << (1 + j)
        };
        let slot = |k: usize| match k {
            k if k == slot1(i) => slot1(j),
            k if k == slot1(j) => slot1(i),
            k if k == slot2(i) => slot2(j),
            k if k == slot2(j) => slot2(i),
            k => k,
        };
        let mut n = *self;
        n.packs = bits(self.packs);
        n.has_b = bits(self.has_b);
        n.snaps = bits(self.snaps);
        for k in 0..SLOTS {
            n.index[slot(k)] = bits(self.index[k]);
        }
        n.lists = self.lists.map(bits);
        n.locks.swap(i, j);
        n.fences.swap(i, j);
        n.actors.swap(i, j);
        for a in n.actors.iter_mut() {
            a.view = bits(a.view);
            a.set = bits(a.set);
            a.new = bits(a.new);
            let old = a.old;
            a.old = (0..SLOTS).filter(|k| old & 1 << k != 0).fold(0, |m, k| m | 1 << slot(k));
        }
        n
    }
}
