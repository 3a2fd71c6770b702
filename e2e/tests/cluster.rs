//! On the real cluster: real API server, kubelets, containerd, CSI sidecars, MinIO; the chart as users install it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use e2e::cluster::{NAMESPACE, Scene, cluster, note, wait_for};
use e2e::tree::{assert_same, difficult, random};
use serde_json::{Value, json};

#[test]
fn a_claim_goes_to_the_repository_and_stock_restic_restores_it() {
    let scene = Scene::new("story");
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

/// The scenario that this project began with.
#[test]
fn ten_claims_one_node_one_slot() {
    let scene = Scene::new("ten");
    let _closed = scene.cluster.cordon("node-b");
    for i in 0..10 {
        let volume = scene.claim(&format!("data-{i}"), "test", "Filesystem");
        std::fs::write(volume.join("data/file"), random(2 << 20, i)).unwrap();
    }
    let watch = scene.cluster.watch_movers();
    for i in 0..10 {
        scene.backup(&format!("run-{i}"), &format!("data-{i}"));
    }
    for i in 0..10 {
        let status = scene.ends(&format!("run-{i}"), "Completed");
        assert_eq!((&status["attempts"], &status["failures"]), (&json!(1), &json!(0)), "{status:#}");
    }
    let events = watch.events();
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    let (mut freed, mut gaps, mut created) = (None::<Instant>, Vec::new(), 0);
    for (at, kind, pod) in &events {
        let (name, uid) = (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod["metadata"]["uid"].as_str().unwrap().to_owned());
        match kind.as_str() {
            "ADDED" => {
                created += 1;
                assert!(there.insert(name, uid).is_none(), "a slot was given twice");
                assert_eq!(there.len(), 1, "two movers at once: {there:?}");
                gaps.extend(freed.take().map(|freed| at.duration_since(freed)));
            }
            "DELETED" => {
                assert_eq!(there.remove(&name), Some(uid));
                freed = Some(*at);
            }
            _ => {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                assert!(!conditions.iter().any(|condition| condition["reason"] == "Unschedulable"), "a pod waits: {pod:#}");
            }
        }
    }
    assert_eq!((created, there.len()), (10, 0));
    assert_no_overlap(&events);
    gaps.sort_unstable();
    note(&format!("from a free slot to the next pod: median {:?}, longest {:?}", gaps[gaps.len() / 2], gaps.last().unwrap()));
    drop(watch);
    scene.leaves_nothing();
}

/// By kubelet's own word of when each container began and ended.
fn assert_no_overlap(events: &[(Instant, String, Value)]) {
    let mut times: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (_, _, pod) in events {
        for container in pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default() {
            let ended = &container["state"]["terminated"];
            if let (Some(from), Some(to)) = (ended["startedAt"].as_str(), ended["finishedAt"].as_str()) {
                times.insert(pod["metadata"]["uid"].as_str().unwrap().to_owned(), (from.to_owned(), to.to_owned()));
            }
        }
    }
    let mut times: Vec<_> = times.into_values().collect();
    times.sort();
    assert_eq!(times.len(), 10, "{times:?}");
    for pair in times.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two movers ran at once: {pair:?}");
    }
}

#[test]
fn limits_by_label_and_what_happens_when_they_change() {
    let scene = Scene::new("limits");
    cluster().kubectl().ok(&["label", "node", "node-b", "movers=many", "--overwrite"]);
    let many = |limit: u32| json!({"moversPerNode": 1, "nodes": [{"selector": {"matchLabels": {"movers": "many"}}, "movers": limit}]});
    let policy = scene.cluster.policy(&many(3));
    for i in 0..10 {
        let volume = scene.claim(&format!("data-{i}"), "test", "Filesystem");
        std::fs::write(volume.join("data/file"), random(1 << 20, i)).unwrap();
    }
    // Movers take a while, so that several are there at once.
    let slow = scene.cluster.fault("NodePublishVolume", &json!({"seconds": 2}));
    let watch = scene.cluster.watch_movers();
    for i in 0..10 {
        scene.backup(&format!("run-{i}"), &format!("data-{i}"));
    }
    let per_node = || {
        let mut there: BTreeMap<String, BTreeMap<String, ()>> = BTreeMap::new();
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for (_, kind, pod) in watch.events() {
            let node = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchFields"][0]
                ["values"][0]
                .as_str()
                .unwrap()
                .to_owned();
            let pods = there.entry(node.clone()).or_default();
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            if kind == "DELETED" {
                pods.remove(&name);
            } else {
                pods.insert(name, ());
            }
            let now = pods.len();
            most.entry(node).and_modify(|most| *most = now.max(*most)).or_insert(now);
        }
        most
    };
    wait_for("four movers at once", || per_node().values().sum::<usize>() >= 4);
    assert_eq!(per_node(), [("node-a".to_owned(), 1), ("node-b".to_owned(), 3)].into());
    // Lowered while full: nobody is stopped, nobody is added before it is below.
    cluster().apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "MoverPolicy", "metadata": {"name": "default"}, "spec": many(1)}));
    for i in 0..10 {
        let status = scene.ends(&format!("run-{i}"), "Completed");
        assert_eq!(status["failures"], 0, "{status:#}");
    }
    assert_eq!(per_node(), [("node-a".to_owned(), 1), ("node-b".to_owned(), 3)].into());
    drop((slow, watch, policy));
    cluster().kubectl().ok(&["label", "node", "node-b", "movers-"]);
    scene.leaves_nothing();
}

#[test]
fn block_volumes_and_volumes_of_one_node() {
    let scene = Scene::new("kinds");
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
    let scene = Scene::new("missing");
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
    scene.leaves_nothing();
}

#[test]
fn cancelled_and_deleted_at_every_stage() {
    let scene = Scene::new("ends");
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
    drop(slow);
    scene.leaves_nothing();
}

#[test]
fn movers_and_controllers_come_and_go() {
    let scene = Scene::new("continuity");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(48 << 20, 1)).unwrap();
    // The mover waits in the driver, so that there is time to disturb it.
    let slow = || scene.cluster.fault("NodePublishVolume", &json!({"seconds": 8}));
    // The pod is deleted by force: its slot stays until kubelet has said that it ended, then another one does the work.
    let fault = slow();
    scene.backup("forced", "data");
    let status = scene.wait("forced", "its pod", |status| status["reason"] == "PodStarting");
    let pod = cluster().list(&["pods", "--namespace", NAMESPACE, "--selector", "estiba.dev/run"]).remove(0);
    let name = pod["metadata"]["name"].as_str().unwrap();
    cluster().kubectl().ok(&["delete", "pod", name, "--namespace", NAMESPACE, "--force", "--grace-period", "0", "--wait=false"]);
    drop(fault);
    let after = scene.ends("forced", "Completed");
    assert!(after["attempts"].as_u64() > status["attempts"].as_u64(), "{after:#}");
    // A node is drained, as administrators do it, with a mover on it.
    let fault = slow();
    scene.backup("drained", "data");
    let status = scene.wait("drained", "its pod", |status| status["reason"] == "PodStarting");
    let node = status["attempt"]["node"].as_str().unwrap().to_owned();
    cluster().kubectl().ok(&["drain", &node, "--ignore-daemonsets", "--timeout", "100s", "--pod-selector", "estiba.dev/run"]);
    drop(fault);
    let after = scene.ends("drained", "Completed");
    assert_ne!(after["attempt"]["node"], json!(node), "{after:#}");
    cluster().kubectl().ok(&["uncordon", &node]);
    // Both controllers are killed while a mover works: it goes on, and is found again.
    let fault = slow();
    scene.backup("orphaned", "data");
    scene.wait("orphaned", "its pod", |status| status["reason"] == "PodStarting");
    cluster().kubectl().ok(&[
        "delete",
        "pods",
        "--namespace",
        NAMESPACE,
        "--selector",
        "app.kubernetes.io/name=estiba-controller",
        "--force",
        "--grace-period",
        "0",
    ]);
    drop(fault);
    let after = scene.ends("orphaned", "Completed");
    assert_eq!(after["attempts"], 1, "{after:#}");
    // The same tree each time.
    let trees: Vec<String> = serde_json::from_str::<Vec<Value>>(&scene.restic().ok(&["snapshots", "--json"]).stdout)
        .unwrap()
        .iter()
        .map(|snapshot| snapshot["tree"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(trees.len(), 3, "no run made two snapshots");
    scene.restic().ok(&["check", "--read-data"]);
    std::thread::sleep(Duration::from_secs(1));
    scene.leaves_nothing();
}
