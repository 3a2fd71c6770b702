//! Whether a node is one of those that a selector means. No client required.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether any term fits; a selector without terms fits nothing.
#[must_use]
pub fn selects(selector: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.node_selector_terms.iter().any(|term| fits(term, name, labels))
}

fn fits(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let is_empty = expressions.is_empty() && fields.is_empty();
    let by_name = |field: &NodeSelectorRequirement| field.key == "metadata.name" && holds(field, Some(name));
    !is_empty && expressions.iter().all(|each| holds(each, labels.get(&each.key).map(String::as_str))) && fields.iter().all(by_name)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(value, than)| value > than),
        "Lt" => compare().is_some_and(|(value, than)| value < than),
        // Of a later Kubernetes: better nowhere than on a node that cannot reach it.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn require(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        NodeSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
    }

    #[test]
    fn as_the_scheduler_reads_it() {
        let labels = [("zone", "a"), ("cores", "8")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let expressions = |each: Vec<NodeSelectorRequirement>| NodeSelectorTerm { match_expressions: Some(each), match_fields: None };
        let selector = |terms| NodeSelector { node_selector_terms: terms };
        let cases = [
            (require("zone", "In", &["a", "b"]), true),
            (require("zone", "In", &["b"]), false),
            (require("zone", "NotIn", &["b"]), true),
            (require("rack", "NotIn", &["b"]), true),
            (require("rack", "Exists", &[]), false),
            (require("rack", "DoesNotExist", &[]), true),
            (require("cores", "Gt", &["4"]), true),
            (require("cores", "Lt", &["4"]), false),
            (require("zone", "Gt", &["4"]), false),
            (require("zone", "Like", &["a"]), false),
        ];
        for (requirement, expected) in cases {
            let shown = format!("{requirement:?}");
            assert_eq!(selects(&selector(vec![expressions(vec![requirement])]), "n", &labels), expected, "{shown}");
        }
        // Terms are alternatives, what is in a term holds at once.
        let both = expressions(vec![require("zone", "In", &["a"]), require("rack", "Exists", &[])]);
        assert!(!selects(&selector(vec![both.clone()]), "n", &labels));
        assert!(selects(&selector(vec![both, expressions(vec![require("zone", "Exists", &[])])]), "n", &labels));
        let by_name = NodeSelectorTerm { match_fields: Some(vec![require("metadata.name", "In", &["n"])]), match_expressions: None };
        assert!(selects(&selector(vec![by_name.clone()]), "n", &labels) && !selects(&selector(vec![by_name]), "m", &labels));
        assert!(!selects(&selector(vec![]), "n", &labels) && !selects(&selector(vec![NodeSelectorTerm::default()]), "n", &labels));
    }
}
