//! Who runs next, and where: the slots of every node, and the queue before them. No client required.
//!
//! The mover in slot 1 of a node *is* the pod named after that node and that slot, so the API server decides who gets
//! it. What is decided here may be stale and may be decided twice: the second pod is refused, and nothing is exceeded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::api::volume_backup::Urgency;

/// What runs in a slot, or wants to. Restores go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Somebody waits for data.
    Restore,
    /// Data waits to be saved.
    Backup(Urgency),
}

impl Work {
    const fn is_backup(self) -> bool {
        match self {
            Self::Restore => false,
            Self::Backup(_) => true,
        }
    }
}

/// A node, and what takes its slots: mover pods that exist, in whatever state, and attempts that were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Movers that may run on it now: zero where it is not ready, cordoned, or bears a taint that movers do not.
    pub limit: u32,
    /// Why that is zero.
    pub closed: Option<String>,
    /// Slots that backups leave free.
    pub reserved: u32,
    /// Slots that are taken, and by what.
    pub taken: BTreeMap<u32, Work>,
    /// Volumes that it can still attach, by driver. A driver that is not named has no limit.
    pub attachable: BTreeMap<String, u32>,
}

/// A run that waits for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The object's.
    pub uid: String,
    /// What it is.
    pub work: Work,
    /// The older one goes first.
    pub since: Timestamp,
    /// Nodes on which it can run.
    pub reach: BTreeSet<String>,
    /// The driver of its volume.
    pub driver: String,
    /// A node that is the last choice: its mover failed there.
    pub avoid: Option<String>,
}

/// A slot for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The run's.
    pub uid: String,
    /// The node.
    pub node: String,
    /// From 1.
    pub slot: u32,
}

/// Where a run stands that got none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// From 1, among all that wait.
    pub position: usize,
    /// How many wait.
    pub of: usize,
    /// Why it has no slot, in words.
    pub why: String,
    /// Whether some node could run it, once a slot is free.
    pub has_node: bool,
}

/// What the gate says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Slots given, in order.
    pub grants: Vec<Grant>,
    /// The others, by uid.
    pub standings: BTreeMap<String, Standing>,
}

/// Gives free slots to those who wait, in order. One that cannot run anywhere now holds up nobody.
#[must_use]
pub fn decide(mut nodes: Vec<Node>, mut waiting: Vec<Waiting>) -> Decision {
    waiting.sort_by(|a, b| (a.work, a.since, &a.uid).cmp(&(b.work, b.since, &b.uid)));
    let mut decision = Decision::default();
    let mut left = Vec::new();
    for run in waiting {
        let free = nodes.iter_mut().filter(|node| run.reach.contains(&node.name) && has_room(node, run.work, &run.driver));
        // Where most is free; then by name, so that the same facts give the same answer.
        let is_other = |node: &Node| run.avoid.as_ref() != Some(&node.name);
        let best = free.max_by(|a, b| (is_other(a), room(a)).cmp(&(is_other(b), room(b))).then_with(|| b.name.cmp(&a.name)));
        let slot = best.and_then(|node| (1..=node.limit).find(|slot| !node.taken.contains_key(slot)).map(|slot| (node, slot)));
        match slot {
            Some((node, slot)) => {
                node.taken.insert(slot, run.work);
                node.attachable.entry(run.driver).and_modify(|left| *left = left.saturating_sub(1));
                decision.grants.push(Grant { uid: run.uid, node: node.name.clone(), slot });
            }
            None => left.push(run),
        }
    }
    let of = left.len();
    for (before, run) in left.into_iter().enumerate() {
        let (why, has_node) = why(&nodes, &run);
        decision.standings.insert(run.uid, Standing { position: before + 1, of, why, has_node });
    }
    decision
}

/// Nothing is filled while as many slots are taken as there may be: a limit that was lowered does not refill low
/// numbers beside high ones.
fn has_room(node: &Node, work: Work, driver: &str) -> bool {
    let taken = node.taken.len() as u64;
    let backups = node.taken.values().filter(|work| work.is_backup()).count() as u64;
    let for_backups = u64::from(node.limit - reserved(node));
    taken < u64::from(node.limit) && (!work.is_backup() || backups < for_backups) && node.attachable.get(driver) != Some(&0)
}

/// At most one less than there are: backups never starve.
fn reserved(node: &Node) -> u32 {
    node.reserved.min(node.limit.saturating_sub(1))
}

fn room(node: &Node) -> u64 {
    u64::from(node.limit).saturating_sub(node.taken.len() as u64)
}

/// Why no node took it, shortest first: one that is full is worth waiting for, one that is closed needs somebody.
fn why(nodes: &[Node], run: &Waiting) -> (String, bool) {
    let near: Vec<&Node> = nodes.iter().filter(|node| run.reach.contains(&node.name)).collect();
    if near.is_empty() {
        return (format!("no node that is there runs the driver {} and fits the volume's topology", run.driver), false);
    }
    let open: Vec<&&Node> = near.iter().filter(|node| node.limit > 0).collect();
    if open.is_empty() {
        let closed = near.iter().map(|node| format!("{} {}", node.name, node.closed.as_deref().unwrap_or("has no slots by policy")));
        return (format!("no node that reaches the volume may run a mover: {}", join(closed)), false);
    }
    let state = |node: &&&Node| {
        let (taken, limit) = (node.taken.len(), node.limit);
        if node.attachable.get(&run.driver) == Some(&0) && taken < limit as usize {
            format!("{} can attach no more volumes", node.name)
        } else if taken < limit as usize {
            format!("{} keeps its last slots for restores", node.name)
        } else {
            format!("{} runs {taken} of {limit}", node.name)
        }
    };
    (join(open.iter().map(state)), true)
}

/// Few are named, many are counted: a message has an end.
fn join(parts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    const SHOWN: usize = 3;
    let parts: Vec<_> = parts.into_iter().collect();
    let mut text = parts.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if parts.len() > SHOWN {
        let _ = write!(text, ", and {} more", parts.len() - SHOWN);
    }
    text
}

/// The pod that is this slot. Node names have up to 253 characters, so a hash stands for them.
#[must_use]
pub fn pod_name(node: &str, slot: u32) -> String {
    let hash = Sha256::digest(node.as_bytes());
    let short = hash.iter().take(5).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!("m-{short}-{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: Work = Work::Backup(Urgency::Manual);
    const DUE: Work = Work::Backup(Urgency::Scheduled);

    fn node(name: &str, limit: u32, taken: &[u32]) -> Node {
        let taken = taken.iter().map(|slot| (*slot, DUE)).collect();
        Node { name: name.to_owned(), limit, closed: None, reserved: 0, taken, attachable: [].into() }
    }

    fn run(uid: &str, work: Work, second: i64) -> Waiting {
        Waiting {
            uid: uid.to_owned(),
            work,
            since: Timestamp::from_second(second).unwrap(),
            reach: ["a", "b", "c"].map(str::to_owned).into_iter().chain((0..9).map(|i| format!("n{i}"))).collect(),
            driver: "csi".to_owned(),
            avoid: None,
        }
    }

    fn on(names: &[&str], waiting: Waiting) -> Waiting {
        Waiting { reach: names.iter().map(|name| (*name).to_owned()).collect(), ..waiting }
    }

    fn grants(nodes: Vec<Node>, waiting: Vec<Waiting>) -> Vec<(String, String, u32)> {
        decide(nodes, waiting).grants.into_iter().map(|grant| (grant.uid, grant.node, grant.slot)).collect()
    }

    fn granted(uid: &str, node: &str, slot: u32) -> (String, String, u32) {
        (uid.to_owned(), node.to_owned(), slot)
    }

    #[test]
    fn restores_first_then_what_was_asked_for_then_by_age() {
        let waiting = vec![run("old", DUE, 1), run("new", DUE, 2), run("asked", MANUAL, 3), run("restore", Work::Restore, 4)];
        let overdue = run("overdue", Work::Backup(Urgency::Overdue), 9);
        let order: Vec<String> =
            decide(vec![node("a", 9, &[])], [waiting, vec![overdue]].concat()).grants.into_iter().map(|grant| grant.uid).collect();
        assert_eq!(order, ["restore", "asked", "overdue", "old", "new"]);
    }

    #[test]
    fn no_more_than_the_limit_and_the_lowest_free_slot() {
        assert_eq!(grants(vec![node("a", 2, &[2])], vec![run("x", DUE, 1), run("y", DUE, 2)]), [granted("x", "a", 1)]);
        assert_eq!(grants(vec![node("a", 0, &[])], vec![run("x", DUE, 1)]), []);
    }

    #[test]
    fn a_lowered_limit_fills_nothing_until_enough_have_ended() {
        assert_eq!(grants(vec![node("a", 1, &[2, 3])], vec![run("x", DUE, 1)]), []);
        assert_eq!(grants(vec![node("a", 1, &[3])], vec![run("x", DUE, 1)]), []);
        assert_eq!(grants(vec![node("a", 1, &[])], vec![run("x", DUE, 1)]), [granted("x", "a", 1)]);
    }

    #[test]
    fn backups_leave_slots_to_restores_but_never_starve() {
        let reserved = |limit, reserved, taken| Node { reserved, ..node("a", limit, taken) };
        assert_eq!(grants(vec![reserved(2, 1, &[1])], vec![run("x", DUE, 1)]), []);
        assert_eq!(grants(vec![reserved(2, 1, &[1])], vec![run("r", Work::Restore, 1)]), [granted("r", "a", 2)]);
        assert_eq!(grants(vec![reserved(1, 5, &[])], vec![run("x", DUE, 1)]), [granted("x", "a", 1)]);
        // A restore takes none of what backups may have.
        let with_restore = Node { taken: [(1, Work::Restore)].into(), ..reserved(2, 1, &[]) };
        assert_eq!(grants(vec![with_restore], vec![run("x", DUE, 1)]), [granted("x", "a", 2)]);
        let why = &decide(vec![reserved(2, 1, &[1])], vec![run("x", DUE, 1)]).standings["x"].why;
        assert_eq!(why, "a keeps its last slots for restores");
    }

    #[test]
    fn movers_are_spread_and_go_where_the_volume_is() {
        let nodes = || vec![node("a", 3, &[1, 2]), node("b", 3, &[1])];
        assert_eq!(grants(nodes(), vec![run("x", DUE, 1)]), [granted("x", "b", 2)]);
        assert_eq!(grants(nodes(), vec![on(&["a"], run("x", DUE, 1))]), [granted("x", "a", 3)]);
        let burnt = || Waiting { avoid: Some("b".to_owned()), ..run("x", DUE, 1) };
        assert_eq!(grants(nodes(), vec![burnt()]), [granted("x", "a", 3)]);
        assert_eq!(grants(nodes(), vec![on(&["b"], burnt())]), [granted("x", "b", 2)]);
        // One that must wait for its node holds up nobody.
        let full = vec![node("a", 1, &[1]), node("b", 1, &[])];
        let decision = decide(full, vec![on(&["a"], run("x", DUE, 1)), run("y", DUE, 2)]);
        assert_eq!(decision.grants, [Grant { uid: "y".to_owned(), node: "b".to_owned(), slot: 1 }]);
        assert_eq!(decision.standings["x"].why, "a runs 1 of 1");
    }

    #[test]
    fn attachments_are_counted() {
        let tight = Node { attachable: [("csi".to_owned(), 1)].into(), ..node("a", 3, &[]) };
        assert_eq!(grants(vec![tight], vec![run("x", DUE, 1), run("y", DUE, 2)]), [granted("x", "a", 1)]);
        let none = Node { attachable: [("csi".to_owned(), 0)].into(), ..node("a", 3, &[]) };
        assert_eq!(decide(vec![none], vec![run("x", DUE, 1)]).standings["x"].why, "a can attach no more volumes");
    }

    #[test]
    fn it_is_said_why_and_where_one_stands() {
        let closed = Node { closed: Some("is cordoned".to_owned()), ..node("a", 0, &[]) };
        let decision = decide(vec![closed], vec![run("x", DUE, 1), on(&["gone"], run("y", DUE, 2))]);
        let x = &decision.standings["x"];
        assert_eq!((x.position, x.of, x.has_node), (1, 2, false));
        assert_eq!(x.why, "no node that reaches the volume may run a mover: a is cordoned");
        assert_eq!(decision.standings["y"].why, "no node that is there runs the driver csi and fits the volume's topology");
        let many = (0..9).map(|i| node(&format!("n{i}"), 1, &[1])).collect();
        assert_eq!(decide(many, vec![run("x", DUE, 1)]).standings["x"].why, "n0 runs 1 of 1, n1 runs 1 of 1, n2 runs 1 of 1, and 6 more");
    }

    #[test]
    fn a_slots_name_fits_whatever_the_node_is_called() {
        assert_eq!(pod_name("node-a", 1), "m-66570ff05a-1");
        assert!(pod_name(&"n".repeat(253), 100).len() < 64);
        assert_ne!(pod_name("node-a", 1), pod_name("node-b", 1));
    }

    /// Whatever is taken and whoever waits: no limit is exceeded, no slot is given twice, and none stays free that
    /// somebody could have had.
    #[test]
    fn invariants_hold_for_whatever_comes() {
        let mut seed = 1_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let names = ["a", "b", "c"];
            let nodes: Vec<Node> = names
                .iter()
                .map(|name| Node {
                    reserved: u32::try_from(next(3)).unwrap(),
                    taken: (0..next(4))
                        .map(|_| (u32::try_from(next(4)).unwrap() + 1, if next(2) == 0 { DUE } else { Work::Restore }))
                        .collect(),
                    ..node(name, u32::try_from(next(4)).unwrap(), &[])
                })
                .collect();
            let waiting: Vec<Waiting> = (0..next(9))
                .map(|i| {
                    let work = if next(3) == 0 { Work::Restore } else { DUE };
                    let waiting = run(&format!("run-{i}"), work, i64::try_from(next(5)).unwrap());
                    if next(2) == 0 { on(&[names[usize::try_from(next(3)).unwrap()]], waiting) } else { waiting }
                })
                .collect();
            let decision = decide(nodes.clone(), waiting.clone());
            assert_eq!(decision.grants.len() + decision.standings.len(), waiting.len());
            let mut after = nodes.clone();
            for grant in &decision.grants {
                let run = waiting.iter().find(|run| run.uid == grant.uid).unwrap();
                let node = after.iter_mut().find(|node| node.name == grant.node).unwrap();
                assert!(run.reach.contains(&node.name) && grant.slot <= node.limit);
                assert!(node.taken.insert(grant.slot, run.work).is_none(), "a slot was given twice");
                assert!(node.taken.len() <= node.limit as usize, "the limit was exceeded");
            }
            for uid in decision.standings.keys() {
                let run = waiting.iter().find(|run| run.uid == *uid).unwrap();
                assert!(
                    !after.iter().any(|node| run.reach.contains(&node.name) && has_room(node, run.work, &run.driver)),
                    "a slot stayed free"
                );
            }
        }
    }
}
