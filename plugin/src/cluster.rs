//! What the whole cluster looks like to the gate: kept by watches, so that a question costs no request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod, Taint, Toleration};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use kube::core::SelectorExt;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt};

use crate::api::run::{Attempt, Phase};
use crate::api::volume_backup::Urgency;
use crate::api::{MoverPolicy, MoverPolicySpec, RUN_LABEL, RunStatus, VolumeBackup, VolumeRestore};
use crate::gate::{self, Grant, Standing, Waiting, Work};
use crate::reach;
use crate::run::Run;
use crate::run::objects::{SLOT_LABEL, WORK_LABEL};

/// Taint of nodes whose pods are to be taken for dead, by somebody who knows.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// What a node is tainted with because it is cordoned: said better by the cordon itself.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// A kubelet that is back has told by now what became of its pods.
const BACK_FOR: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);
/// The only policy that counts.
pub const POLICY: &str = "default";

/// The policy that counts now: asked for, so that what was applied a moment before a run counts for it.
///
/// # Errors
/// Those of the API server: a policy that cannot be read is not the default one.
pub async fn policy(client: &kube::Client) -> kube::Result<MoverPolicySpec> {
    let policies = Api::<MoverPolicy>::all(client.clone());
    Ok(policies.get_opt(POLICY).await?.map(|policy| policy.spec).unwrap_or_default())
}

/// What the gate says of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateView {
    /// Its slot.
    pub grant: Option<Grant>,
    /// Or where it stands.
    pub standing: Option<Standing>,
    /// Whether its claim may be made before it has a slot.
    pub may_prepare: bool,
    /// Mover pods in the whole cluster.
    pub movers: usize,
    /// Runs in the whole cluster that have not begun, for want of what somebody must give.
    pub stalled: usize,
}

/// Whether a node can be believed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Its kubelet speaks.
    Ready,
    /// It does not, and what it ran may run on.
    NotReady,
    /// It is gone for good: its object is, or somebody who knows has said so.
    Lost,
}

/// How a node is.
///
/// # Errors
/// Those of the API server: a node that cannot be asked about is not gone.
pub async fn node_state(client: &kube::Client, node: &str) -> kube::Result<NodeState> {
    let Some(node) = Api::<Node>::all(client.clone()).get_opt(node).await? else { return Ok(NodeState::Lost) };
    let is_out = taints(&node).iter().any(|taint| taint.key == OUT_OF_SERVICE);
    let since = ready_since(&node);
    let is_believed = since.is_some_and(|since| jiff::Timestamp::now().duration_since(since) > BACK_FOR);
    Ok(match (is_out, is_believed) {
        (true, _) => NodeState::Lost,
        (false, true) => NodeState::Ready,
        (false, false) => NodeState::NotReady,
    })
}

/// Whether its kubelet speaks, for however short a time.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    ready_since(node).is_some()
}

fn ready_since(node: &Node) -> Option<jiff::Timestamp> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0))
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// What the watches keep.
#[derive(Debug)]
pub struct Cluster {
    /// All backups.
    pub backups: Store<VolumeBackup>,
    /// All restores.
    pub restores: Store<VolumeRestore>,
    /// Mover pods.
    pub pods: Store<Pod>,
    /// Nodes.
    pub nodes: Store<Node>,
    /// What drivers run on nodes, and how much they attach.
    pub csi_nodes: Store<CSINode>,
    /// What is attached.
    pub attachments: Store<VolumeAttachment>,
    /// The policy.
    pub policies: Store<MoverPolicy>,
    /// Attempts that were recorded, and that the watches may not show yet; by uid.
    pub recorded: Mutex<HashMap<String, Attempt>>,
}

impl Cluster {
    /// Everything is there: before, nothing may be decided.
    ///
    /// # Errors
    /// A watch that ended before.
    pub async fn wait_until_ready(&self) -> Result<(), kube::runtime::reflector::store::WriterDropped> {
        self.backups.wait_until_ready().await?;
        self.restores.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.csi_nodes.wait_until_ready().await?;
        self.attachments.wait_until_ready().await?;
        self.policies.wait_until_ready().await
    }

    /// An attempt was recorded: it counts from now on, whatever the watches show.
    pub fn record(&self, uid: &str, attempt: &Attempt) {
        self.recorded.lock().expect("no holder panics").insert(uid.to_owned(), attempt.clone());
    }

    fn policy(&self) -> MoverPolicySpec {
        self.policies.state().into_iter().find(|policy| policy.name_any() == POLICY).map(|policy| policy.spec.clone()).unwrap_or_default()
    }

    fn runs(&self) -> Vec<RunFacts> {
        let backups = self.backups.state();
        let restores = self.restores.state();
        backups.iter().map(|run| RunFacts::of(run.as_ref())).chain(restores.iter().map(|run| RunFacts::of(run.as_ref()))).collect()
    }

    /// What the gate decides now.
    #[must_use]
    pub fn decide(&self) -> gate::Decision {
        let policy = self.policy();
        let runs = self.runs();
        let attempts = self.attempts(&runs);
        let (pods, nodes, csi_nodes, attachments) =
            (self.pods.state(), self.nodes.state(), self.csi_nodes.state(), self.attachments.state());
        let mut drivers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for node in &csi_nodes {
            for driver in &node.spec.drivers {
                drivers.entry(&driver.name).or_default().insert(node.metadata.name.as_deref().unwrap_or_default());
            }
        }
        let mut attached: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for attachment in &attachments {
            *attached.entry((&attachment.spec.node_name, &attachment.spec.attacher)).or_default() += 1;
        }
        let facts = NodeFacts { policy: &policy, pods: &pods, attempts: &attempts, csi_nodes: &csi_nodes, attached: &attached };
        let gate_nodes: Vec<gate::Node> = nodes.iter().map(|node| facts.node(node)).collect();
        // What is left of an attempt ends before the next one begins.
        let has_pod: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.labels().get(RUN_LABEL).map(String::as_str)).collect();
        let waits = |run: &&RunFacts| run.is_waiting && !attempts.contains_key(&run.uid) && !has_pod.contains(run.uid.as_str());
        let reach = |run: &RunFacts| {
            let has_driver = drivers.get(run.driver.as_str());
            let reaches = |node: &&Arc<Node>| {
                let name = node.name_any();
                let fits = run.topology.as_ref().is_none_or(|selector| reach::selects(selector, &name, node.labels()));
                fits && has_driver.is_some_and(|nodes| nodes.contains(name.as_str()))
            };
            nodes.iter().filter(reaches).map(|node| node.name_any()).collect()
        };
        let waiting = runs.iter().filter(waits).map(|run| Waiting {
            uid: run.uid.clone(),
            work: run.work,
            since: run.since,
            reach: reach(run),
            driver: run.driver.clone(),
            avoid: run.avoid.clone(),
        });
        gate::decide(gate_nodes, waiting.collect())
    }

    /// What the gate says of one run.
    #[must_use]
    pub fn view<K: Run>(&self, run: &K) -> GateView {
        let run = RunFacts::of(run);
        let all = GateView { movers: self.pods.len(), stalled: stalled(&self.backups) + stalled(&self.restores), ..GateView::default() };
        if !run.is_waiting {
            return all;
        }
        let mut decision = self.decide();
        let standing = decision.standings.remove(&run.uid);
        let ahead = self.policy().prepare_ahead as usize;
        let may_prepare = standing.as_ref().is_some_and(|standing| standing.has_node && standing.position <= ahead);
        GateView { grant: decision.grants.into_iter().find(|grant| grant.uid == run.uid), standing, may_prepare, ..all }
    }

    /// Attempts that hold a slot, and what for, by uid; what the watches show by now is forgotten here.
    fn attempts(&self, runs: &[RunFacts]) -> BTreeMap<String, (Work, Attempt)> {
        let mut recorded = self.recorded.lock().expect("no holder panics");
        let by_uid: HashMap<&str, &RunFacts> = runs.iter().map(|run| (run.uid.as_str(), run)).collect();
        recorded.retain(|uid, attempt| by_uid.get(uid.as_str()).is_some_and(|run| run.attempts < attempt.number));
        let holds = |run: &RunFacts| {
            let attempt = recorded.get(&run.uid).or(run.attempt.as_ref())?;
            Some((run.uid.clone(), (run.work, attempt.clone())))
        };
        runs.iter().filter_map(holds).collect()
    }

    /// The runs that have a slot as soon as they ask.
    #[must_use]
    pub fn next(&self) -> (Vec<ObjectRef<VolumeBackup>>, Vec<ObjectRef<VolumeRestore>>) {
        let granted: BTreeSet<String> = self.decide().grants.into_iter().map(|grant| grant.uid).collect();
        (refs(&self.backups, |uid| granted.contains(uid)), refs(&self.restores, |uid| granted.contains(uid)))
    }
}

/// How many runs have not begun, for want of what somebody must give.
fn stalled<K: Run>(runs: &Store<K>) -> usize {
    runs.state().iter().filter(|run| run.run_status().is_some_and(RunStatus::is_asked_for)).count()
}

/// The runs whose uid it is.
pub fn refs<K: Run>(runs: &Store<K>, is_meant: impl Fn(&str) -> bool) -> Vec<ObjectRef<K>> {
    let runs = runs.state();
    let meant = runs.iter().filter(|run| run.meta().uid.as_deref().is_some_and(&is_meant));
    meant.map(|run| ObjectRef::from_obj(run.as_ref())).collect()
}

/// What the gate needs to know of a run.
struct RunFacts {
    uid: String,
    work: Work,
    since: jiff::Timestamp,
    /// It wants a slot and may have one.
    is_waiting: bool,
    /// The slot that it holds. One that stops holds it no more; its pod does, as long as there is one.
    attempt: Option<Attempt>,
    attempts: u32,
    topology: Option<NodeSelector>,
    driver: String,
    avoid: Option<String>,
}

impl RunFacts {
    fn of<K: Run>(run: &K) -> Self {
        let status = run.run_status();
        let is_leaving = run.is_cancelled() || run.meta().deletion_timestamp.is_some();
        let phase = status.map(|status| status.phase).unwrap_or_default();
        let is_later = status.and_then(|status| status.retry_after.as_ref()).is_some_and(|after| after.0 > jiff::Timestamp::now());
        let holds = matches!(phase, Phase::DatamoverDeploying | Phase::InProgress) && !is_leaving;
        Self {
            uid: run.meta().uid.clone().unwrap_or_default(),
            work: run.work(),
            since: run.meta().creation_timestamp.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0),
            is_waiting: phase == Phase::Prepared && !is_later && !is_leaving,
            attempt: status.and_then(|status| status.attempt.clone()).filter(|_| holds),
            attempts: status.map_or(0, |status| status.attempts),
            topology: status.and_then(|status| status.topology.clone()),
            driver: run.driver().unwrap_or_default().to_owned(),
            avoid: status.and_then(|status| status.avoid.clone()),
        }
    }
}

/// What the gate needs to know of nodes.
struct NodeFacts<'a> {
    policy: &'a MoverPolicySpec,
    pods: &'a [Arc<Pod>],
    attempts: &'a BTreeMap<String, (Work, Attempt)>,
    csi_nodes: &'a [Arc<CSINode>],
    attached: &'a BTreeMap<(&'a str, &'a str), usize>,
}

impl NodeFacts<'_> {
    fn node(&self, node: &Node) -> gate::Node {
        const BACKUP: Work = Work::Backup(Urgency::Manual);
        let name = node.name_any();
        let (limit, closed) = limit(self.policy, node);
        let mut taken = BTreeMap::new();
        for pod in self.pods {
            let slot = pod.labels().get(SLOT_LABEL).and_then(|slot| slot.parse::<u32>().ok());
            // By its name, which cannot be changed.
            if let Some(slot) = slot.filter(|slot| gate::pod_name(&name, *slot) == pod.name_any()) {
                let is_restore = pod.labels().get(WORK_LABEL).is_some_and(|work| work == "restore");
                taken.insert(slot, if is_restore { Work::Restore } else { BACKUP });
            }
        }
        for (work, attempt) in self.attempts.values().filter(|(_, attempt)| attempt.node == name) {
            taken.entry(attempt.slot).or_insert(*work);
        }
        gate::Node { limit, closed, reserved: self.policy.reserved_for_restore, taken, attachable: self.attachable(&name), name }
    }

    /// Drivers that limit what they attach to a node, and what is left.
    fn attachable(&self, node: &str) -> BTreeMap<String, u32> {
        let Some(csi_node) = self.csi_nodes.iter().find(|csi_node| csi_node.metadata.name.as_deref() == Some(node)) else {
            return BTreeMap::new();
        };
        let limited = csi_node.spec.drivers.iter().filter_map(|driver| {
            let limit = driver.allocatable.as_ref()?.count?;
            let attached = self.attached.get(&(node, driver.name.as_str())).copied().unwrap_or_default();
            let left = usize::try_from(limit).ok()?.saturating_sub(attached);
            Some((driver.name.clone(), u32::try_from(left).unwrap_or(u32::MAX)))
        });
        limited.collect()
    }
}

/// How many movers may run on a node, and why none may.
#[must_use]
pub fn limit(policy: &MoverPolicySpec, node: &Node) -> (u32, Option<String>) {
    // A rule that nobody can read means nobody knows whom: better nobody than too many.
    match (closed(node, policy), rule(policy, node)) {
        (Some(why), _) | (None, Err(why)) => (0, Some(why)),
        (None, Ok(movers)) => (movers.unwrap_or(policy.movers_per_node), None),
    }
}

/// How many movers the first rule that fits a node gives it.
fn rule(policy: &MoverPolicySpec, node: &Node) -> Result<Option<u32>, String> {
    for rule in &policy.nodes {
        let selector = kube::core::Selector::try_from(rule.selector.clone());
        let selector = selector.map_err(|error| format!("is meant by a rule of the policy that cannot be read: {error}"))?;
        if selector.matches(node.labels()) {
            return Ok(Some(rule.movers));
        }
    }
    Ok(None)
}

/// Why no mover may run on a node.
fn closed(node: &Node, policy: &MoverPolicySpec) -> Option<String> {
    let spec = node.spec.clone().unwrap_or_default();
    if spec.unschedulable == Some(true) {
        return Some("is cordoned".to_owned());
    }
    if ready_since(node).is_none() {
        return Some("is not ready".to_owned());
    }
    if !policy.pod.node_selector.iter().all(|(key, value)| node.labels().get(key) == Some(value)) {
        return Some("does not bear the policy's labels".to_owned());
    }
    let hindering = |taint: &&Taint| {
        let is_hard = taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        is_hard && taint.key != UNSCHEDULABLE && !policy.pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    taints(node).iter().find(hindering).map(|taint| format!("has the taint {}, which movers do not bear", taint.key))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key_fits = toleration.key.as_deref().is_none_or(|key| key.is_empty() || key == taint.key);
    let effect_fits = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
    let is_exists = toleration.operator.as_deref() == Some("Exists");
    let value_fits = is_exists || toleration.value.clone().unwrap_or_default() == taint.value.clone().unwrap_or_default();
    key_fits && effect_fits && value_fits && (is_exists || toleration.key.as_deref().is_some_and(|key| !key.is_empty()))
}

/// Bytes of a quantity such as `10Gi`; none if it is not one.
#[must_use]
pub fn bytes(quantity: &str) -> Option<i64> {
    const SUFFIXES: [(&str, i64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
    ];
    let (number, unit) =
        SUFFIXES.iter().find_map(|(suffix, unit)| quantity.strip_suffix(suffix).map(|number| (number, *unit))).unwrap_or((quantity, 1));
    match number.parse::<i64>() {
        Ok(number) => number.checked_mul(unit),
        Err(_) => number
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && *number >= 0.0)
            .map(|number| (number * unit as f64).ceil() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let cases = [
            ("1Gi", Some(1 << 30)),
            ("1.5Ki", Some(1536)),
            ("5G", Some(5_000_000_000)),
            ("17", Some(17)),
            ("1e3", Some(1000)),
            ("x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_slot_that_was_recorded_is_taken_for_what_it_is() {
        let attempt = |slot| Attempt { node: "a".to_owned(), slot, ..Attempt::default() };
        let manual = Work::Backup(Urgency::Manual);
        let attempts = [("r".to_owned(), (Work::Restore, attempt(1))), ("b".to_owned(), (manual, attempt(2)))].into();
        let policy = MoverPolicySpec::default();
        let facts = NodeFacts { policy: &policy, pods: &[], attempts: &attempts, csi_nodes: &[], attached: &BTreeMap::new() };
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(facts.node(&node).taken, [(1, Work::Restore), (2, manual)].into());
    }

    #[test]
    fn a_rule_that_cannot_be_read_closes_the_node() {
        let policy = |operator: &str| -> MoverPolicySpec {
            let rule = serde_json::json!({"selector": {"matchExpressions": [{"key": "k", "operator": operator}]}, "movers": 9});
            serde_json::from_value(serde_json::json!({"nodes": [rule]})).unwrap()
        };
        assert_eq!(rule(&policy("DoesNotExist"), &Node::default()), Ok(Some(9)));
        assert_eq!(rule(&policy("Exists"), &Node::default()), Ok(None));
        assert!(rule(&policy("Nonsense"), &Node::default()).is_err());
    }

    #[test]
    fn nodes_are_closed_for_a_reason() {
        let ready = |json: serde_json::Value| {
            let mut node: Node = serde_json::from_value(json).unwrap();
            node.status = serde_json::from_value(serde_json::json!({"conditions": [{"type": "Ready", "status": "True"}]})).unwrap();
            node
        };
        let taint = |key: &str, effect: &str| serde_json::json!({"spec": {"taints": [{"key": key, "effect": effect, "value": "v"}]}});
        let policy = MoverPolicySpec::default();
        assert_eq!(closed(&ready(serde_json::json!({})), &policy), None);
        assert_eq!(closed(&Node::default(), &policy).unwrap(), "is not ready");
        assert_eq!(closed(&ready(serde_json::json!({"spec": {"unschedulable": true}})), &policy).unwrap(), "is cordoned");
        assert_eq!(closed(&ready(taint("a", "PreferNoSchedule")), &policy), None);
        assert!(closed(&ready(taint("a", "NoExecute")), &policy).unwrap().contains("taint a"));
        let bearing = |toleration: serde_json::Value| {
            let mut policy = policy.clone();
            policy.pod.tolerations = vec![serde_json::from_value(toleration).unwrap()];
            policy
        };
        let cases = [
            (serde_json::json!({"operator": "Exists"}), true),
            (serde_json::json!({"key": "a", "operator": "Exists"}), true),
            (serde_json::json!({"key": "a", "value": "v"}), true),
            (serde_json::json!({"key": "a", "value": "w"}), false),
            (serde_json::json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false),
            (serde_json::json!({"key": "b", "operator": "Exists"}), false),
        ];
        for (toleration, is_open) in cases {
            assert_eq!(closed(&ready(taint("a", "NoSchedule")), &bearing(toleration.clone())).is_none(), is_open, "{toleration}");
        }
    }
}
