//! From the repository into claims: by hand, as a populator, into other classes, from other namespaces; and what must not be.

use std::os::unix::fs::FileExt;

use e2e::cluster::{cluster, wait_for};
use e2e::scene::Scene;
use e2e::tree::{assert_same, difficult, manifest, random};
use serde_json::json;

#[test]
fn what_was_stored_comes_back_into_new_claims() {
    let scene = Scene::beside_others("back");
    let volume = scene.claim("data", "test", "Filesystem");
    difficult(&volume.join("data"));
    let block = scene.claim("disk", "test", "Block");
    let image = std::fs::File::options().write(true).open(block.join("disk.img")).unwrap();
    image.write_all_at(&random(5 << 20, 7), 9 << 20).unwrap();
    scene.estiba(&["backup", "--repository", "back", "data", "--no-follow"]);
    scene.backup("disk", "disk");
    scene.ends("disk", "Completed");
    // What is there is asked of the repository, and so is what is in it.
    let ask = |args: &[&str]| scene.estiba(&[args, &["--repository", "back"]].concat());
    let backups = || cluster().list(&["vb", "--namespace", "back"]);
    wait_for("the backup by hand", || backups().iter().all(|backup| backup["status"]["phase"] == "Completed"));
    let listed = ask(&["list", "data"]);
    assert!(listed.contains("SNAPSHOT") && listed.lines().count() == 2, "{listed}");
    assert_eq!(ask(&["list"]).lines().count(), 3);
    let files = ask(&["ls", "data", "-R"]);
    let stored = manifest(&volume.join("data"));
    assert_eq!(files.lines().count(), stored.len() - 1, "{files}");
    assert!(files.contains("/a/b/c/deep\n") && !ask(&["ls", "data"]).contains("/a/b"), "{files}");
    let plain: serde_json::Value = serde_json::from_str(&ask(&["ls", "data", "/plain.txt", "--json"])).unwrap();
    assert_eq!((&plain["path"], &plain["size"]), (&json!("/plain.txt"), &json!(6)));
    assert!(ask(&["ls", "disk", "-l"]).contains("67108864"));
    let none = cluster().plugin(&["ls", "data", "/no/such", "--repository", "back", "--namespace", "back"]);
    assert!(none.code != 0 && none.stderr.contains("path /back/data/no/such"), "{none:?}");
    wait_for("the questions to go", || cluster().list(&["repositoryqueries", "--namespace", "back"]).is_empty());
    // By hand, into a claim like the old one. What it would do is said first, and nothing is made.
    let restore = |args: &[&str]| scene.estiba(&[&["restore", "--repository", "back"], args].concat());
    let said = restore(&["data", "--to", "again", "--dry-run"]);
    assert!(said.contains("would restore the newest of back/data into the new claim again (64Mi, StorageClass test)"), "{said}");
    assert!(cluster().list(&["pvc,volumerestores", "--namespace", "back"]).iter().all(|item| item["metadata"]["name"] != "again"));
    let said = restore(&["data", "--to", "again"]);
    assert!(said.contains("Completed") && said.contains("the claim has its data"), "{said}");
    assert_same(&volume.join("data"), &scene.volume("again").join("data"));
    // What was stored later is not in what was stored before.
    let first = jiff::Timestamp::now().to_string();
    // Kubernetes tells the times of snapshots in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    std::fs::write(volume.join("data/later"), b"later").unwrap();
    let second = scene.estiba(&["backup", "--repository", "back", "data"]);
    assert!(second.contains("Completed"), "{second}");
    restore(&["data", "--to", "newest", "--no-follow"]);
    restore(&["data", "--to", "before", "--before", &first, "--storage-class", "test-late", "--size", "128Mi", "--no-follow"]);
    assert_same(&volume.join("data"), &scene.volume("newest").join("data"));
    let before = scene.volume("before").join("data");
    assert!(!before.join("later").exists());
    assert_same(&scene.volume("again").join("data"), &before);
    let claim = cluster().get(&["pvc", "before", "--namespace", "back"]);
    assert_eq!((&claim["spec"]["storageClassName"], &claim["status"]["capacity"]["storage"]), (&json!("test-late"), &json!("128Mi")));
    // As a populator: the claim may be there first. One that each node has for itself, for whoever waits on that node.
    scene.waiting_claim("local", "of-backup", "test-local", &json!({}));
    let on_node = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "node-b"}}}).to_string();
    cluster().kubectl().ok(&["patch", "pvc", "local", "--namespace", "back", "--type", "merge", "--patch", &on_node]);
    let backup = second.split(['/', ' ']).nth(1).unwrap();
    scene.restore("of-backup", "local", &json!({"backup": backup}));
    // And onto a device, by its id, into a claim that only reads.
    let id = scene.status("disk")["result"]["snapshotId"].as_str().unwrap()[..10].to_owned();
    scene.waiting_claim("disk-again", "of-disk", "test", &json!({"volumeMode": "Block", "accessModes": ["ReadOnlyMany"]}));
    scene.restore("of-disk", "disk-again", &json!({"claim": "disk", "snapshot": id}));
    scene.ends("volumerestore/of-backup", "Completed");
    assert_same(&volume.join("data"), &scene.volume("local").join("data"));
    assert_eq!(scene.status("volumerestore/of-backup")["attempt"]["node"], "node-b");
    scene.ends("volumerestore/of-disk", "Completed");
    assert!(std::fs::read(scene.volume("disk-again").join("disk.img")).unwrap() == std::fs::read(block.join("disk.img")).unwrap());
    // A pod of the application uses it, as it would any other.
    cluster().apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "back"}, "spec": {
        "restartPolicy": "Never", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "local"}}],
        "containers": [{"name": "app", "image": "localhost/estiba:dev", "imagePullPolicy": "Never",
            "command": ["/usr/bin/mover", "-r", "/data/repository", "init"], "env": [{"name": "MOVER_PASSWORD", "value": "x"}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}));
    cluster().kubectl().ok(&[
        "wait",
        "pod",
        "app",
        "--namespace",
        "back",
        "--for",
        "jsonpath={.status.phase}=Succeeded",
        "--timeout",
        "240s",
    ]);
    assert!(scene.volume("local").join("data/repository/config").exists());
    scene.leaves_nothing();
}

#[test]
fn a_claim_that_cannot_be_filled_stays_empty_and_says_why() {
    let scene = Scene::beside_others("empty");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(1 << 20, 1)).unwrap();
    scene.backup("first", "data");
    scene.ends("first", "Completed");
    std::fs::write(volume.join("data/file"), random(1 << 20, 2)).unwrap();
    scene.backup("second", "data");
    let newest = scene.ends("second", "Completed");
    let is_pending = |claim: &str| cluster().get(&["pvc", claim, "--namespace", "empty"])["status"]["phase"] == "Pending";
    // Each thing that is missing.
    scene.restore("r", "again", &json!({"backup": "no-such"}));
    scene.says("volumerestore/r", "BackupMissing", "there is no VolumeBackup no-such");
    scene.restore("s", "again", &json!({"backup": "first"}));
    scene.says("volumerestore/s", "ClaimMissing", "there is no claim again");
    scene.restore("t", "data", &json!({"backup": "first"}));
    scene.says("volumerestore/t", "ClaimTaken", "its dataSourceRef must be VolumeRestore t");
    scene.waiting_claim("nowhere", "u", "no-such", &json!({}));
    scene.restore("u", "nowhere", &json!({"backup": "first"}));
    scene.says("volumerestore/u", "NoStorageClass", "no-such");
    // Secrets that are the claim's namespace's.
    cluster().apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "encrypted"}, "provisioner": "csi.estiba.test",
        "parameters": {"csi.storage.k8s.io/node-stage-secret-name": "keys", "csi.storage.k8s.io/node-stage-secret-namespace": "${pvc.namespace}"}}));
    scene.waiting_claim("encrypted", "v", "encrypted", &json!({}));
    scene.restore("v", "encrypted", &json!({"backup": "first"}));
    scene.says("volumerestore/v", "NoStorageClass", "takes Secrets of each claim's own namespace");
    cluster().kubectl().ok(&["delete", "sc", "encrypted"]);
    for restore in ["r", "s", "t", "u", "v"] {
        cluster().kubectl().ok(&["delete", "vr", restore, "--namespace", "empty", "--timeout", "60s"]);
    }
    // A snapshot that is not there, and one of somebody else: the repository has it, and this namespace did not store it.
    let stranger = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(stranger.path().join("secret")).unwrap();
    std::fs::write(stranger.path().join("secret/file"), b"theirs").unwrap();
    scene.mover().ok(&["backup", stranger.path().join("secret").to_str().unwrap(), "--as", "/empty/data", "--host", "elsewhere", "--json"]);
    let theirs = scene.mover().ok(&["snapshots", "--json", "--host", "elsewhere"]).json("id").as_str().unwrap().to_owned();
    for (restore, snapshot) in [("none", "0123456789abcdef"), ("theirs", theirs.as_str())] {
        scene.waiting_claim(restore, restore, "test", &json!({}));
        scene.restore(restore, restore, &json!({"claim": "data", "snapshot": snapshot}));
        let status = scene.ends(&format!("volumerestore/{restore}"), "Failed");
        assert!(status["message"].as_str().unwrap().contains("no snapshot") && status["attempts"] == 1, "{status:#}");
        assert!(is_pending(restore));
    }
    // Another cluster's: only where the Repository says that names are enough.
    scene.waiting_claim("moved", "moved", "test", &json!({}));
    scene.restore("moved", "moved", &json!({"claim": "data", "cluster": "elsewhere"}));
    scene.says("volumerestore/moved", "NamespaceNotAllowed", "spec.restores.byName");
    scene.repository(&json!({"restores": {"byName": true}}));
    scene.ends("volumerestore/moved", "Completed");
    assert_eq!(std::fs::read(scene.volume("moved").join("data/file")).unwrap(), b"theirs");
    scene.repository(&json!({}));
    // Another namespace may read it only where the Repository says so.
    cluster().apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "empty-other"}}));
    let both = json!({"names": ["empty", "empty-other"]});
    scene.repository(&json!({"namespaces": both}));
    cluster().apply(
        &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "taken", "namespace": "empty-other"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}},
            "dataSourceRef": {"apiGroup": "estiba.dev", "kind": "VolumeRestore", "name": "taken"}}}),
    );
    cluster().apply(
        &json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeRestore", "metadata": {"name": "taken", "namespace": "empty-other"},
        "spec": {"repository": "empty", "claim": "taken", "source": {"claim": "data", "namespace": "empty"}}}),
    );
    let other = || cluster().get(&["vr", "taken", "--namespace", "empty-other"])["status"].clone();
    wait_for("a refusal", || other()["reason"] == "NamespaceNotAllowed");
    assert!(other()["message"].as_str().unwrap().contains("does not let namespace empty-other read what empty stored"), "{}", other());
    scene.repository(&json!({"namespaces": both, "restores": {"allow": [{"from": "empty", "into": {"names": ["empty-other"]}}]}}));
    wait_for("the restore of another namespace's", || other()["phase"] == "Completed");
    assert_eq!(other()["snapshotId"], newest["result"]["snapshotId"]);
    cluster().kubectl().ok(&["delete", "namespace", "empty-other", "--timeout", "100s"]);
    // A namespace of the same name is not the same one.
    cluster().kubectl().ok(&["delete", "namespace", "empty", "--timeout", "100s"]);
    cluster().apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "empty"}}));
    scene.waiting_claim("again", "again", "test", &json!({}));
    scene.restore("again", "again", &json!({"claim": "data"}));
    let status = scene.ends("volumerestore/again", "Failed");
    assert!(status["message"].as_str().unwrap().contains("no snapshot"), "{status:#}");
    scene.repository(&json!({"restores": {"byName": true}}));
    cluster().kubectl().ok(&["delete", "vr", "again", "--namespace", "empty", "--timeout", "60s"]);
    // The claim still waits for a run of that name, and gets its data from it.
    assert!(is_pending("again"));
    scene.restore("again", "again", &json!({"claim": "data"}));
    scene.ends("volumerestore/again", "Completed");
    assert_eq!(std::fs::read(scene.volume("again").join("data/file")).unwrap(), random(1 << 20, 2));
    scene.leaves_nothing();
}
