//! Own pruner: job 1 condemns, job 2 raises the fence and deletes. Index merging uses the same fence.

use crate::config::{Config, Role, Rule};
use crate::session::*;
use crate::state::*;

const P_LOCKED: u8 = 1;
const P_CHECKED: u8 = 2;
const P_REPACKED: u8 = 3;
const P_MARKED: u8 = 4;
const P_UNLOCK: u8 = 5;
const P_WAIT: u8 = 6;
pub(crate) const P_LIST: u8 = 7; // ..10: pages A, B, A, B
pub(crate) const P_LIST_END: u8 = P_LIST + 3;
const P_LISTS: u8 = 11;
const P_SNAPS: u8 = 12;
const P_INDEX: u8 = 13;
const P_PUT_INDEX: u8 = 14;
const P_DEL_INDEX: u8 = 15;
const P_DEL_PACKS: u8 = 16;
const P_DEL_LIST: u8 = 17;
const P_QUIT: u8 = 18;
const P_RETRY: u8 = 19;
const P_DIRECT: u8 = 20;
const P_LATE_FENCE: u8 = 21;

/// A fence that only merges index files works on no list.
const NO_LIST: u8 = 7;

/// Does any lock object on this page stop a fence for list `k`?
fn blocks(s: &State, me: usize, k: u8, page: usize, cfg: &Config) -> bool {
    (0..cfg.roles.len()).filter(|&j| j != me).any(|j| {
        let l = s.locks[j][page];
        let session = l & PRESENT != 0 && {
            let acked = l & OWN != 0 && (k == NO_LIST || l & (ACK0 << k) != 0);
            let excused = match cfg.missing {
                Rule::AckRequired => l & OWN != 0,
                Rule::LockCarriesAck => l & OWN == 0 && l & EXCLUSIVE == 0,
                _ => false,
            };
            !acked && !excused
        };
        let fence = page == 0 && s.fences[j] != 0 && cfg.missing != Rule::FenceExcludesFence;
        session || fence
    })
}

/// Packs of the list that no visible snapshot needs: every blob of theirs that is in use has a copy in
/// an existing indexed pack outside the list.
fn dead(s: &State, list: Packs, indexed: Packs, snaps: u8, cfg: &Config) -> Packs {
    let copies = s.has_b & s.packs & indexed;
    let mut d = 0;
    for p in (0..7).map(|x| 1u8 << x).filter(|p| list & s.packs & p != 0) {
        let elsewhere = match cfg.missing {
            Rule::CopiesOutsideList => copies & !p != 0,
            _ => copies & !list != 0,
        };
        let b_needed = snaps != 0 && s.has_b & p != 0 && !elsewhere;
        let own_blob_needed = snaps & p & OWN_BLOB != 0;
        if !b_needed && !own_blob_needed {
            d |= p;
        }
    }
    if cfg.missing == Rule::OrphansListed {
        d |= s.packs & !indexed;
    }
    d
}

/// Writes a list of any packs (the mark that chooses them is not needed for safety, so not modelled).
fn condemn(s: &State, i: usize, cfg: &Config, next: u8, out: &mut Vec<Next>) {
    let k = cfg.list_of(i);
    for set in (1..=s.packs).filter(|&x| cfg.may_condemn(x, s.packs)) {
        let mut n = *s;
        n.lists[k] = LIST | set;
        n.actors[i].pc = next;
        if cfg.missing == Rule::RemarkUnderFence {
            n.actors[i].view = s.snaps;
            n.actors[i].flags |= OLD_MARK;
        }
        put(out, i, n, "PUT condemned list");
    }
}

pub(crate) fn step(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    let fence = (cfg, s.fences[i] != 0 || cfg.missing == Rule::Fence, false);
    match a.pc {
        // --- job 1, an ordinary session: mark, repack, condemn
        IDLE => {
            if cfg.one_by_one && (0..i).any(|j| cfg.roles[j] == Role::OwnPruner && s.actors[j].pc < DONE) {
                return;
            }
            condemn(s, i, cfg, P_WAIT, out); // without repacking; even without a lock
            if cfg.repack {
                first_lock(s, i, cfg, P_LOCKED, out);
            }
            if lists_present(s).0 != 0 || cfg.compact {
                n.actors[i].pc = P_WAIT;
                put(out, i, n, "adopt a list");
            }
        }
        P_LOCKED if checks_exclusive(cfg) => {
            n.actors[i].pc = if foreign_exclusive(s) { P_QUIT } else { P_CHECKED };
            put(out, i, n, "LIST locks");
        }
        P_LOCKED | P_CHECKED => {
            if s.indexed() & s.has_b & s.packs != 0 {
                n.packs |= pack_of(i);
                n.has_b |= pack_of(i);
                n.actors[i].pc = P_REPACKED;
                put(out, i, n, "repack: PUT pack with a copy of b");
            } else {
                n.actors[i].pc = P_QUIT;
                put(out, i, n, "nothing to repack");
            }
        }
        P_REPACKED => guarded(s, i, (cfg, locked(s, i), false), P_QUIT, out, |mut n, out| {
            n.index[slot1(i)] = pack_of(i);
            n.actors[i].pc = P_MARKED;
            put(out, i, n, "repack: PUT index");
        }),
        P_MARKED => condemn(s, i, cfg, P_UNLOCK, out),
        P_UNLOCK => {
            n.locks[i] = [0; 2];
            n.actors[i].refresh = 0;
            n.actors[i].pc = P_WAIT;
            put(out, i, n, "DELETE lock");
        }
        // --- job 2, no session: fence
        P_WAIT => fence_up(s, i, cfg, out),
        P_DIRECT => {
            n.delete_pack(a.set);
            n.actors[i] = Actor { pc: P_WAIT, ..Actor::default() };
            put(out, i, n, "resume: DELETE packs");
        }
        P_LIST..=P_LIST_END => {
            let step = a.pc - P_LIST;
            if step == 0 {
                passes_begin(&mut n, i);
            }
            let last = match (cfg.paged, cfg.missing == Rule::TwoPasses) {
                (false, _) => true,
                (true, true) => step == 1,
                (true, false) => step == 3,
            };
            let blocked = if cfg.paged {
                blocks(s, i, a.lists, (step & 1) as usize, cfg)
            } else {
                blocks(s, i, a.lists, 0, cfg) || blocks(s, i, a.lists, 1, cfg)
            };
            if blocked {
                n.actors[i].pc = P_RETRY;
                put(out, i, n, "LIST locks: someone has not acknowledged");
            } else {
                n.actors[i].pc = match (last, cfg.missing) {
                    (false, _) => a.pc + 1,
                    (true, Rule::FenceBeforeListing) => P_LATE_FENCE,
                    (true, _) => P_LISTS,
                };
                put(out, i, n, "LIST locks: free");
            }
        }
        P_LATE_FENCE => {
            n.fences[i] = PRESENT | EXCLUSIVE | OWN;
            n.actors[i].pc = P_LISTS;
            put(out, i, n, "PUT fence (after the listing)");
        }
        P_LISTS if a.lists == NO_LIST => {
            n.actors[i].pc = P_INDEX;
            put(out, i, n, "no list: only merge index files");
        }
        P_LISTS => {
            if cfg.missing != Rule::ListCheckedUnderFence {
                n.actors[i].set = s.lists[a.lists as usize];
            }
            n.actors[i].pc = if n.actors[i].set == 0 { P_QUIT } else { P_SNAPS };
            n.actors[i].set &= !LIST;
            put(out, i, n, "GET list");
        }
        P_SNAPS => {
            if a.flags & OLD_MARK == 0 {
                n.actors[i].view = s.snaps;
            }
            n.actors[i].pc = P_INDEX;
            put(out, i, n, "LIST snapshots, mark the new ones");
        }
        P_INDEX => {
            let d = dead(s, a.set, s.indexed(), a.view, cfg);
            let (mut old, mut all) = (s.index_files(), s.indexed());
            if cfg.missing == Rule::ListingUnderFence {
                (old, all) = (a.old, a.new);
            }
            let pc = match (d & all == 0 && old.count_ones() <= 1, d) {
                (true, 0) if a.lists == NO_LIST => P_QUIT,
                (true, 0) => P_DEL_LIST,
                (true, _) => P_DEL_PACKS,
                _ => P_PUT_INDEX,
            };
            n.actors[i] = Actor { pc, lists: a.lists, set: d, ..Actor::default() };
            if pc == P_PUT_INDEX {
                n.actors[i].old = old;
                n.actors[i].new = all & !d;
            }
            put(out, i, n, "load index, compute what is dead");
        }
        P_PUT_INDEX => {
            let unguarded = cfg.missing == Rule::MergeGuard;
            guarded(s, i, (cfg, fence.1, unguarded), P_QUIT, out, |mut n, out| {
                n.index[slot2(i)] = a.new;
                n.actors[i].new = 0;
                let packs_first = cfg.missing == Rule::IndexBeforePacks && a.set != 0;
                n.actors[i].pc = if packs_first { P_DEL_PACKS } else { P_DEL_INDEX };
                put(out, i, n, "PUT merged index");
            });
        }
        P_DEL_INDEX => guarded(s, i, fence, P_QUIT, out, |m, out| {
            for x in (0..SLOTS).filter(|x| a.old & 1 << x != 0) {
                let mut n = m;
                n.index[x] = 0;
                n.actors[i].old &= !(1 << x);
                if n.actors[i].old == 0 {
                    n.actors[i].pc = match (a.set, a.lists) {
                        (0, NO_LIST) => P_QUIT,
                        (0, _) => P_DEL_LIST,
                        _ => P_DEL_PACKS,
                    };
                }
                put(out, i, n, "DELETE old index file");
            }
        }),
        P_DEL_PACKS => {
            let unguarded = cfg.missing == Rule::DeleteGuard;
            guarded(s, i, (cfg, fence.1, unguarded), P_QUIT, out, |m, out| {
                for p in (0..7).map(|x| 1u8 << x).filter(|p| a.set & p != 0) {
                    let mut n = m;
                    n.delete_pack(p);
                    n.actors[i].set &= !p;
                    if n.actors[i].set == 0 {
                        n.actors[i].pc = if a.old != 0 { P_DEL_INDEX } else { P_DEL_LIST };
                    }
                    put(out, i, n, "DELETE pack");
                }
            });
        }
        P_DEL_LIST => guarded(s, i, fence, P_QUIT, out, |mut n, out| {
            n.lists[a.lists as usize] = 0;
            n.actors[i] = Actor { pc: P_QUIT, ..Actor::default() };
            put(out, i, n, "DELETE list");
        }),
        P_QUIT => {
            n = end(s, i, DONE);
            n.fences[i] = 0;
            n.locks[i] = [0; 2];
            put(out, i, n, "DELETE fence");
        }
        P_RETRY => {
            n.fences[i] = 0;
            n.actors[i] = Actor { pc: P_WAIT, flags: a.flags & OLD_MARK, view: a.view, ..Actor::default() };
            put(out, i, n, "DELETE fence, retry later");
        }
        _ => {}
    }
}

fn fence_up(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    put(out, i, end(s, i, DONE), "leave the list to a later run");
    if cfg.compact {
        let mut n = *s;
        n.actors[i] = Actor { pc: P_LIST, lists: NO_LIST, ..Actor::default() };
        n.fences[i] = PRESENT | EXCLUSIVE | OWN;
        put(out, i, n, "PUT fence to merge index files");
    }
    for k in (0..3u8).filter(|&k| s.lists[k as usize] != 0) {
        let list = s.lists[k as usize] & !LIST;
        let mut n = *s;
        n.actors[i].lists = k;
        n.actors[i].pc = P_LIST;
        if !matches!(cfg.missing, Rule::Fence | Rule::FenceBeforeListing) {
            n.fences[i] = PRESENT | EXCLUSIVE | OWN;
        }
        if cfg.missing == Rule::ListingUnderFence {
            n.actors[i].old = s.index_files();
            n.actors[i].new = s.indexed();
        }
        if cfg.missing == Rule::ListCheckedUnderFence {
            n.actors[i].set = LIST | list;
        }
        put(out, i, n, "PUT fence");
        if cfg.missing == Rule::ListDeletedUnderFence {
            let mut n = end(s, i, DONE);
            n.lists[k as usize] = 0;
            put(out, i, n, "DELETE list without a fence");
        }
        let leftover = list & s.packs & !s.indexed();
        if cfg.missing == Rule::ResumeFromStart && leftover != 0 {
            let mut n = *s;
            n.actors[i] = Actor { pc: P_DIRECT, set: leftover, ..a };
            put(out, i, n, "resume: LIST index, find un-indexed packs of the list");
        }
    }
}
