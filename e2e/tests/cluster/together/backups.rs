//! Claims into the repository: what is stored, and what is missing.

use std::os::unix::fs::FileExt;

use e2e::cluster::{NAMESPACE, cluster};
use e2e::scene::Scene;
use e2e::tree::{assert_same, difficult, random};
use serde_json::json;

#[test]
fn a_claim_goes_to_the_repository_and_stock_restic_restores_it() {
    let scene = Scene::beside_others("story");
    let volume = scene.claim("data", "test", "Filesystem");
    difficult(&volume.join("data"));
    scene.backup("first", "data");
    let status = scene.ends("first", "Completed");
    assert_eq!((&status["attempts"], &status["failures"]), (&json!(1), &json!(0)), "{status:#}");
    let snapshot = status["result"]["snapshotId"].as_str().unwrap();
    let there = tempfile::tempdir().unwrap();
    scene.restic().ok(&["check", "--read-data"]);
    scene.restic().ok(&["restore", snapshot, "--target", there.path().to_str().unwrap()]);
    let restored = there.path().join("story/data");
    assert_eq!(std::fs::read(restored.join("random")).unwrap(), std::fs::read(volume.join("data/random")).unwrap());
    scene.mover().ok(&["restore", snapshot, there.path().join("ours").to_str().unwrap()]);
    assert_same(&volume.join("data"), &there.path().join("ours"));
    // What is read back says what it was: the point in time is the snapshot's.
    let listed = &scene.stored()[0];
    assert_eq!(listed["paths"], json!(["/story/data"]));
    assert_eq!(listed["time"].as_str().unwrap()[..19], status["snapshot"]["taken"].as_str().unwrap()[..19]);
    // A second run, of what has not changed, stores nothing but its snapshot.
    let followed = scene.cluster.plugin(&["backup", "--namespace", "story", "--repository", "story", "data"]);
    assert!(followed.code == 0 && followed.stdout.contains("Completed"), "{followed:?}");
    let second = followed.stdout.split(['/', ' ']).nth(1).unwrap().to_owned();
    scene.ends(&second, "Completed");
    assert!(scene.cluster.plugin(&["status", "--namespace", "story"]).stdout.contains(&second));
    let kstatus = |kind: &str| {
        scene.status(&second)["conditions"].as_array().unwrap().iter().find(|each| each["type"] == kind).unwrap()["status"].clone()
    };
    assert_eq!((kstatus("Ready"), kstatus("Reconciling"), kstatus("Stalled")), (json!("True"), json!("False"), json!("False")));
    scene.leaves_nothing();
}

#[test]
fn block_volumes_and_volumes_of_one_node() {
    let scene = Scene::beside_others("kinds");
    let block = scene.claim("block", "test", "Block");
    let image = std::fs::File::options().write(true).open(block.join("disk.img")).unwrap();
    image.write_all_at(&random(5 << 20, 7), 9 << 20).unwrap();
    let local = scene.claim("local", "test-local", "Filesystem");
    std::fs::write(local.join("data/file"), random(1 << 20, 8)).unwrap();
    let late = scene.claim("late", "test-late", "Filesystem");
    std::fs::write(late.join("data/file"), random(1 << 20, 9)).unwrap();
    for name in ["block", "local", "late"] {
        scene.backup(name, name);
    }
    for name in ["block", "local", "late"] {
        let status = scene.ends(name, "Completed");
        assert_eq!((&status["attempts"], &status["failures"]), (&json!(1), &json!(0)), "{name}: {status:#}");
        assert!(name != "local" || status["attempt"]["node"] == "node-b", "{status:#}");
    }
    let there = tempfile::tempdir().unwrap();
    let snapshot = scene.status("block")["result"]["snapshotId"].as_str().unwrap().to_owned();
    scene.restic().ok(&["restore", &snapshot, "--target", there.path().to_str().unwrap()]);
    assert!(std::fs::read(there.path().join("kinds/block")).unwrap() == std::fs::read(block.join("disk.img")).unwrap());
    // A snapshot that somebody else made is read, and stays theirs.
    cluster().apply(&json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": "theirs", "namespace": "kinds"}, "spec": {"source": {"persistentVolumeClaimName": "late"}}}));
    scene.backup_with("of-snapshot", &json!({"source": {"volumeSnapshot": "theirs"}}));
    scene.ends("of-snapshot", "Completed");
    let theirs = cluster().get(&["volumesnapshot", "theirs", "--namespace", "kinds"]);
    let content = theirs["status"]["boundVolumeSnapshotContentName"].as_str().unwrap();
    assert_eq!(cluster().get(&["volumesnapshotcontent", content])["spec"]["deletionPolicy"], "Delete");
    scene.leaves_nothing();
}

#[test]
fn what_is_missing_is_said_and_waited_for() {
    let scene = Scene::beside_others("missing");
    scene.backup("early", "data");
    scene.says("early", "ClaimMissing", "there is no claim data");
    scene.repository(&json!({"namespaces": {"names": ["elsewhere"]}}));
    scene.says("early", "NamespaceNotAllowed", "does not let namespace missing in");
    scene.repository(&json!({"secret": "nothing"}));
    scene.says("early", "SecretMissing", "no Secret nothing");
    scene.backup_with("nowhere", &json!({"repository": "no-such", "source": {"claim": "data"}}));
    scene.says("nowhere", "RepositoryMissing", "no Repository no-such");
    // Stalled is what tools wait for to give up.
    let conditions = scene.status("nowhere")["conditions"].clone();
    assert!(conditions.as_array().unwrap().iter().any(|each| each["type"] == "Stalled" && each["status"] == "True"), "{conditions:#}");
    // What is given makes it go on.
    scene.repository(&json!({}));
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    scene.ends("early", "Completed");
    // A wrong password ends it at once: another try would end the same way.
    cluster().apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong", "namespace": NAMESPACE}, "stringData": {
        "password": "wrong", "AWS_ACCESS_KEY_ID": "estiba-test", "AWS_SECRET_ACCESS_KEY": "estiba-secret"}}));
    scene.repository(&json!({"secret": "wrong"}));
    scene.backup("wrong-password", "data");
    let status = scene.ends("wrong-password", "Failed");
    assert!(status["message"].as_str().unwrap().contains("wrong password") && status["attempts"] == 1, "{status:#}");
    cluster().kubectl().ok(&["delete", "secret", "wrong", "--namespace", NAMESPACE]);
    scene.repository(&json!({}));
    // Refused by the API server itself.
    let both = cluster().try_apply(
        &json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeBackup", "metadata": {"name": "both", "namespace": "missing"},
        "spec": {"repository": "missing", "source": {"claim": "a", "volumeSnapshot": "b"}}}),
    );
    assert!(both.code != 0 && both.stderr.contains("not both"), "{both:?}");
    // A class without snapshots.
    cluster().apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "by-hand"}, "provisioner": "kubernetes.io/no-provisioner"}));
    cluster().apply(
        &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand", "hostPath": {"path": "/nowhere"}}}),
    );
    cluster().apply(
        &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "by-hand", "namespace": "missing"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand", "resources": {"requests": {"storage": "1Gi"}}}}),
    );
    scene.backup("by-hand", "by-hand");
    scene.says("by-hand", "NotCsi", "it has no snapshots");
    cluster().kubectl().ok(&["delete", "vb/by-hand", "pvc/by-hand", "--namespace", "missing", "--timeout", "60s"]);
    cluster().kubectl().ok(&["delete", "pv/by-hand", "sc/by-hand", "--timeout", "60s"]);
    scene.leaves_nothing();
}

/// Names as long as they may be, and a claim of Estiba's own namespace.
#[test]
fn names_of_253_characters() {
    let scene = Scene::beside_others("long");
    let name = format!("{}end", "n".repeat(250));
    let volume = scene.claim(&name, "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    scene.backup(&name, &name);
    scene.ends(&name, "Completed");
    let said = scene.estiba(&["restore", &name, "--to", &format!("{}two", &name[..250]), "--repository", "long"]);
    assert!(said.contains("Completed"), "{said}");
    scene.repository(&json!({"namespaces": {"names": ["long", NAMESPACE]}}));
    cluster()
        .apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "own", "namespace": NAMESPACE}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "test", "resources": {"requests": {"storage": "64Mi"}}}}));
    cluster()
        .apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeBackup", "metadata": {"name": "own", "namespace": NAMESPACE},
        "spec": {"repository": "long", "source": {"claim": "own"}}}));
    // It is empty, too, as a new claim may be.
    cluster().kubectl().ok(&["wait", "vb/own", "--namespace", NAMESPACE, "--for", "condition=Ready", "--timeout", "100s"]);
    cluster().kubectl().ok(&["delete", "vb/own", "pvc/own", "--namespace", NAMESPACE, "--timeout", "60s"]);
    scene.leaves_nothing();
}
