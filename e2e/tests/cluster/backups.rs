//! Claims into the repository: what is stored, what is missing, what is cancelled.

use std::os::unix::fs::FileExt;

use e2e::cluster::{NAMESPACE, Scene, cluster, scale, wait_for};
use e2e::tree::{assert_same, difficult, random};
use serde_json::{Value, json};

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
    let listed: Value = serde_json::from_str(&scene.restic().ok(&["snapshots", "--json"]).stdout).unwrap();
    let listed = &listed[0];
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
    scene.cluster.kubectl().ok(&["delete", "vb/deleted", "--namespace", "clones", "--timeout", "60s"]);
    let cancel = json!({"spec": {"cancel": true}}).to_string();
    scene.cluster.kubectl().ok(&["patch", "vb/cancelled", "--namespace", "clones", "--type", "merge", "--patch", &cancel]);
    scene.ends("cancelled", "Canceled");
    drop(failing);
    scene.ends("refused", "Completed");
    drop(policy);
    scene.leaves_nothing();
}

#[test]
fn what_is_missing_is_said_and_waited_for() {
    let scene = Scene::alone("missing");
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
    // A snapshot that fails is said in the driver's words.
    let failing = scene.cluster.fault("CreateSnapshot", &json!({"error": "the pool is full"}));
    scene.backup("no-room", "data");
    scene.says("no-room", "SnapshotFailed", "the pool is full");
    drop(failing);
    scene.ends("no-room", "Completed");
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
    // Refused by a quota, in Estiba's own namespace, in the API server's words; it goes on when there is room.
    cluster().apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": NAMESPACE}, "spec": {"hard": {"persistentvolumeclaims": "0"}}}));
    scene.backup("no-quota", "data");
    scene.says("no-quota", "Refused", "exceeded quota");
    cluster().kubectl().ok(&["delete", "quota", "none", "--namespace", NAMESPACE]);
    scene.ends("no-quota", "Completed");
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
    cluster().kubectl().ok(&["delete", "vb/unreachable", "--namespace", "hindered", "--timeout", "100s"]);
    cluster().kubectl().ok(&["delete", "erepo", "unreachable"]);
    // Somebody else works on the repository and lets nobody in: that is no failure of ours, however long it lasts.
    let policy = scene.cluster.policy(&json!({"retries": 0}));
    scene.backup("first", "data");
    scene.ends("first", "Completed");
    let mut check = scene.restic().start(&["check", "--read-data", "--limit-download", "100"]);
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
    scene.backup("treasure", "data");
    let status = scene.ends("treasure", "Failed");
    assert!(status["reason"] == "ClaimTaken" && status["message"].as_str().unwrap().contains("treasure"), "{status:#}");
    assert_eq!(cluster().get(&["pv", "treasure"])["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    cluster().kubectl().ok(&["delete", "pv", "treasure", "--timeout", "60s"]);
    drop(policy);
    // An image that is not there.
    scale("0");
    let other = cluster().controller("other", &["--image", "localhost/no-such:1"]);
    scene.backup("no-image", "data");
    scene.says("no-image", "PodStarting", "ErrImageNeverPull");
    drop(other);
    cluster().kubectl().ok(&["delete", "vb/no-image", "--namespace", "hindered", "--wait=false"]);
    scale("2");
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

/// What a run leaves behind whose finalizer is removed by hand is found, and removed when that is asked for.
#[test]
fn what_is_left_behind_is_swept() {
    let scene = Scene::alone("swept");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    let keep = json!({"startTimeoutSeconds": 600, "classes": [{"storageClass": "test", "backupStorageClass": "test-keep"}]});
    let policy = scene.cluster.policy(&keep);
    let slow = scene.cluster.fault("NodePublishVolume", &json!({"seconds": 10}));
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
    let patch = json!({"metadata": {"finalizers": null}}).to_string();
    cluster().kubectl().ok(&["patch", "vb", "run", "--namespace", "swept", "--type", "merge", "--patch", &patch]);
    cluster().kubectl().ok(&["delete", "vb", "run", "--namespace", "swept", "--timeout", "60s"]);
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
    let cancel = |name: &str| {
        let patch = json!({"spec": {"cancel": true}}).to_string();
        cluster().kubectl().ok(&["patch", "volumebackup", name, "--namespace", "ends", "--type", "merge", "--patch", &patch]);
    };
    let delete = |name: &str| cluster().kubectl().ok(&["delete", "volumebackup", name, "--namespace", "ends", "--timeout", "100s"]);
    // While the snapshot is made.
    let slow = scene.cluster.fault("SnapshotReady", &json!({"seconds": 3600}));
    for name in ["cancel-early", "delete-early"] {
        scene.backup(name, "data");
        scene.wait(name, "its snapshot", |status| status["phase"] == "Accepted");
    }
    cancel("cancel-early");
    delete("delete-early");
    scene.ends("cancel-early", "Canceled");
    drop(slow);
    // While it waits for a slot.
    let policy = scene.cluster.policy(&json!({"moversPerNode": 0}));
    for name in ["cancel-waiting", "delete-waiting"] {
        scene.backup(name, "data");
        scene.says(name, "NoNode", "has no slots by policy");
    }
    cancel("cancel-waiting");
    delete("delete-waiting");
    scene.ends("cancel-waiting", "Canceled");
    drop(policy);
    // While the mover's volume is being mounted, which lasts.
    let slow = scene.cluster.fault("NodePublishVolume", &json!({"seconds": 15}));
    for name in ["cancel-late", "delete-late"] {
        scene.backup(name, "data");
        scene.wait(name, "its pod", |status| status["reason"] == "PodStarting");
    }
    cancel("cancel-late");
    delete("delete-late");
    scene.ends("cancel-late", "Canceled");
    // The whole namespace goes with a run at work in it.
    scene.backup("last", "data");
    scene.wait("last", "its pod", |status| status["reason"] == "PodStarting");
    drop(slow);
    scene.leaves_nothing();
}
