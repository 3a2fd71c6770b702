//! Who may depend on whom: ARCHITECTURE.md's arrows, held against `cargo metadata`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn dependencies_point_where_the_architecture_says() {
    let out = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let of = |package: &str| -> BTreeSet<String> {
        let found = metadata["packages"].as_array().unwrap().iter().find(|found| found["name"] == package).unwrap();
        let dependencies = found["dependencies"].as_array().unwrap().iter();
        dependencies
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let ours: BTreeSet<String> = ["repository", "mover", "contract", "e2e", "plugin", "csi-driver"].map(str::to_owned).into();
    let arrows = |package: &str| of(package).intersection(&ours).cloned().collect::<Vec<_>>();
    assert_eq!(arrows("repository"), Vec::<String>::new());
    assert_eq!(arrows("contract"), Vec::<String>::new());
    assert_eq!(arrows("mover"), ["contract", "repository"]);
    assert_eq!(arrows("plugin"), ["contract"]);
    assert_eq!(arrows("csi-driver"), Vec::<String>::new());
    for package in metadata["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()) {
        let has = |crates: &[&str]| of(package).iter().any(|name| crates.contains(&name.as_str()));
        assert!(["repository", "e2e"].contains(&package) || !has(&["aws-sdk-s3", "aws-config"]), "{package} speaks S3");
        assert!(["mover", "plugin", "csi-driver"].contains(&package) || !has(&["clap", "indicatif"]), "{package} speaks to a terminal");
        assert!(package == "plugin" || !has(&["kube", "k8s-openapi"]), "{package} knows Kubernetes");
    }
}
