//! What our own sessions share: locks, guarded requests, refresh, acknowledgement.

use crate::config::{Config, Role, Rule};
use crate::state::*;

pub(crate) type Next = (State, u8, &'static str);

pub(crate) const IDLE: u8 = 0;
pub(crate) const DONE: u8 = 62;
pub(crate) const DEAD: u8 = 63;

pub(crate) const LOST: u8 = 2; // lock was removed as stale
pub(crate) const OLD_MARK: u8 = 8; // mutation: snapshots as seen when the list was made
pub(crate) const GO: u8 = 16; // mutation: checked, request not yet landed

pub(crate) fn put(out: &mut Vec<Next>, i: usize, s: State, label: &'static str) {
    out.push((s, i as u8, label));
}

pub(crate) fn confirmed_page(a: &Actor) -> usize {
    (a.refresh >> 4) as usize
}

/// Actors whose pair of listing passes is under way (bit per actor).
pub(crate) fn two_passes_running(s: &State, cfg: &Config) -> u8 {
    let running = |j: usize| match cfg.roles[j] {
        Role::OwnPruner => s.actors[j].pc > crate::pruner::P_LIST && s.actors[j].pc <= crate::pruner::P_LIST_END,
        Role::OwnWriter => s.actors[j].pc > crate::writer::W_PAGES && s.actors[j].pc <= crate::writer::W_PAGES_END,
        _ => false,
    };
    (0..cfg.roles.len()).filter(|&j| running(j)).fold(0, |m, j| m | 1 << j)
}

/// A new pair of passes begins: locks may be refreshed once more (time rule T3).
pub(crate) fn passes_begin(n: &mut State, i: usize) {
    for a in n.actors.iter_mut() {
        a.refreshed_during &= !(1 << i);
    }
}

/// Is somebody who must see our session locks in the middle of a listing?
pub(crate) fn someone_listing(s: &State, cfg: &Config) -> bool {
    (0..cfg.roles.len()).any(|j| match cfg.roles[j] {
        Role::OwnPruner => two_passes_running(s, cfg) & 1 << j != 0,
        Role::StockPrune | Role::StockRepair => s.actors[j].pc == crate::stock::X_PAGE_B,
        _ => false,
    })
}

pub(crate) fn foreign_exclusive_on(s: &State, page: usize) -> bool {
    s.locks.iter().any(|l| l[page] & EXCLUSIVE != 0 && l[page] & OWN == 0)
}

pub(crate) fn foreign_exclusive(s: &State) -> bool {
    foreign_exclusive_on(s, 0) || foreign_exclusive_on(s, 1)
}

pub(crate) fn locked(s: &State, i: usize) -> bool {
    s.locks[i][confirmed_page(&s.actors[i])] & PRESENT != 0
}

enum Gate {
    Pass,
    Fail,
    Checked,
}

/// A guarded request: sign, check the own lock, send. The store refuses it once the signature has expired,
/// and nobody may remove a lock before that (time rule T1); so check and request are one step here.
fn gate(s: &State, i: usize, cfg: &Config, lock_exists: bool, unguarded: bool) -> Gate {
    match (unguarded, cfg.missing == Rule::GuardExpires, s.actors[i].flags & GO != 0, lock_exists) {
        (true, _, _, _) | (_, true, true, _) | (_, false, _, true) => Gate::Pass,
        (_, true, false, true) => Gate::Checked,
        _ => Gate::Fail,
    }
}

/// Runs `request` on a copy of the state if the gate lets it pass.
pub(crate) fn guarded(
    s: &State,
    i: usize,
    (cfg, lock_exists, unguarded): (&Config, bool, bool),
    abort: u8,
    out: &mut Vec<Next>,
    mut request: impl FnMut(State, &mut Vec<Next>),
) {
    let mut n = *s;
    match gate(s, i, cfg, lock_exists, unguarded) {
        Gate::Pass => {
            n.actors[i].flags &= !GO;
            request(n, out);
        }
        Gate::Checked => {
            n.actors[i].flags |= GO;
            put(out, i, n, "guard: own lock exists");
        }
        Gate::Fail => {
            n.actors[i].pc = abort;
            put(out, i, n, "guard: own lock is gone");
        }
    }
}

/// The check for a foreign exclusive lock is left out where no actor ever takes one.
pub(crate) fn checks_exclusive(cfg: &Config) -> bool {
    cfg.roles.iter().any(|r| matches!(r, Role::StockPrune | Role::StockRepair))
}

pub(crate) fn end(s: &State, i: usize, pc: u8) -> State {
    let mut n = *s;
    n.actors[i] = Actor { pc, ..Actor::default() };
    n
}

/// Writes the first lock object (either page if listings are paged).
pub(crate) fn first_lock(s: &State, i: usize, cfg: &Config, pc: u8, out: &mut Vec<Next>) {
    for page in 0..if cfg.paged { 2 } else { 1 } {
        let mut n = *s;
        n.locks[i][page] = PRESENT | OWN;
        n.actors[i].pc = pc;
        n.actors[i].refresh = (page as u8) << 4;
        put(out, i, n, "PUT lock");
    }
}

pub(crate) fn unlock(s: &State, i: usize, out: &mut Vec<Next>, label: &'static str) {
    let mut n = end(s, i, DONE);
    n.locks[i] = [0; 2];
    put(out, i, n, label);
}

/// Refresh of an own lock: look for the old one, write the new one, look for the old one again (if it is
/// gone, the new one is taken back and the session ends), delete the old one, but not while a listing is
/// under way (time rule T3). Until the second look the old lock is the one that counts.
pub(crate) fn refresh(s: &State, i: usize, cfg: &Config, abort: u8, out: &mut Vec<Next>) {
    if !cfg.paged {
        return;
    }
    let a = s.actors[i];
    let page = confirmed_page(&a);
    let old_exists = s.locks[i][page] != 0;
    let mut n = *s;
    match a.refresh & 15 {
        0 if old_exists || cfg.missing == Rule::RefreshChecks => {
            n.actors[i].refresh += 1;
            put(out, i, n, "refresh: own lock exists");
        }
        0 => {
            n.actors[i].pc = abort;
            put(out, i, n, "refresh: own lock is gone");
        }
        1 => {
            n.locks[i][1 - page] = PRESENT | OWN | (s.locks[i][page] & !7);
            n.actors[i].refresh += 1;
            put(out, i, n, "refresh: PUT new lock");
        }
        2 if old_exists || matches!(cfg.missing, Rule::RefreshChecks | Rule::RefreshRechecks) => {
            n.actors[i].refresh = (((1 - page) as u8) << 4) | 3;
            put(out, i, n, "refresh: old lock still exists");
        }
        2 => {
            n.locks[i] = [0; 2];
            n.actors[i].refresh &= 16;
            n.actors[i].pc = abort;
            put(out, i, n, "refresh: old lock is gone, DELETE new lock");
        }
        _ if cfg.missing == Rule::RefreshOverlaps || !someone_listing(s, cfg) => {
            n.locks[i][1 - page] = 0;
            n.actors[i].refresh &= 16;
            put(out, i, n, "refresh: DELETE old lock");
        }
        _ => {}
    }
}

pub(crate) fn publish(s: &State, i: usize, abort: u8, next: u8, label: &'static str, out: &mut Vec<Next>) {
    let mut n = *s;
    if locked(s, i) {
        for l in n.locks[i].iter_mut().filter(|l| **l != 0) {
            *l |= s.actors[i].lists * ACK0;
        }
        n.actors[i].pc = next;
        put(out, i, n, label);
    } else {
        n.actors[i].pc = abort;
        put(out, i, n, "own lock is gone");
    }
}

pub(crate) fn lists_present(s: &State) -> (u8, Packs) {
    let bits = (0..3).filter(|&k| s.lists[k] != 0).fold(0, |a, k| a | 1 << k);
    (bits, s.lists[0] | s.lists[1] | s.lists[2])
}
