//! Unmodified restic: backup, restore, prune, repair index. Steps follow its source (lock.go, lock_file.go,
//! cmd_backup.go, prune.go, repair_index.go, master_index.go).

use crate::config::{Config, Role};
use crate::session::*;
use crate::state::*;

const LOCKED: u8 = 1;
const CHECKED: u8 = 2;
const LOADED: u8 = 3;
const PACKED: u8 = 4;
const INDEXED: u8 = 5;
const LAST: u8 = 6;
const SNAP: u8 = 7;

fn put(out: &mut Vec<Next>, i: usize, s: State, label: &'static str) {
    out.push((s, i as u8, label));
}

fn first_lock(s: &State, i: usize, cfg: &Config, bits: u8, out: &mut Vec<Next>) {
    for page in 0..if cfg.paged { 2 } else { 1 } {
        let mut n = *s;
        n.locks[i][page] = bits;
        n.actors[i].pc = LOCKED;
        n.actors[i].refresh = (page as u8) << 4;
        put(out, i, n, "PUT lock");
    }
}

fn unlock(s: &State, i: usize, out: &mut Vec<Next>) {
    let mut n = *s;
    n.locks[i] = [0; 2];
    n.actors[i] = Actor { pc: DONE, ..Actor::default() };
    put(out, i, n, "DELETE lock");
}

fn exclusive_lock(s: &State, me: usize) -> bool {
    (0..MAX).filter(|&j| j != me).any(|j| s.fences[j] != 0 || s.locks[j].iter().any(|l| l & EXCLUSIVE != 0))
}

/// restic's refresh: new file, then delete the old one, nothing is looked at. At most one begins during one
/// pair of listing passes (time rule T3).
pub(crate) fn refresh(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    if !cfg.paged || a.pc <= LOCKED || !s.has_lock(i) {
        return;
    }
    let page = confirmed_page(&a);
    let mut n = *s;
    if a.refresh & 15 == 0 {
        let running = two_passes_running(s, cfg);
        if running & a.refreshed_during == 0 {
            n.locks[i][1 - page] = s.locks[i][page];
            n.actors[i].refresh = (((1 - page) as u8) << 4) | 1;
            n.actors[i].refreshed_during = running;
            put(out, i, n, "refresh: PUT new lock");
        }
    } else {
        n.locks[i][1 - page] = 0;
        n.actors[i].refresh &= 16;
        put(out, i, n, "refresh: DELETE old lock");
    }
}

fn look_for_exclusive(s: &State, i: usize, out: &mut Vec<Next>) {
    let mut n = *s;
    n.actors[i].pc = if exclusive_lock(s, i) { LAST } else { CHECKED };
    put(out, i, n, "LIST locks");
}

pub(crate) fn writer(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    match a.pc {
        IDLE => first_lock(s, i, cfg, PRESENT, out),
        LOCKED => look_for_exclusive(s, i, out),
        CHECKED => {
            n.actors[i].view = u8::from(s.indexed() & s.has_b != 0);
            n.actors[i].pc = LOADED;
            let l = if n.actors[i].view != 0 { "load index: b is known" } else { "load index: b is unknown" };
            put(out, i, n, l);
        }
        LOADED => {
            n.packs |= pack_of(i);
            if a.view == 0 {
                n.has_b |= pack_of(i);
            }
            n.actors[i].view = 0;
            n.actors[i].pc = PACKED;
            put(out, i, n, "PUT pack");
        }
        PACKED => {
            n.index[slot1(i)] = pack_of(i);
            n.actors[i].pc = INDEXED;
            put(out, i, n, "PUT index");
        }
        INDEXED => {
            n.snaps |= snap_of(i);
            n.actors[i].pc = LAST;
            put(out, i, n, "PUT snapshot");
        }
        LAST => unlock(s, i, out),
        _ => {}
    }
    refresh(s, i, cfg, out);
}

pub(crate) fn reader(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    match a.pc {
        IDLE => first_lock(s, i, cfg, PRESENT, out),
        LOCKED => look_for_exclusive(s, i, out),
        CHECKED => {
            n.actors[i].pc = if s.snaps & 1 != 0 { SNAP } else { LAST };
            put(out, i, n, "find snapshot");
        }
        SNAP => {
            n.actors[i].view = s.indexed() & s.has_b;
            if n.actors[i].view == 0 {
                n.bad |= 1;
            }
            n.actors[i].pc = LOADED;
            put(out, i, n, "load index");
        }
        LOADED => {
            if a.view & !s.packs != 0 {
                n.bad |= 1;
            }
            n.actors[i].view = 0;
            n.actors[i].pc = LAST;
            put(out, i, n, "GET packs");
        }
        LAST => unlock(s, i, out),
        _ => {}
    }
}

// --------------------------------------------------------------------- exclusive: prune, repair index

pub(crate) const X_PAGE_B: u8 = 2;
const X_OK: u8 = 3;
const X_SNAPS: u8 = 4;
const X_PACKS: u8 = 5;
const X_DEL_ORPHANS: u8 = 6;
const X_PUT_INDEX: u8 = 7;
const X_DEL_INDEX: u8 = 8;
const X_DEL_PACKS: u8 = 9;
const X_END: u8 = 10;

fn others_locked(s: &State, me: usize, page: usize) -> bool {
    (0..MAX).any(|j| j != me && (s.locks[j][page] != 0 || page == 0 && s.fences[j] != 0))
}

pub(crate) fn exclusive(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    match a.pc {
        IDLE => first_lock(s, i, cfg, PRESENT | EXCLUSIVE, out),
        LOCKED if !cfg.paged => {
            let stop = others_locked(s, i, 0) || others_locked(s, i, 1);
            n.actors[i].pc = if stop { X_END } else { X_OK };
            put(out, i, n, "LIST locks");
        }
        LOCKED => {
            n.actors[i].pc = if others_locked(s, i, 0) { X_END } else { X_PAGE_B };
            put(out, i, n, "LIST locks, first page");
        }
        X_PAGE_B => {
            n.actors[i].pc = if others_locked(s, i, 1) { X_END } else { X_OK };
            put(out, i, n, "LIST locks, last page");
        }
        X_OK => {
            n.actors[i].old = s.index_files();
            n.actors[i].new = s.indexed();
            n.actors[i].pc = if cfg.roles[i] == Role::StockRepair { X_PACKS } else { X_SNAPS };
            put(out, i, n, "load index");
        }
        X_SNAPS => {
            n.actors[i].view = s.snaps;
            n.actors[i].pc = X_PACKS;
            put(out, i, n, "LIST snapshots, mark");
        }
        X_PACKS if cfg.roles[i] == Role::StockRepair => {
            // adds un-indexed packs, forgets missing ones
            n.actors[i].new = s.packs;
            n.actors[i].pc = if s.packs == a.new { X_END } else { X_PUT_INDEX };
            put(out, i, n, "LIST packs, read the un-indexed ones");
        }
        X_PACKS => plan_prune(s, i, out),
        X_DEL_ORPHANS => {
            let p = a.view & a.view.wrapping_neg();
            n.delete_pack(p);
            n.actors[i].view &= !p;
            if n.actors[i].view == 0 {
                n.actors[i].pc = X_PUT_INDEX;
            }
            put(out, i, n, "DELETE un-indexed pack");
        }
        X_PUT_INDEX => {
            if a.set == 0 && cfg.roles[i] != Role::StockRepair {
                n.actors[i].pc = X_END;
                put(out, i, n, "nothing to remove");
            } else {
                n.index[slot2(i)] = a.new;
                n.actors[i].pc = X_DEL_INDEX;
                put(out, i, n, "PUT new index");
            }
        }
        X_DEL_INDEX => {
            let x = a.old.trailing_zeros() as usize;
            if x < SLOTS {
                n.index[x] = 0;
                n.actors[i].old &= !(1 << x);
            } else {
                n.actors[i].pc = X_DEL_PACKS;
            }
            put(out, i, n, "DELETE old index file");
        }
        X_DEL_PACKS => {
            if a.set == 0 {
                n.actors[i].pc = X_END;
                put(out, i, n, "done");
            } else {
                let p = a.set & a.set.wrapping_neg();
                n.delete_pack(p);
                n.actors[i].set &= !p;
                put(out, i, n, "DELETE pack");
            }
        }
        X_END => unlock(s, i, out),
        _ => {}
    }
    refresh(s, i, cfg, out);
}

/// Un-indexed packs go at once; packs without used blobs go; of several copies of `b` one (any) stays.
fn plan_prune(s: &State, i: usize, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let indexed = a.new;
    let copies = s.has_b & indexed & s.packs;
    let needed = a.view & OWN_BLOB; // pack 1+j holds the own blob of snapshot 1+j
    let mut done = vec![];
    if a.view != 0 && copies == 0 || needed & !(indexed & s.packs) != 0 {
        let mut n = *s; // "Data seems to be missing. Will not start prune"
        n.actors[i].pc = X_END;
        put(out, i, n, "refuses: used blobs are not in the index");
        return;
    }
    let keeps: Vec<Packs> = if a.view == 0 {
        vec![0]
    } else if copies & needed != 0 {
        vec![copies & needed]
    } else {
        (0..8).map(|x| 1u8 << x).filter(|p| copies & p != 0).collect()
    };
    for keep in keeps {
        let remove = indexed & !(needed | keep);
        if done.contains(&remove) {
            continue;
        }
        done.push(remove);
        let mut n = *s;
        n.actors[i].view = s.packs & !indexed; // from here on: orphans to delete
        n.actors[i].set = remove;
        n.actors[i].new = indexed & !remove;
        n.actors[i].pc = if n.actors[i].view != 0 { X_DEL_ORPHANS } else { X_PUT_INDEX };
        put(out, i, n, "LIST packs, plan");
    }
}
