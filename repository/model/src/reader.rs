//! Own restore session.

use crate::config::{Config, Rule};
use crate::session::*;
use crate::state::*;

const R_LOCKED: u8 = 1;
const R_CHECKED: u8 = 2;
const R_SNAP: u8 = 3;
const R_PLANNED: u8 = 4;
const R_READ: u8 = 5;

/// Restores snapshot 0. It relies on all of it, so it acknowledges nothing, and waits for a fence that is up.
pub(crate) fn step(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    match a.pc {
        IDLE => {
            if cfg.missing == Rule::ReaderLocks {
                n.actors[i].pc = R_CHECKED;
                put(out, i, n, "start without a lock");
            } else {
                first_lock(s, i, cfg, R_LOCKED, out);
            }
        }
        R_LOCKED => {
            // a fence is waited for: it may have listed the locks before this one was there
            let fence = s.fences.iter().any(|f| *f != 0) && cfg.missing != Rule::ReaderWaits;
            if foreign_exclusive(s) || !fence {
                n.actors[i].pc = if foreign_exclusive(s) { R_READ } else { R_CHECKED };
                put(out, i, n, "LIST locks");
            }
        }
        R_CHECKED => {
            n.actors[i].pc = if s.snaps & 1 != 0 { R_SNAP } else { R_READ };
            put(out, i, n, "LIST snapshots");
        }
        R_SNAP => {
            n.actors[i].view = s.indexed() & s.has_b;
            if n.actors[i].view == 0 && a.flags & LOST == 0 {
                n.bad |= 1;
            }
            n.actors[i].pc = R_PLANNED;
            put(out, i, n, "load index, plan");
        }
        R_PLANNED => {
            if a.view & !s.packs != 0 && a.flags & LOST == 0 {
                n.bad |= 1;
            }
            n.actors[i] = Actor { pc: R_READ, refresh: a.refresh, ..Actor::default() };
            put(out, i, n, "GET packs");
        }
        R_READ => unlock(s, i, out, "DELETE lock"),
        _ => {}
    }
}
