//! From the repository into claims, while others disturb it.

use e2e::cluster::{NAMESPACE, cluster, movers_are_told_to_end, wait_for};
use e2e::scene::Scene;
use e2e::tree::{assert_same, random};
use serde_json::json;

#[test]
fn disturbed_while_it_fills() {
    let scene = Scene::alone("disturbed");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(16 << 20, 1)).unwrap();
    // A class that keeps its volumes: those of runs go all the same, those of users stay.
    let keep = json!({"classes": [{"storageClass": "test", "backupStorageClass": "test-keep"}]});
    let policy = scene.cluster.policy(&keep);
    scene.backup("first", "data");
    scene.ends("first", "Completed");
    drop(policy);
    let slow = || scene.cluster.fault("NodePublishVolume", &json!({"seconds": 3600}));
    let begin = |name: &str, class: &str| {
        scene.waiting_claim(name, name, class, &json!({}));
        scene.restore(name, name, &json!({"claim": "data"}));
        scene.wait(&format!("volumerestore/{name}"), "its pod", |status| status["reason"] == "PodStarting")
    };
    let is_pending = |claim: &str| cluster().get(&["pvc", claim, "--namespace", "disturbed"])["status"]["phase"] == "Pending";
    let fault = slow();
    begin("cancelled", "test-keep");
    scene.cancel("volumerestore/cancelled");
    begin("deleted", "test");
    cluster().kubectl().ok(&["delete", "vr", "deleted", "--namespace", "disturbed", "--wait=false"]);
    // One that could work until then would be faster than its end.
    wait_for("both movers to be told to end", movers_are_told_to_end);
    drop(fault);
    cluster().kubectl().ok(&["delete", "vr", "deleted", "--namespace", "disturbed", "--ignore-not-found", "--timeout", "240s"]);
    scene.ends("volumerestore/cancelled", "Canceled");
    assert!(is_pending("cancelled") && is_pending("deleted"));
    // The claim goes while it is being filled.
    let fault = slow();
    begin("lost", "test");
    cluster().kubectl().ok(&["delete", "pvc", "lost", "--namespace", "disturbed", "--timeout", "240s"]);
    drop(fault);
    let status = scene.ends("volumerestore/lost", "Failed");
    assert_eq!(status["reason"], "ClaimMissing", "{status:#}");
    // A drain, and both controllers killed: another mover does it all, into a fresh volume.
    let fault = slow();
    let node = begin("drained", "test")["attempt"]["node"].as_str().unwrap().to_owned();
    cluster().kubectl().ok(&["drain", &node, "--ignore-daemonsets", "--timeout", "240s", "--pod-selector", "estiba.dev/run"]);
    let controllers = ["--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=estiba-controller"];
    cluster().kubectl().ok(&[&["delete", "pods", "--force", "--grace-period", "0"], &controllers[..]].concat());
    drop(fault);
    let status = scene.ends("volumerestore/drained", "Completed");
    assert_ne!(status["attempt"]["node"], json!(node), "{status:#}");
    cluster().kubectl().ok(&["uncordon", &node]);
    assert_same(&volume.join("data"), &scene.volume("drained").join("data"));
    scene.leaves_nothing();
}
