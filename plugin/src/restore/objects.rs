//! The objects of a restore: the claim that is filled in the other's place, and what its mover does. No client required.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::origin::Origin;
use crate::api::mover_policy::AccessMode;
use crate::api::volume_restore::TargetSeen;
use crate::run::objects::{Installation, Job, VOLUME_PATH, metadata, name};

/// Of the same shape as the claim that waits, save that it can be written.
#[must_use]
pub(super) fn claim(uid: &str, installation: &Installation, target: &TargetSeen) -> PersistentVolumeClaim {
    let is_only_read = target.access_modes.iter().all(|mode| mode == AccessMode::ReadOnlyMany.as_str());
    let access_modes = if is_only_read { vec![AccessMode::ReadWriteOnce.as_str().to_owned()] } else { target.access_modes.clone() };
    let requests: BTreeMap<_, _> = [("storage".to_owned(), Quantity(target.size.clone()))].into();
    PersistentVolumeClaim {
        metadata: metadata(name(uid), Some(&installation.namespace), uid),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(access_modes),
            storage_class_name: Some(target.storage_class.clone()),
            volume_mode: Some(target.volume_mode.clone()),
            volume_attributes_class_name: target.attributes_class.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// What the mover does. In a volume that one before has begun to fill it writes what differs.
#[must_use]
pub(super) fn job(origin: &Origin, snapshot_id: Option<&str>, target: &TargetSeen, is_begun: bool) -> Job {
    let (path, wanted) = (&origin.path, snapshot_id.unwrap_or("latest"));
    let mut args = vec!["restore".to_owned(), format!("{wanted}:{path}"), VOLUME_PATH.to_owned()];
    args.extend(origin.filters(snapshot_id.is_some()));
    let is_block = target.volume_mode == "Block";
    if is_begun {
        args.extend(["--overwrite", if is_block { "always" } else { "if-changed" }].map(str::to_owned));
    }
    Job {
        work: "restore",
        args,
        is_block,
        is_read_only: false,
        // Owners, modes, attributes and devices of any user are set, in directories of any user.
        capabilities: &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"],
        stores: false,
    }
}

/// Where a volume of a class will be, and where whoever waits for it is to run.
#[must_use]
pub(super) fn topology(class: &StorageClass, node: Option<&str>) -> Option<NodeSelector> {
    let on_node = node.map(|node| {
        vec![NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) }]
    });
    let allowed = class.allowed_topologies.iter().flatten().map(|term| {
        let labels = term.match_label_expressions.iter().flatten();
        let expressions = labels.map(|label| NodeSelectorRequirement {
            key: label.key.clone(),
            operator: "In".to_owned(),
            values: Some(label.values.clone()),
        });
        NodeSelectorTerm { match_expressions: Some(expressions.collect()), match_fields: on_node.clone() }
    });
    let mut terms: Vec<NodeSelectorTerm> = allowed.collect();
    if terms.is_empty() && on_node.is_some() {
        terms.push(NodeSelectorTerm { match_expressions: None, match_fields: on_node });
    }
    (!terms.is_empty()).then_some(NodeSelector { node_selector_terms: terms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_where_its_class_and_its_consumer_want_it() {
        let zones = serde_json::json!([{"matchLabelExpressions": [{"key": "zone", "values": ["a", "b"]}]}]);
        let class: StorageClass =
            serde_json::from_value(serde_json::json!({"metadata": {}, "provisioner": "csi", "allowedTopologies": zones})).unwrap();
        assert_eq!(topology(&StorageClass::default(), None), None);
        let selects = |selector: &Option<NodeSelector>, name: &str, zone: &str| {
            crate::reach::selects(selector.as_ref().unwrap(), name, &[("zone".to_owned(), zone.to_owned())].into())
        };
        let of_class = topology(&class, None);
        assert!(selects(&of_class, "n", "a") && !selects(&of_class, "n", "c"));
        let of_both = topology(&class, Some("n"));
        assert!(selects(&of_both, "n", "b") && !selects(&of_both, "m", "b") && !selects(&of_both, "n", "c"));
        let of_node = topology(&StorageClass::default(), Some("n"));
        assert!(selects(&of_node, "n", "c") && !selects(&of_node, "m", "c"));
    }

    #[test]
    fn the_mover_reads_only_what_the_namespace_stored() {
        let target = TargetSeen { volume_mode: "Filesystem".to_owned(), ..TargetSeen::default() };
        let origin = Origin {
            path: "/shop/data".to_owned(),
            tag: Some("namespace=1".to_owned()),
            host: Some("here".to_owned()),
            before: Some(jiff::Timestamp::UNIX_EPOCH),
            ..Origin::default()
        };
        let args = job(&origin, None, &target, false).args.join(" ");
        assert_eq!(args, "restore latest:/shop/data /volume --path /shop/data --tag namespace=1 --host here --before 1970-01-01T00:00:00Z");
        let by_id = Origin { host: None, ..origin };
        let args = job(&by_id, Some("abc"), &target, false).args.join(" ");
        assert_eq!(args, "restore abc:/shop/data /volume --path /shop/data --tag namespace=1");
        let args = job(&by_id, Some("abc"), &target, true).args.join(" ");
        assert!(args.ends_with(" --overwrite if-changed"), "{args}");
        let device = TargetSeen { volume_mode: "Block".to_owned(), ..TargetSeen::default() };
        assert!(job(&by_id, Some("abc"), &device, true).args.join(" ").ends_with(" --overwrite always"));
    }
}
