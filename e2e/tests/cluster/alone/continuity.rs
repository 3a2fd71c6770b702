//! Movers, controllers and nodes that come and go.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use e2e::cluster::{NAMESPACE, cluster, kill_controllers, note, scale, wait_for};
use e2e::scene::Scene;
use e2e::tree::{assert_same, random};
use serde_json::{Value, json};

#[test]
fn movers_and_controllers_come_and_go() {
    let scene = Scene::alone("continuity");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(48 << 20, 1)).unwrap();
    // The mover waits in the driver until it was disturbed.
    let slow = || scene.cluster.fault("NodePublishVolume", &json!({"seconds": 3600}));
    // The pod is deleted by force: its slot stays until kubelet has said that it ended, then another one does the work.
    let fault = slow();
    scene.backup("forced", "data");
    let status = scene.wait("forced", "its pod", |status| status["reason"] == "PodStarting");
    let pod = cluster().list(&["pods", "--namespace", NAMESPACE, "--selector", "estiba.dev/run"]).remove(0);
    let name = pod["metadata"]["name"].as_str().unwrap();
    cluster().kubectl().ok(&["delete", "pod", name, "--namespace", NAMESPACE, "--force", "--grace-period", "0", "--wait=false"]);
    scene.wait("forced", "another attempt", |after| after["attempts"].as_u64() > status["attempts"].as_u64());
    drop(fault);
    let after = scene.ends("forced", "Completed");
    assert!(after["attempts"].as_u64() > status["attempts"].as_u64(), "{after:#}");
    // A node is drained, as administrators do it, with a mover on it.
    let fault = slow();
    scene.backup("drained", "data");
    let status = scene.wait("drained", "its pod", |status| status["reason"] == "PodStarting");
    let node = status["attempt"]["node"].as_str().unwrap().to_owned();
    cluster().kubectl().ok(&["drain", &node, "--ignore-daemonsets", "--timeout", "240s", "--pod-selector", "estiba.dev/run"]);
    drop(fault);
    let after = scene.ends("drained", "Completed");
    assert_ne!(after["attempt"]["node"], json!(node), "{after:#}");
    cluster().kubectl().ok(&["uncordon", &node]);
    // Mover and controllers are replaced in the middle of the work: the next mover, on another node, goes on from there.
    let all: u64 = 2 << 30;
    let mut file = std::fs::File::create(volume.join("data/file")).unwrap();
    for seed in 0..16 {
        file.write_all(&random(128 << 20, 10 + seed)).unwrap();
    }
    drop(file);
    let stored_in_all = || scene.mover().ok(&["--json", "--no-lock", "prune", "--dry-run"]).json("bytes_before").as_u64().unwrap();
    let before = stored_in_all();
    let policy = scene.cluster.policy(&json!({"pod": {"memory": "128MiB", "resources": {"limits": {"cpu": "500m"}}}}));
    scene.backup("moved", "data");
    let status = scene.wait("moved", "some progress", |status| status["progress"]["bytesDone"].as_u64() > Some(all / 4));
    let node = status["attempt"]["node"].as_str().unwrap().to_owned();
    kill_controllers();
    cluster().kubectl().ok(&["drain", &node, "--ignore-daemonsets", "--timeout", "240s", "--pod-selector", "estiba.dev/run"]);
    drop(policy);
    let after = scene.ends("moved", "Completed");
    assert_ne!(after["attempt"]["node"], json!(node), "{after:#}");
    let (resumed, stored) = (after["result"]["bytesResumed"].as_u64().unwrap(), after["result"]["bytesStored"].as_u64().unwrap());
    let sent = stored_in_all() - before;
    let figures = [resumed, all, stored, sent].map(|bytes| bytes >> 20);
    note(&format!(
        "a mover went on after {} MiB of {}, and stored {} MiB; {} MiB were sent by both",
        figures[0], figures[1], figures[2], figures[3]
    ));
    let bound = all + all / 20;
    assert!(resumed > all / 8 && resumed + stored < bound && sent < bound, "{after:#}");
    cluster().kubectl().ok(&["uncordon", &node]);
    // Both controllers are killed while a mover works: it goes on, and is found again.
    let fault = slow();
    scene.backup("orphaned", "data");
    scene.wait("orphaned", "its pod", |status| status["reason"] == "PodStarting");
    kill_controllers();
    drop(fault);
    let after = scene.ends("orphaned", "Completed");
    assert_eq!(after["attempts"], 1, "{after:#}");
    assert_eq!(scene.stored().len(), 4, "no run made two snapshots");
    scene.restic().ok(&["check", "--read-data"]);
    scene.leaves_nothing();
}

/// The mover that fills a claim is drained, and both controllers are killed beside it: the next mover, on another node, goes on
/// in the same volume.
#[test]
fn a_restore_goes_on_in_its_volume() {
    let scene = Scene::alone("refill");
    let volume = scene.claim("data", "test", "Filesystem");
    // Half a minute's work, so that some of it is seen: progress is looked at every five seconds.
    let (all, file) = (1_u64 << 30, 32 << 20);
    // One that is large, and some.
    std::fs::write(volume.join("data/large"), random(512 << 20, 0)).unwrap();
    for seed in 1..=16 {
        std::fs::write(volume.join(format!("data/file-{seed}")), random(file, seed)).unwrap();
    }
    scene.backup("run", "data");
    scene.ends("run", "Completed");
    let policy = scene.cluster.policy(&json!({"pod": {"memory": "128MiB", "resources": {"limits": {"cpu": "100m"}}}}));
    scene.waiting_claim("again", "again", "test", &json!({}));
    scene.restore("again", "again", &json!({"backup": "run"}));
    let far = |status: &Value| status["progress"]["bytesDone"].as_u64() > Some(all / 8);
    let status = scene.wait("volumerestore/again", "some progress", far);
    let (node, done) = (status["attempt"]["node"].as_str().unwrap().to_owned(), status["progress"]["bytesDone"].as_u64().unwrap());
    kill_controllers();
    cluster().kubectl().ok(&["drain", &node, "--ignore-daemonsets", "--timeout", "240s", "--pod-selector", "estiba.dev/run"]);
    drop(policy);
    let after = scene.ends("volumerestore/again", "Completed");
    cluster().kubectl().ok(&["uncordon", &node]);
    assert!(after["attempt"]["node"] != json!(node) && after["attempts"] == 2 && after["disruptions"] == 1, "{after:#}");
    let (bytes, in_place) = (after["result"]["bytes"].as_u64().unwrap(), after["result"]["bytesInPlace"].as_u64().unwrap());
    note(&format!("a restore went on after {} MiB of {}: {} MiB were in place", done >> 20, all >> 20, in_place >> 20));
    // What was said to be done was not done again, but for what was just being written.
    assert!(bytes == all && in_place < all && in_place + (16 << 20) > done, "{after:#}");
    assert_same(&volume.join("data"), &scene.volume("again").join("data"));
    scene.leaves_nothing();
}

/// Its kubelet, its container runtime and all its containers end in one moment, the mover's and perhaps the controller's too.
#[test]
fn a_node_is_lost_with_the_mover_on_it() {
    let scene = Scene::alone("lost");
    let volume = scene.claim("data", "test", "Filesystem");
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    for (seed, run) in ["out-of-service", "deleted"].into_iter().enumerate() {
        std::fs::write(volume.join("data/file"), random(1 << 30, seed as u64)).unwrap();
        // It is at work until it is lost.
        let policy = scene.cluster.policy(&json!({"pod": {"resources": {"limits": {"cpu": "50m"}}}}));
        scene.backup(run, "data");
        let status = scene.wait(run, "its pod", |status| ["PodStarting", "Moving"].iter().any(|reason| status["reason"] == *reason));
        let node = status["attempt"]["node"].as_str().unwrap().to_owned();
        let pod = scene.mover_pod(run);
        cluster().script(&["node-kill", &node]);
        let is_silent = |status: &Value| status["message"].as_str().is_some_and(|message| message.contains("does not answer"));
        scene.wait(run, "its node's silence", is_silent);
        drop(policy);
        // Nobody knows that it ended: its slot and its work stay its own, even when the pod is deleted by force.
        let name = pod["metadata"]["name"].as_str().unwrap();
        cluster().kubectl().ok(&["delete", "pod", name, "--namespace", NAMESPACE, "--force", "--grace-period", "0", "--wait=false"]);
        std::thread::sleep(Duration::from_secs(15));
        let status = scene.status(run);
        assert_eq!((&status["phase"], &status["attempts"]), (&json!("InProgress"), &json!(1)), "{status:#}");
        assert_eq!(cluster().get(&["pod", name, "--namespace", NAMESPACE])["metadata"]["uid"], pod["metadata"]["uid"]);
        // Somebody who knows says so.
        if run == "deleted" {
            cluster().kubectl().ok(&["delete", "node", &node]);
        } else {
            cluster().kubectl().ok(&["taint", "node", &node, taint]);
        }
        let status = scene.ends(run, "Completed");
        assert!(status["attempt"]["node"] != json!(node) && status["disruptions"] == 1 && status["failures"] == 0, "{status:#}");
        assert!(status["setback"].as_str().unwrap().contains(&node), "{status:#}");
        cluster().script(&["node-start", &node]);
        let drivers = || cluster().list(&["csinode"]).into_iter().filter(|each| each["metadata"]["name"] == node.as_str());
        wait_for("the node to be back", || drivers().any(|each| each["spec"]["drivers"].as_array().is_some_and(|all| !all.is_empty())));
        cluster().kubectl().ok(&["wait", "node", &node, "--for", "condition=Ready", "--timeout", "90s"]);
        cluster().kubectl().run(&["taint", "node", &node, &format!("{taint}-")]);
        cluster().kubectl().ok(&["rollout", "status", "deployment/estiba-controller", "--namespace", NAMESPACE, "--timeout", "90s"]);
    }
    // The locks of those that are lost grow stale by themselves.
    scene.restic().ok(&["check", "--read-data", "--no-lock"]);
    scene.leaves_nothing();
}

/// After each thing that is recorded, and each that is changed, the controller ends without a word, and another one begins.
#[test]
fn a_controller_that_is_killed_after_each_step() {
    let scene = Scene::alone("steps");
    let volume = scene.claim("data", "test-late", "Filesystem");
    std::fs::write(volume.join("data/file"), random(2 << 20, 1)).unwrap();
    scale("0");
    let mut killed = 0;
    let mut until_ended = |run: &str| {
        while scene.status(run)["cleaned"] != true {
            let mut controller = cluster().controller("mortal", &["--abort-after", "1"]);
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut looked = Instant::now();
            while controller.child().try_wait().unwrap().is_none() {
                if looked.elapsed() > Duration::from_millis(500) {
                    looked = Instant::now();
                    if scene.status(run)["cleaned"] == true {
                        break;
                    }
                }
                assert!(Instant::now() < deadline, "{run} does not go on: {:#}", scene.status(run));
                std::thread::sleep(Duration::from_millis(20));
            }
            // The last one has its lease to give back.
            controller.end();
            killed += 1;
            assert!(killed < 200, "{run} does not end: {:#}", scene.status(run));
        }
        let status = scene.status(run);
        assert_eq!((&status["phase"], &status["attempts"]), (&json!("Completed"), &json!(1)), "{status:#}");
    };
    scene.backup("run", "data");
    until_ended("run");
    scene.waiting_claim("again", "again", "test-late", &json!({}));
    scene.restore("again", "again", &json!({"backup": "run"}));
    until_ended("volumerestore/again");
    note(&format!("a backup and a restore, by {killed} controllers"));
    assert!(killed > 10, "they were not ended");
    scale("2");
    assert_eq!(std::fs::read(scene.volume("again").join("data/file")).unwrap(), random(2 << 20, 1));
    assert_eq!(scene.stored().len(), 1);
    scene.leaves_nothing();
}

/// Three controllers that all hold the lease, for they have one name: no limit is exceeded, and no run has two movers.
#[test]
fn controllers_that_all_believe_they_lead() {
    let scene = Scene::alone("split");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(2 << 20, 1)).unwrap();
    scale("0");
    let mut twins: Vec<_> = (0..3).map(|_| cluster().controller("twin", &[])).collect();
    let watch = cluster().watch_movers();
    for i in 0..12 {
        scene.backup(&format!("run-{i}"), "data");
    }
    let is_over = |i: usize| scene.status(&format!("run-{i}"))["cleaned"] == true;
    for i in 0..12 {
        wait_for(&format!("the end of run-{i}"), || {
            // Two that renew in one moment find out: there are three again at once.
            for twin in &mut twins {
                if twin.child().try_wait().unwrap().is_some() {
                    *twin = cluster().controller("twin", &[]);
                }
            }
            is_over(i)
        });
        scene.ends(&format!("run-{i}"), "Completed");
    }
    // Two nodes, a slot on each: by name, and by run.
    let (mut there, mut created) = (BTreeMap::new(), 0);
    for (_, kind, pod) in watch.events() {
        let (name, run) = (pod["metadata"]["name"].to_string(), pod["metadata"]["labels"]["estiba.dev/run"].to_string());
        match kind.as_str() {
            "ADDED" => {
                created += 1;
                assert!(!there.values().any(|other| *other == run), "two movers for one run");
                assert!(there.insert(name, run).is_none(), "a slot was given twice");
                assert!(there.len() <= 2, "more movers than slots: {there:?}");
            }
            "DELETED" => drop(there.remove(&name)),
            _ => {}
        }
    }
    note(&format!("{created} movers for 12 runs, by three controllers at once"));
    drop(watch);
    for twin in twins {
        twin.end();
    }
    scale("2");
    assert_eq!(scene.stored().len(), 12, "a run made two snapshots");
    scene.leaves_nothing();
}
