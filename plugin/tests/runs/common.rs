//! What the small worlds of backups and restores have in common.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use plugin::api::Repository;
use plugin::run::objects::Installation;
use plugin::run::observe::RunSeen;
use serde_json::json;

pub(crate) fn installation() -> Installation {
    Installation {
        namespace: "estiba".to_owned(),
        velero: Some("velero".to_owned()),
        image: "image".to_owned(),
        image_pull_policy: "Never".to_owned(),
        service_account: "estiba-mover".to_owned(),
        owner: OwnerReference::default(),
        cluster: "test".to_owned(),
    }
}

/// A repository and its keys, and nothing else yet.
pub(crate) fn nothing_yet() -> RunSeen {
    let lock = json!({"mode": "Compliance", "days": 30});
    let repository = json!({"s3": {"bucket": "b"}, "secret": "s", "namespaces": {"names": ["shop"]}, "objectLock": lock});
    let repository = serde_json::from_value(repository).unwrap();
    let keys = Secret { data: Some([("password".to_owned(), ByteString(b"x".to_vec()))].into()), ..Secret::default() };
    RunSeen { repository: Some(Repository::new("main", repository)), keys: Some(keys), ..RunSeen::default() }
}
