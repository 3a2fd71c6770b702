//! How many movers run where, and who goes next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use e2e::cluster::{cluster, note, wait_for};
use e2e::scene::Scene;
use e2e::tree::random;
use serde_json::{Value, json};

/// The scenario that this project began with.
#[test]
fn ten_claims_one_node_one_slot() {
    one_after_another("ten", 10);
}

/// `make bench-gate`: how soon a free slot is used again.
#[test]
#[ignore = "a benchmark"]
fn fifty_claims_one_node_one_slot() {
    one_after_another("fifty", 50);
}

fn one_after_another(name: &str, count: usize) {
    let scene = Scene::alone(name);
    let closed = scene.cluster.cordon("node-b");
    for i in 0..count {
        let volume = scene.claim(&format!("data-{i}"), "test", "Filesystem");
        std::fs::write(volume.join("data/file"), random(2 << 20, i as u64)).unwrap();
    }
    let watch = scene.cluster.watch_movers();
    for i in 0..count {
        scene.backup(&format!("run-{i}"), &format!("data-{i}"));
    }
    for i in 0..count {
        let status = scene.ends(&format!("run-{i}"), "Completed");
        assert_eq!((&status["attempts"], &status["failures"]), (&json!(1), &json!(0)), "{status:#}");
    }
    let gone = || watch.events().iter().filter(|(_, kind, _)| kind == "DELETED").count();
    wait_for("the last pod to go", || gone() >= count);
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
    assert_eq!((created, there.len()), (count, 0));
    assert_no_overlap(&events, count);
    gaps.sort_unstable();
    let share = |percent: usize| gaps[(gaps.len() * percent).div_ceil(100) - 1];
    note(&format!(
        "from a free slot to the next pod, {} times: median {:.2?}, 95th percentile {:.2?}, longest {:.2?}",
        gaps.len(),
        share(50),
        share(95),
        share(100)
    ));
    drop((watch, closed));
    scene.leaves_nothing();
}

/// By kubelet's own word of when each container began and ended.
fn assert_no_overlap(events: &[(Instant, String, Value)], count: usize) {
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
    assert_eq!(times.len(), count, "{times:?}");
    for pair in times.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two movers ran at once: {pair:?}");
    }
}

#[test]
fn limits_by_label_and_what_happens_when_they_change() {
    let scene = Scene::alone("limits");
    cluster().kubectl().ok(&["label", "node", "node-b", "movers=many", "--overwrite"]);
    let many = |limit: u32| json!({"moversPerNode": 1, "nodes": [{"selector": {"matchLabels": {"movers": "many"}}, "movers": limit}]});
    let policy = scene.cluster.policy(&many(3));
    for i in 0..10 {
        let volume = scene.claim(&format!("data-{i}"), "test", "Filesystem");
        std::fs::write(volume.join("data/file"), random(1 << 20, i)).unwrap();
    }
    // Movers wait in the driver, so that several are there at once.
    let slow = scene.cluster.fault("NodePublishVolume", &json!({"seconds": 3600}));
    let watch = scene.cluster.watch_movers();
    for i in 0..10 {
        scene.backup(&format!("run-{i}"), &format!("data-{i}"));
    }
    // After each event: its node, and how many movers are there; and whether the event added one of them.
    let history = || {
        let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut history = Vec::new();
        for (_, kind, pod) in watch.events() {
            let node = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchFields"][0]
                ["values"][0]
                .as_str()
                .unwrap()
                .to_owned();
            let pods = there.entry(node.clone()).or_default();
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let is_added = if kind == "DELETED" { !pods.remove(&name) } else { pods.insert(name) };
            history.push((node, pods.len(), is_added));
        }
        history
    };
    let per_node = || {
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for (node, now, _) in history() {
            most.entry(node).and_modify(|most| *most = now.max(*most)).or_insert(now);
        }
        most
    };
    wait_for("four movers at once", || per_node().values().sum::<usize>() >= 4);
    assert_eq!(per_node(), [("node-a".to_owned(), 1), ("node-b".to_owned(), 3)].into());
    // Lowered while full: nobody is stopped, nobody is added before it is below.
    policy.change(&many(1));
    // One that comes now is told of the new limit: it counts.
    scene.backup("run-10", "data-0");
    scene.says("run-10", "WaitingForSlot", "runs 3 of 1");
    let lowered = history().len();
    drop(slow);
    for i in 0..=10 {
        let status = scene.ends(&format!("run-{i}"), "Completed");
        assert_eq!(status["failures"], 0, "{status:#}");
    }
    assert_eq!(per_node(), [("node-a".to_owned(), 1), ("node-b".to_owned(), 3)].into());
    let added: Vec<_> = history().split_off(lowered).into_iter().filter(|(.., is_added)| *is_added).collect();
    assert!(added.iter().all(|(_, now, _)| *now == 1) && added.iter().any(|(node, ..)| node == "node-b"), "{added:?}");
    drop((watch, policy));
    cluster().kubectl().ok(&["label", "node", "node-b", "movers-"]);
    scene.leaves_nothing();
}

#[test]
fn a_restore_goes_before_fifty_backups_that_wait() {
    let scene = Scene::alone("next");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(1 << 20, 1)).unwrap();
    scene.backup("first", "data");
    scene.ends("first", "Completed");
    let closed = scene.cluster.cordon("node-b");
    let policy = scene.cluster.policy(&json!({"moversPerNode": 0}));
    for i in 0..50 {
        scene.backup(&format!("run-{i}"), "data");
    }
    let count = |phase: &str| {
        let runs = scene.cluster.list(&["vb", "--namespace", "next"]);
        runs.iter().filter(|run| run["status"]["phase"] == phase).count()
    };
    wait_for("fifty that wait", || count("Prepared") == 50);
    // No claim, no pod: they wait at no cost.
    let held = scene.cluster.list(&["pods,pvc", "--namespace", "estiba", "--selector", "estiba.dev/run"]);
    assert!(held.is_empty(), "{held:#?}");
    scene.waiting_claim("again", "again", "test", &json!({}));
    scene.restore("again", "again", &json!({"claim": "data"}));
    for words in ["has no slots by policy", "is cordoned"] {
        scene.says("volumerestore/again", "NoNode", words);
    }
    let watch = scene.cluster.watch_movers();
    policy.change(&json!({"moversPerNode": 1}));
    scene.ends("volumerestore/again", "Completed");
    wait_for("some backups after it", || count("Completed") >= 3);
    let order: Vec<Value> = watch
        .events()
        .into_iter()
        .filter(|(_, kind, _)| kind == "ADDED")
        .map(|(_, _, pod)| pod["metadata"]["labels"]["estiba.dev/work"].clone())
        .collect();
    assert_eq!(order[0], "restore", "{order:?}");
    drop((watch, policy, closed));
    scene.leaves_nothing();
}

#[test]
fn a_thousand_at_once_that_wait_for_somebody_hold_up_nobody() {
    let scene = Scene::alone("thousand");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"content").unwrap();
    let runs: Vec<Value> = (0..1000)
        .map(|i| {
            json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeBackup", "metadata": {"name": format!("run-{i}"), "namespace": "thousand"},
                "spec": {"repository": "thousand", "source": {"claim": "no-such"}}})
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": runs}).to_string();
    let ran = scene.cluster.kubectl().run_with_input(&["create", "-f", "-"], list.as_bytes());
    assert!(ran.code == 0, "{}", ran.stderr);
    let began = Instant::now();
    scene.backup("real", "data");
    scene.ends("real", "Completed");
    note(&format!("a backup beside a thousand that wait: {:?}", began.elapsed()));
    let say_why = || {
        let all = scene.cluster.list(&["vb", "--namespace", "thousand"]);
        all.iter().filter(|run| run["status"]["reason"] == "ClaimMissing").count()
    };
    wait_for("a reason for each", || say_why() == 1000);
    note(&format!("each of a thousand has its reason: {:?}", began.elapsed()));
    scene.leaves_nothing();
}
