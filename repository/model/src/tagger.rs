//! Own session that rewrites a snapshot (tag, rewrite, copy).

use crate::config::{Config, Rule};
use crate::session::*;
use crate::state::*;

/// Writes a snapshot that is derived from snapshot 0, then deletes snapshot 0. It relies on all of it, so it
/// never acknowledges and, like a reader, waits for a fence that is up.
pub(crate) fn step(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let a = s.actors[i];
    let mut n = *s;
    let careless = cfg.missing == Rule::DerivedWaits;
    match a.pc {
        IDLE => first_lock(s, i, cfg, 1, out),
        1 => {
            let stop = foreign_exclusive(s);
            if stop || careless || s.fences.iter().all(|f| *f == 0) {
                n.actors[i].pc = if stop { 5 } else { 2 };
                put(out, i, n, "LIST locks");
            }
        }
        2 => {
            n.actors[i].pc = if s.snaps & 1 != 0 { 3 } else { 5 };
            put(out, i, n, "GET snapshot 0");
        }
        3 => guarded(s, i, (cfg, locked(s, i), false), 5, out, |mut n, out| {
            n.snaps |= COPY_OF_0;
            n.actors[i].pc = 4;
            put(out, i, n, "PUT copy of snapshot 0");
        }),
        4 => guarded(s, i, (cfg, locked(s, i), false), 5, out, |mut n, out| {
            n.snaps &= !1;
            n.actors[i] = Actor { pc: 5, ..Actor::default() };
            put(out, i, n, "DELETE snapshot 0");
        }),
        5 => unlock(s, i, out, "DELETE lock"),
        _ => {}
    }
}
