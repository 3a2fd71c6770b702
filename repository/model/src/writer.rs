//! Own backup session.

use crate::config::{Config, Rule};
use crate::session::*;
use crate::state::*;

const W_LOCKED: u8 = 1;
const W_CHECKED: u8 = 2;
const W_LISTED: u8 = 3;
const W_ACKED: u8 = 4;
pub(crate) const W_LOADED: u8 = 5;
const W_PACKED: u8 = 6;
const W_INDEXED: u8 = 7;
const W_SNAPPED: u8 = 8;
const W_ABORT: u8 = 9;
const W_EARLY_LISTED: u8 = 10;
const W_EARLY_LOADED: u8 = 11;
pub(crate) const W_PAGES: u8 = 12; // ..15: pages A, B, A, B
pub(crate) const W_PAGES_END: u8 = W_PAGES + 3;

/// Copies of `b` the session may rely on.
fn usable(s: &State, cfg: &Config, honoured: Packs) -> Packs {
    let copies = s.indexed() & s.has_b;
    if cfg.missing == Rule::AckHonoured { copies } else { copies & !honoured }
}

pub(crate) fn step(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    match a.pc {
        IDLE => match cfg.missing {
            Rule::ListsAfterLock => {
                let (bits, set) = lists_present(s);
                n.actors[i].lists = bits;
                n.actors[i].set = set;
                n.actors[i].pc = W_EARLY_LISTED;
                put(out, i, n, "LIST condemned (before the lock)");
            }
            Rule::IndexAfterLock => {
                n.actors[i].view = s.indexed() & s.has_b;
                n.actors[i].pc = W_EARLY_LOADED;
                put(out, i, n, "load index (before the lock)");
            }
            _ => first_lock(s, i, cfg, W_LOCKED, out),
        },
        W_EARLY_LISTED | W_EARLY_LOADED => first_lock(s, i, cfg, W_LOCKED, out),
        W_LOCKED if checks_exclusive(cfg) && cfg.paged => {
            n.actors[i].pc = W_PAGES;
            list_page(&n, i, cfg, out);
        }
        W_PAGES..=W_PAGES_END => list_page(s, i, cfg, out),
        W_LOCKED if checks_exclusive(cfg) => {
            let stop = foreign_exclusive(s) && cfg.missing != Rule::RespectExclusive;
            n.actors[i].pc = if stop { W_ABORT } else { W_CHECKED };
            put(out, i, n, "LIST locks");
        }
        W_LOCKED | W_CHECKED => {
            if cfg.missing != Rule::ListsAfterLock {
                let (bits, set) = lists_present(s);
                n.actors[i].lists = bits;
                n.actors[i].set = set;
            }
            n.actors[i].pc = if n.actors[i].lists == 0 { W_ACKED } else { W_LISTED };
            put(out, i, n, "LIST condemned");
        }
        W_LISTED => publish(s, i, W_ABORT, W_ACKED, "put acknowledgement into the lock", out),
        W_ACKED => {
            n.actors[i].view = if cfg.missing == Rule::IndexAfterLock { a.view & !a.set } else { usable(s, cfg, a.set) };
            n.actors[i].set = 0;
            n.actors[i].pc = W_LOADED;
            let l = if n.actors[i].view != 0 { "load index: b is known" } else { "load index: b is unknown" };
            put(out, i, n, l);
        }
        W_LOADED => {
            n.packs |= pack_of(i);
            if a.view == 0 {
                n.has_b |= pack_of(i);
            }
            n.actors[i].pc = W_PACKED;
            put(out, i, n, "PUT pack");
        }
        W_PACKED => {
            let unguarded = cfg.missing == Rule::IndexGuard;
            guarded(s, i, (cfg, locked(s, i), unguarded), W_ABORT, out, |mut n, out| {
                n.index[slot1(i)] = pack_of(i);
                n.actors[i].pc = W_INDEXED;
                put(out, i, n, "PUT index");
            });
        }
        W_INDEXED => {
            let unguarded = cfg.missing == Rule::SnapshotGuard;
            guarded(s, i, (cfg, locked(s, i), unguarded), W_ABORT, out, |mut n, out| {
                n.snaps |= snap_of(i);
                n.actors[i] = Actor { pc: W_SNAPPED, refresh: a.refresh, ..Actor::default() };
                put(out, i, n, "PUT snapshot");
            });
        }
        W_SNAPPED => unlock(s, i, out, "DELETE lock"),
        W_ABORT => unlock(s, i, out, "DELETE lock, give up"),
        _ => {}
    }
    if a.pc == W_LOADED && a.view != 0 {
        // Of two that meet, each may store it.
        let mut n = *s;
        n.actors[i].view = 0;
        put(out, i, n, "store b again");
    }
    if (W_ACKED..=W_INDEXED).contains(&a.pc) {
        refresh(s, i, cfg, W_ABORT, out);
    }
}

/// One page of the two passes in which a session looks for a foreign exclusive lock.
fn list_page(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let mut n = *s;
    let step = s.actors[i].pc - W_PAGES;
    let last = if cfg.missing == Rule::TwoPasses { 1 } else { 3 };
    if step == 0 {
        passes_begin(&mut n, i);
    }
    let stop = foreign_exclusive_on(s, (step & 1) as usize);
    n.actors[i].pc = match (stop, step == last) {
        (true, _) => W_ABORT,
        (_, true) => W_CHECKED,
        _ => W_PAGES + step + 1,
    };
    put(out, i, n, "LIST locks, one page");
}
