//! Claims into the repository where something hinders it: policies, refusals, faults, ends at every stage.

use std::os::unix::fs::FileExt;

use e2e::cluster::{NAMESPACE, cluster, movers_are_told_to_end, scale, wait_for};
use e2e::scene::Scene;
use e2e::tree::{assert_same, difficult, random};
use serde_json::json;

/// As for a driver that has no snapshots.
#[test]
fn volumes_are_cloned_where_the_policy_says_so() {
    let scene = Scene::alone("clones");
    let volume = scene.claim("data", "test", "Filesystem");
    difficult(&volume.join("data"));
    let local = scene.claim("local", "test-local", "Filesystem");
    std::fs::write(local.join("data/file"), random(1 << 20, 8)).unwrap();
    let disk = scene.claim("disk", "test", "Block");
    let image = std::fs::File::options().write(true).open(disk.join("disk.img")).unwrap();
    image.write_all_at(&random(5 << 20, 7), 9 << 20).unwrap();
    // Also of a class that keeps what is deleted.
    let policy = scene.cluster.policy(&json!({"moversPerNode": 2, "classes": [
        {"storageClass": "test", "copyMethod": "Clone", "backupStorageClass": "test-keep"},
        {"storageClass": "test-local", "copyMethod": "Clone"}]}));
    for name in ["data", "local", "disk"] {
        scene.backup(name, name);
    }
    for name in ["data", "local", "disk"] {
        let status = scene.ends(name, "Completed");
        assert_eq!((&status["copyMethod"], &status["attempts"]), (&json!("Clone"), &json!(1)), "{name}: {status:#}");
        assert!(name != "local" || status["attempt"]["node"] == "node-b", "{status:#}");
    }
    let there = tempfile::tempdir().unwrap();
    let snapshot = |name: &str| scene.status(name)["result"]["snapshotId"].as_str().unwrap().to_owned();
    scene.mover().ok(&["restore", &snapshot("data"), there.path().join("data").to_str().unwrap()]);
    assert_same(&volume.join("data"), &there.path().join("data"));
    scene.restic().ok(&["restore", &snapshot("disk"), "--target", there.path().to_str().unwrap()]);
    assert!(std::fs::read(there.path().join("clones/disk")).unwrap() == std::fs::read(disk.join("disk.img")).unwrap());
    // What the driver says against it is said; nobody waits for it who does not want to.
    let failing = scene.cluster.fault("CreateVolume", &json!({"error": "no clones are made here"}));
    for name in ["refused", "deleted", "cancelled"] {
        scene.backup(name, "data");
        scene.says(name, "SnapshotFailed", "no clones are made here");
    }
    scene.cluster.kubectl().ok(&["delete", "vb/deleted", "--namespace", "clones", "--timeout", "240s"]);
    scene.cancel("cancelled");
    scene.ends("cancelled", "Canceled");
    drop(failing);
    scene.ends("refused", "Completed");
    drop(policy);
    scene.leaves_nothing();
}

/// By the driver, by a quota of Estiba's own namespace, by us: in their words, and gone on from when there is room.
#[test]
fn what_is_refused_is_said() {
    let scene = Scene::alone("refused");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    // A snapshot that fails is said in the driver's words.
    let failing = scene.cluster.fault("CreateSnapshot", &json!({"error": "the pool is full"}));
    scene.backup("no-room", "data");
    scene.says("no-room", "SnapshotFailed", "the pool is full");
    drop(failing);
    scene.ends("no-room", "Completed");
    // A quota is the API server's.
    cluster().apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": NAMESPACE}, "spec": {"hard": {"persistentvolumeclaims": "0"}}}));
    let used = || cluster().get(&["quota", "none", "--namespace", NAMESPACE])["status"]["hard"]["persistentvolumeclaims"] == "0";
    wait_for("the quota to count", used);
    scene.backup("no-quota", "data");
    scene.says("no-quota", "Refused", "exceeded quota");
    cluster().kubectl().ok(&["delete", "quota", "none", "--namespace", NAMESPACE]);
    scene.ends("no-quota", "Completed");
    // A class that takes Secrets of each claim's namespace, where ours have none.
    cluster().apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "sealed"}, "provisioner": "csi.estiba.test",
        "parameters": {"csi.storage.k8s.io/node-stage-secret-name": "keys", "csi.storage.k8s.io/node-stage-secret-namespace": "${pvc.namespace}"}}));
    let policy = scene.cluster.policy(&json!({"classes": [{"storageClass": "test", "backupStorageClass": "sealed"}]}));
    cluster().apply(&json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": "theirs", "namespace": "refused"}, "spec": {"source": {"persistentVolumeClaimName": "data"}}}));
    scene.backup("sealed", "data");
    scene.backup_with("sealed-too", &json!({"source": {"volumeSnapshot": "theirs"}}));
    for name in ["sealed", "sealed-too"] {
        scene.says(name, "NoStorageClass", "takes Secrets of each claim's own namespace");
    }
    drop(policy);
    for name in ["sealed", "sealed-too"] {
        scene.ends(name, "Completed");
    }
    cluster().kubectl().ok(&["delete", "sc", "sealed"]);
    // A claim that goes while its snapshot is being made: what was asked for is stored all the same.
    let slow = scene.cluster.fault("SnapshotReady", &json!({"seconds": 3600}));
    scene.backup("last", "data");
    // Before, the snapshot's controller would not take it of a claim that goes.
    wait_for("the snapshot to be taken", || {
        let taken =
            |snapshot: &serde_json::Value| snapshot["status"]["creationTime"].is_string() && snapshot["metadata"]["name"] != "theirs";
        cluster().list(&["volumesnapshots", "--namespace", "refused"]).iter().any(taken)
    });
    cluster().kubectl().ok(&["delete", "pvc", "data", "--namespace", "refused", "--wait=false"]);
    drop(slow);
    let status = scene.ends("last", "Completed");
    assert_eq!((&status["source"]["volumeMode"], &status["snapshot"]["storageClass"]), (&json!("Filesystem"), &json!("test")));
    scene.leaves_nothing();
}

/// What only shows once a mover runs, or cannot: said within the time that a person waits, and gone on from.
#[test]
fn what_hinders_movers_is_said() {
    let scene = Scene::alone("hindered");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(4 << 20, 1)).unwrap();
    // Nobody listens there.
    cluster().apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "unreachable"}, "spec": {
        "s3": {"bucket": "estiba", "endpoint": "http://10.244.0.1:9"}, "secret": "minio", "namespaces": {"names": ["hindered"]}}}));
    scene.backup_with("unreachable", &json!({"repository": "unreachable", "source": {"claim": "data"}}));
    scene.wait("unreachable", "the reason", |status| {
        status["message"].as_str().is_some_and(|message| message.contains("the mover tries again"))
    });
    cluster().kubectl().ok(&["delete", "vb/unreachable", "--namespace", "hindered", "--timeout", "240s"]);
    cluster().kubectl().ok(&["delete", "erepo", "unreachable"]);
    // Somebody else works on the repository and lets nobody in: that is no failure of ours, however long it lasts.
    let policy = scene.cluster.policy(&json!({"retries": 0}));
    scene.backup("first", "data");
    scene.ends("first", "Completed");
    let mut check = scene.restic().start(&["check", "--read-data", "--limit-download", "10"]);
    wait_for("restic's lock", || !scene.restic().ok(&["list", "locks", "--no-lock"]).stdout.trim().is_empty());
    scene.backup("locked", "data");
    scene.wait("locked", "the reason", |status| status["message"].as_str().is_some_and(|message| message.contains("lock")));
    check.signal(rustix::process::Signal::INT);
    check.wait();
    let status = scene.ends("locked", "Completed");
    assert!(status["failures"] == 0 && status["disruptions"].as_u64() >= Some(1), "{status:#}");
    // A volume of somebody that is free and fits: Kubernetes gives it to the mover's claim, and nobody touches it.
    cluster().apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "treasure"}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "test", "persistentVolumeReclaimPolicy": "Delete",
        "csi": {"driver": "csi.estiba.test", "volumeHandle": "treasure"}}}));
    wait_for("the volume to be free", || cluster().get(&["pv", "treasure"])["status"]["phase"] == "Available");
    scene.backup("treasure", "data");
    let status = scene.ends("treasure", "Failed");
    assert!(status["reason"] == "ClaimTaken" && status["message"].as_str().unwrap().contains("treasure"), "{status:#}");
    assert_eq!(cluster().get(&["pv", "treasure"])["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    cluster().kubectl().ok(&["delete", "pv", "treasure", "--timeout", "240s"]);
    drop(policy);
    // An image that is not there.
    scale("0");
    let other = cluster().controller("other", &["--image", "localhost/no-such:1"]);
    scene.backup("no-image", "data");
    scene.says("no-image", "PodStarting", "ErrImageNeverPull");
    other.end();
    cluster().kubectl().ok(&["delete", "vb/no-image", "--namespace", "hindered", "--wait=false"]);
    scale("2");
    scene.leaves_nothing();
}

/// What a run leaves behind whose finalizer is removed by hand is found, and removed when that is asked for.
#[test]
fn what_is_left_behind_is_swept() {
    let scene = Scene::alone("swept");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    let keep = json!({"startTimeoutSeconds": 600, "classes": [{"storageClass": "test", "backupStorageClass": "test-keep"}]});
    let policy = scene.cluster.policy(&keep);
    let slow = scene.cluster.fault("NodePublishVolume", &json!({"seconds": 3600}));
    let sweep = |args: &[&str]| {
        let ran = cluster().plugin(&[&["sweep", "--namespace", NAMESPACE], args].concat());
        assert!(ran.code == 0, "{ran:?}");
        ran.stdout
    };
    assert!(sweep(&[]).contains("nothing is left behind"));
    scene.backup("run", "data");
    scene.wait("run", "its pod", |status| status["reason"] == "PodStarting");
    assert!(sweep(&["--delete"]).contains("nothing is left behind"), "a run at work was swept");
    let uid = scene.run("run")["metadata"]["uid"].as_str().unwrap().to_owned();
    scale("0");
    scene.patch("run", &json!({"metadata": {"finalizers": null}}));
    cluster().kubectl().ok(&["delete", "vb", "run", "--namespace", "swept", "--timeout", "240s"]);
    drop((slow, policy));
    scale("2");
    // A mover without its run is nobody's: the controllers end it, and what it mounts goes with it.
    let selector = format!("estiba.dev/run={uid}");
    wait_for("its mover to go", || cluster().list(&["pods,secrets", "--namespace", NAMESPACE, "--selector", &selector]).is_empty());
    let said = sweep(&[]);
    assert!(said.contains(&uid) && said.contains("PersistentVolumeClaim estiba/") && said.contains("--delete removes them"), "{said}");
    assert_eq!(sweep(&[]), said, "nothing was asked for");
    let said = sweep(&["--delete"]);
    assert!(said.contains("objects removed"), "{said}");
    scene.leaves_nothing();
}

/// Without a controller, nobody takes finalizers off: the chart's last act is to do it. The next installation sweeps.
#[test]
fn an_uninstalled_chart_holds_nothing() {
    let scene = Scene::alone("uninstalled");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    scene.backup("done", "data");
    scene.ends("done", "Completed");
    wait_for("what is done to hold nothing", || scene.run("done")["metadata"]["finalizers"].is_null());
    let slow = scene.cluster.fault("NodePublishVolume", &json!({"seconds": 3600}));
    scene.backup("at-work", "data");
    scene.wait("at-work", "its pod", |status| status["reason"] == "PodStarting");
    cluster().uninstall();
    cluster().kubectl().ok(&["delete", "vb", "--all", "--namespace", "uninstalled", "--timeout", "30s"]);
    let movers = || cluster().list(&["pods", "--namespace", NAMESPACE, "--selector", "estiba.dev/run"]);
    wait_for("its mover to go", || movers().is_empty());
    drop(slow);
    cluster().install();
    let said = cluster().plugin(&["sweep", "--namespace", NAMESPACE, "--delete"]).stdout;
    assert!(said.contains("objects removed"), "{said}");
    scene.leaves_nothing();
}

#[test]
fn cancelled_and_deleted_at_every_stage() {
    let scene = Scene::alone("ends");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(8 << 20, 1)).unwrap();
    let delete = |name: &str| {
        cluster().kubectl().ok(&["delete", "volumebackup", name, "--namespace", "ends", "--ignore-not-found", "--timeout", "240s"])
    };
    // While the snapshot is made.
    let slow = scene.cluster.fault("SnapshotReady", &json!({"seconds": 3600}));
    for name in ["cancel-early", "delete-early"] {
        scene.backup(name, "data");
        scene.wait(name, "its snapshot", |status| status["phase"] == "Accepted");
    }
    scene.cancel("cancel-early");
    delete("delete-early");
    scene.ends("cancel-early", "Canceled");
    drop(slow);
    // While it waits for a slot.
    let policy = scene.cluster.policy(&json!({"moversPerNode": 0}));
    for name in ["cancel-waiting", "delete-waiting"] {
        scene.backup(name, "data");
        scene.says(name, "NoNode", "has no slots by policy");
    }
    scene.cancel("cancel-waiting");
    delete("delete-waiting");
    scene.ends("cancel-waiting", "Canceled");
    drop(policy);
    // While the mover's volume is being mounted, which lasts.
    let slow = || scene.cluster.fault("NodePublishVolume", &json!({"seconds": 3600}));
    let fault = slow();
    for name in ["cancel-late", "delete-late"] {
        scene.backup(name, "data");
        scene.wait(name, "its pod", |status| status["reason"] == "PodStarting");
    }
    scene.cancel("cancel-late");
    cluster().kubectl().ok(&["delete", "vb/delete-late", "--namespace", "ends", "--wait=false"]);
    // One that could work until then would be faster than its end.
    wait_for("both movers to be told to end", movers_are_told_to_end);
    drop(fault);
    delete("delete-late");
    scene.ends("cancel-late", "Canceled");
    // The whole namespace goes with a run at work in it.
    let fault = slow();
    scene.backup("last", "data");
    scene.wait("last", "its pod", |status| status["reason"] == "PodStarting");
    cluster().kubectl().ok(&["delete", "namespace", "ends", "--wait=false"]);
    drop(fault);
    cluster().kubectl().ok(&["delete", "namespace", "ends", "--ignore-not-found", "--timeout", "240s"]);
    scene.leaves_nothing();
}
