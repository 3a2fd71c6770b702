//! What the whole cluster looks like to the gate: kept by watches, so that a question costs no request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use kube::core::SelectorExt;
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};

use crate::api::volume_backup::{Attempt, Phase, VolumeBackup};
use crate::api::{MoverPolicy, MoverPolicySpec, RUN_LABEL};
use crate::backup::objects::{SLOT_LABEL, WORK_LABEL};
use crate::gate::{self, Grant, Reach, Standing, Waiting, Work};
use crate::reach;

/// Taint of nodes whose pods are to be taken for dead, by somebody who knows.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// What a node is tainted with because it is cordoned: said better by the cordon itself.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// The only policy that counts.
pub const POLICY: &str = "default";

/// What the gate says of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateView {
    /// Its slot.
    pub grant: Option<Grant>,
    /// Or where it stands.
    pub standing: Option<Standing>,
    /// Whether its claim may be made before it has a slot.
    pub may_prepare: bool,
}

/// The policy that counts now.
///
/// # Errors
/// Those of the API server: a policy that cannot be read is not the default one.
pub async fn policy(client: &kube::Client) -> kube::Result<MoverPolicySpec> {
    let policies = Api::<MoverPolicy>::all(client.clone());
    Ok(policies.get_opt(POLICY).await?.map(|policy| policy.spec).unwrap_or_default())
}

/// Whether a node is gone for good: its object is, or somebody who knows has said so.
///
/// # Errors
/// Those of the API server: a node that cannot be asked about is not gone.
pub async fn is_lost(client: &kube::Client, node: &str) -> kube::Result<bool> {
    let node = Api::<Node>::all(client.clone()).get_opt(node).await?;
    Ok(node.is_none_or(|node| taints(&node).iter().any(|taint| taint.key == OUT_OF_SERVICE)))
}

/// An object that is gone already, or another one by now, needs no change.
///
/// # Errors
/// All others.
pub(crate) fn gone_is_fine(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other,
    }
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// What the watches keep.
#[derive(Debug)]
pub struct Cluster {
    /// All runs.
    pub backups: Store<VolumeBackup>,
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

    /// What the gate decides now.
    #[must_use]
    pub fn decide(&self) -> gate::Decision {
        let policy = self.policy();
        let backups = self.backups.state();
        let attempts = self.attempts(&backups);
        let nodes: Vec<gate::Node> = self.nodes.state().iter().map(|node| self.node(node, &policy, &attempts)).collect();
        let waits =
            |backup: &&std::sync::Arc<VolumeBackup>| is_waiting(backup) && !attempts.contains_key(&backup.uid().unwrap_or_default());
        let waiting = backups.iter().filter(waits).map(|backup| self.waiting(backup)).collect();
        gate::decide(nodes, waiting)
    }

    /// What the gate says of one run.
    #[must_use]
    pub fn view(&self, backup: &VolumeBackup) -> GateView {
        if !is_waiting(backup) {
            return GateView::default();
        }
        let uid = backup.uid().unwrap_or_default();
        let mut decision = self.decide();
        let standing = decision.standings.remove(&uid);
        let ahead = self.policy().prepare_ahead as usize;
        let may_prepare = standing.as_ref().is_some_and(|standing| standing.has_node && standing.position <= ahead);
        GateView { grant: decision.grants.into_iter().find(|grant| grant.uid == uid), standing, may_prepare }
    }

    /// Attempts that hold a slot, by uid; what the watches show by now is forgotten here.
    fn attempts(&self, backups: &[std::sync::Arc<VolumeBackup>]) -> BTreeMap<String, Attempt> {
        let mut recorded = self.recorded.lock().expect("no holder panics");
        let mut attempts = BTreeMap::new();
        let mut known = BTreeSet::new();
        for backup in backups {
            let (uid, status) = (backup.uid().unwrap_or_default(), backup.status.clone().unwrap_or_default());
            if recorded.get(&uid).is_some_and(|attempt| status.attempts >= attempt.number) {
                recorded.remove(&uid);
            }
            known.insert(uid.clone());
            if let Some(attempt) = status.attempt.filter(|_| !status.phase.is_end()) {
                attempts.insert(uid, attempt);
            }
        }
        recorded.retain(|uid, _| known.contains(uid));
        attempts.extend(recorded.iter().map(|(uid, attempt)| (uid.clone(), attempt.clone())));
        attempts
    }

    fn waiting(&self, backup: &VolumeBackup) -> Waiting {
        let status = backup.status.clone().unwrap_or_default();
        let driver = status.snapshot.map(|snapshot| snapshot.driver).unwrap_or_default();
        let has_driver: BTreeSet<String> = self
            .csi_nodes
            .state()
            .iter()
            .filter(|node| node.spec.drivers.iter().any(|listed| listed.name == driver))
            .map(|node| node.name_any())
            .collect();
        let reaches = |node: &Node| {
            let fits = status.topology.as_ref().is_none_or(|selector| reach::selects(selector, &node.name_any(), node.labels()));
            fits && has_driver.contains(&node.name_any())
        };
        let reach = Reach::Nodes(self.nodes.state().iter().filter(|node| reaches(node)).map(|node| node.name_any()).collect());
        let since = backup.metadata.creation_timestamp.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0);
        Waiting { uid: backup.uid().unwrap_or_default(), work: Work::Backup(backup.spec.urgency), since, reach, driver }
    }

    fn node(&self, node: &Node, policy: &MoverPolicySpec, attempts: &BTreeMap<String, Attempt>) -> gate::Node {
        let name = node.name_any();
        let closed = closed(node, policy);
        let rule = policy
            .nodes
            .iter()
            .find(|rule| kube::core::Selector::try_from(rule.selector.clone()).is_ok_and(|selector| selector.matches(node.labels())));
        let limit = if closed.is_some() { 0 } else { rule.map_or(policy.movers_per_node, |rule| rule.movers) };
        let mut taken = BTreeMap::new();
        for pod in self.pods.state() {
            let slot = pod.labels().get(SLOT_LABEL).and_then(|slot| slot.parse::<u32>().ok());
            // By its name, which cannot be changed.
            if let Some(slot) = slot.filter(|slot| gate::pod_name(&name, *slot) == pod.name_any()) {
                let is_restore = pod.labels().get(WORK_LABEL).is_some_and(|work| work == "restore");
                let work = if is_restore { Work::Restore } else { Work::Backup(crate::api::volume_backup::Urgency::Manual) };
                taken.insert(slot, work);
            }
        }
        for attempt in attempts.values().filter(|attempt| attempt.node == name) {
            taken.entry(attempt.slot).or_insert(Work::Backup(crate::api::volume_backup::Urgency::Manual));
        }
        gate::Node { limit, closed, reserved: policy.reserved_for_restore, taken, attachable: self.attachable(&name), name }
    }

    /// Drivers that limit what they attach to a node, and what is left.
    fn attachable(&self, node: &str) -> BTreeMap<String, u32> {
        let Some(csi_node) = self.csi_nodes.state().into_iter().find(|csi_node| csi_node.name_any() == node) else {
            return BTreeMap::new();
        };
        let attachments = self.attachments.state();
        let count = |driver: &str| {
            attachments.iter().filter(|attached| attached.spec.node_name == node && attached.spec.attacher == driver).count()
        };
        let limited = csi_node.spec.drivers.iter().filter_map(|driver| {
            let limit = driver.allocatable.as_ref()?.count?;
            let left = usize::try_from(limit).ok()?.saturating_sub(count(&driver.name));
            Some((driver.name.clone(), u32::try_from(left).unwrap_or(u32::MAX)))
        });
        limited.collect()
    }

    /// The runs that have a slot as soon as they ask.
    #[must_use]
    pub fn next(&self) -> Vec<kube::runtime::reflector::ObjectRef<VolumeBackup>> {
        let granted: BTreeSet<String> = self.decide().grants.into_iter().map(|grant| grant.uid).collect();
        let backups = self.backups.state();
        let next = backups.iter().filter(|backup| backup.uid().is_some_and(|uid| granted.contains(&uid)));
        next.map(|backup| kube::runtime::reflector::ObjectRef::from_obj(backup.as_ref())).collect()
    }

    /// The run that a pod, claim or snapshot was made for.
    #[must_use]
    pub fn run_of<K: ResourceExt>(&self, object: &K) -> Option<kube::runtime::reflector::ObjectRef<VolumeBackup>> {
        let uid = object.labels().get(RUN_LABEL)?;
        let backup = self.backups.state().into_iter().find(|backup| backup.uid().as_ref() == Some(uid))?;
        Some(kube::runtime::reflector::ObjectRef::from_obj(backup.as_ref()))
    }
}

/// A run that wants a slot and may have one.
fn is_waiting(backup: &VolumeBackup) -> bool {
    let Some(status) = &backup.status else { return false };
    let is_later = status.retry_after.as_ref().is_some_and(|after| after.0 > jiff::Timestamp::now());
    status.phase == Phase::Prepared && !is_later && !backup.spec.cancel && backup.metadata.deletion_timestamp.is_none()
}

/// Why no mover may run on a node.
fn closed(node: &Node, policy: &MoverPolicySpec) -> Option<String> {
    let spec = node.spec.clone().unwrap_or_default();
    if spec.unschedulable == Some(true) {
        return Some("is cordoned".to_owned());
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if !conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
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
