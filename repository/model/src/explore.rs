//! Successors, exhaustive depth-first search, and shortest counterexamples by breadth-first search.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use crate::config::{Config, Role};
use crate::session::*;
use crate::state::*;
use crate::{pruner, reader, stock, tagger, writer};

const ENV: u8 = 255;

fn successors(s: &State, cfg: &Config, out: &mut Vec<Next>) {
    for i in 0..cfg.roles.len() {
        let pc = s.actors[i].pc;
        if pc >= DONE {
            continue;
        }
        match cfg.roles[i] {
            Role::OwnWriter => writer::step(s, i, cfg, out),
            Role::OwnReader => reader::step(s, i, cfg, out),
            Role::OwnTagger => tagger::step(s, i, cfg, out),
            Role::OwnPruner => pruner::step(s, i, cfg, out),
            Role::StockWriter => stock::writer(s, i, cfg, out),
            Role::StockReader => stock::reader(s, i, cfg, out),
            Role::StockPrune | Role::StockRepair => stock::exclusive(s, i, cfg, out),
        }
        if cfg.crash && pc != IDLE {
            let mut n = *s;
            n.actors[i] = Actor { pc: DEAD, ..Actor::default() };
            out.push((n, i as u8, "CRASH"));
        }
    }
    for i in 0..cfg.roles.len() {
        remove_stale(s, i, cfg, out);
    }
    if cfg.forget && s.snaps & 1 != 0 {
        let mut n = *s;
        n.snaps &= !1;
        out.push((n, ENV, "forget snapshot 0"));
    }
}

fn own_role(r: Role) -> bool {
    !matches!(r, Role::StockWriter | Role::StockReader | Role::StockPrune | Role::StockRepair)
}

/// Somebody removes lock objects as stale: of crashed actors always, of live own actors (paused ones) within
/// the budget. A crash with a request still under way is a paused actor that never wakes up.
fn remove_stale(s: &State, i: usize, cfg: &Config, out: &mut Vec<Next>) {
    let dead = s.actors[i].pc == DEAD;
    let alive = s.actors[i].pc < DONE && s.zombies > 0 && own_role(cfg.roles[i]);
    if !dead && !alive {
        return;
    }
    let base = || {
        let mut n = *s;
        if !dead {
            n.zombies -= 1;
        }
        n
    };
    for page in 0..2 {
        // an old lock next to its refreshed one is too young to go during a listing (time rules T1, T3)
        let refreshed = s.actors[i].refresh & 15 != 0 && page != confirmed_page(&s.actors[i]);
        if s.locks[i][page] != 0 && !(refreshed && someone_listing(s, cfg)) {
            let mut n = base();
            n.locks[i][page] = 0;
            if !dead && cfg.roles[i] == Role::OwnReader {
                n.actors[i].flags |= LOST;
            }
            out.push((n, i as u8, if dead { "its stale lock is removed" } else { "PAUSED, its lock is removed as stale" }));
        }
    }
    if s.fences[i] != 0 {
        let mut n = base();
        n.fences[i] = 0;
        out.push((n, i as u8, if dead { "its stale fence is removed" } else { "PAUSED, its fence is removed as stale" }));
    }
}

/// Fingerprint; two interchangeable writers (actors 0 and 1) count as one state.
fn key(s: &State, cfg: &Config) -> u64 {
    let n = cfg.roles.len();
    let same = !cfg.paged && n > 1 && cfg.roles[0] == cfg.roles[1] && cfg.roles[0] == Role::OwnWriter;
    let k = fingerprint(s, cfg.seed);
    if same { k.min(fingerprint(&s.swapped(0, 1), cfg.seed)) } else { k }
}

fn fingerprint(s: &State, seed: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, s).hash(&mut hasher);
    hasher.finish()
}

/// Fingerprints of states that were met.
type Seen = HashSet<u64, BuildHasherDefault<Itself>>;

/// A fingerprint is a hash already.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(5) ^ number;
    }
}

/// What an exhaustive search found.
#[derive(Debug)]
pub struct Outcome {
    pub states: usize,
    pub edges: u64,
    pub violation: Option<&'static str>,
    /// Somebody cannot go on, and nothing can be done about it.
    pub is_stuck: bool,
    /// pack deletions while an own session runs
    pub beside: u64,
    /// No limit was met.
    pub is_complete: bool,
}

/// All actors have ended (or have nothing to start with) and no lock is left.
fn clean_end(s: &State, cfg: &Config) -> bool {
    (0..cfg.roles.len()).all(|i| {
        let pc = s.actors[i].pc;
        (pc >= DONE || pc == IDLE) && !s.has_lock(i) && s.fences[i] == 0
    })
}

/// Exhaustive depth-first search over all reachable states.
pub fn exhaust(cfg: &Config, limit: usize) -> Outcome {
    let first = State::initial(cfg.zombies);
    let mut seen = Seen::default();
    seen.insert(key(&first, cfg));
    let mut stack = vec![first];
    let mut next = Vec::new();
    let mut o = Outcome { states: 0, edges: 0, violation: None, is_stuck: false, beside: 0, is_complete: true };
    while let Some(s) = stack.pop() {
        if let Some(v) = s.violation(cfg.only_snapshots) {
            o.violation = Some(v);
            break;
        }
        next.clear();
        successors(&s, cfg, &mut next);
        if next.is_empty() && !clean_end(&s, cfg) {
            o.is_stuck = true;
            break;
        }
        for (t, _, label) in next.drain(..) {
            o.edges += 1;
            if label == "DELETE pack"
                && cfg.roles.iter().enumerate().any(|(i, r)| {
                    matches!(r, Role::OwnWriter | Role::OwnReader | Role::OwnTagger)
                        && t.actors[i].pc > IDLE
                        && t.actors[i].pc < DONE
                        && t.has_lock(i)
                })
            {
                o.beside += 1;
            }
            if seen.insert(key(&t, cfg)) {
                stack.push(t);
            }
        }
        if seen.len() > limit {
            o.is_complete = false;
            break;
        }
    }
    o.states = seen.len();
    o
}

/// Shortest path to a violation (or a stuck state).
pub fn shortest(cfg: &Config, limit: usize) -> (usize, Option<(String, Vec<String>)>) {
    let first = State::initial(cfg.zombies);
    let mut seen = Seen::default();
    seen.insert(key(&first, cfg));
    let mut parents: Vec<(u32, u8)> = vec![(0, 0)];
    let mut layer = vec![(first, 0u32)];
    let mut next = Vec::new();
    while !layer.is_empty() {
        let mut deeper = Vec::new();
        for (s, at) in layer {
            next.clear();
            successors(&s, cfg, &mut next);
            let bad = s.violation(cfg.only_snapshots).or((next.is_empty() && !clean_end(&s, cfg)).then_some("stuck"));
            if let Some(v) = bad {
                return (seen.len(), Some((v.to_string(), replay(cfg, &parents, at))));
            }
            for (x, (t, _, _)) in next.drain(..).enumerate() {
                if seen.insert(key(&t, cfg)) {
                    parents.push((at, x as u8));
                    deeper.push((t, parents.len() as u32 - 1));
                }
            }
            if seen.len() > limit {
                return (seen.len(), None);
            }
        }
        layer = deeper;
    }
    (seen.len(), None)
}

fn replay(cfg: &Config, parents: &[(u32, u8)], mut at: u32) -> Vec<String> {
    let mut path = vec![];
    while at != 0 {
        path.push(parents[at as usize].1);
        at = parents[at as usize].0;
    }
    let mut s = State::initial(cfg.zombies);
    let mut out = vec![];
    let mut lines = vec![];
    for x in path.into_iter().rev() {
        out.clear();
        successors(&s, cfg, &mut out);
        let (t, who, label) = out[x as usize];
        let who = if who == ENV { "someone".to_string() } else { cfg.name(who as usize) };
        lines.push(format!("{who}: {label}"));
        s = t;
    }
    lines
}

/// From every reachable state the remaining work can be finished: let the others end (or die and have their
/// locks removed), then the pruners. Returns the number of states from which this fails.
pub fn can_always_finish(cfg: &Config, limit: usize) -> (usize, usize) {
    let first = State::initial(cfg.zombies);
    let mut seen = Seen::default();
    seen.insert(key(&first, cfg));
    let mut stack = vec![first];
    let (mut next, mut failed) = (Vec::new(), 0);
    while let Some(s) = stack.pop() {
        failed += usize::from(!finish(s, cfg));
        next.clear();
        successors(&s, cfg, &mut next);
        for (t, _, _) in next.drain(..) {
            if seen.insert(key(&t, cfg)) {
                stack.push(t);
            }
        }
        if seen.len() > limit {
            break;
        }
    }
    (seen.len(), failed)
}

/// One schedule: stale locks go first, a raised fence is worked off, then the other sessions end one after
/// the other, then the pruners.
fn finish(mut s: State, cfg: &Config) -> bool {
    let mut out = vec![];
    for _ in 0..400 {
        out.clear();
        successors(&s, cfg, &mut out);
        let rank = |who: u8, label: &str| -> u32 {
            let never = ["CRASH", "PAUSED", "refresh", "PUT fence to merge"];
            if who == ENV || never.iter().any(|l| label.starts_with(l)) {
                return 1000;
            }
            let i = who as usize;
            match cfg.roles[i] {
                _ if label.starts_with("its stale") => 0,
                _ if label.starts_with("leave the list") => 900,
                _ if s.fences[i] != 0 => 1,
                _ if s.actors[i].pc == IDLE => 500 + i as u32,
                Role::OwnPruner => 100 + i as u32,
                _ => 10 + i as u32,
            }
        };
        match out.iter().min_by_key(|(_, who, l)| rank(*who, l)) {
            Some((t, who, l)) if rank(*who, l) < 1000 => s = *t,
            _ => break,
        }
    }
    clean_end(&s, cfg)
}
