//! With Velero's own server, command line and plugin for S3: what its users type, and what they get.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use e2e::cluster::{cluster, kill_controllers, wait_for};
use e2e::scene::Scene;
use e2e::tree::{assert_same, difficult, random};
use e2e::velero::Velero;
use serde_json::json;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status().unwrap().success());
    assert_same(from, to);
}

#[test]
fn a_namespace_is_backed_up_removed_and_comes_back() {
    let scene = Scene::alone("moved");
    let velero = Velero::start(cluster());
    let before = tempfile::tempdir().unwrap();
    let files = scene.claim("files", "test", "Filesystem");
    difficult(&files.join("data"));
    copy(&files.join("data"), &before.path().join("files"));
    let late = scene.claim("late", "test-late", "Filesystem");
    std::fs::write(late.join("data/file"), random(3 << 20, 2)).unwrap();
    let device = scene.claim("device", "test", "Block");
    let image = std::fs::File::options().write(true).open(device.join("disk.img")).unwrap();
    image.write_all_at(&random(5 << 20, 3), 9 << 20).unwrap();
    let stored = std::fs::read(device.join("disk.img")).unwrap();

    velero.back_up("first", "moved", &[]);
    wait_for("the first upload", || !velero.transfers("dataupload", "backup-name=first").is_empty());
    kill_controllers();
    velero.ends("backup", "first", "Completed");
    let uploads = velero.transfers("dataupload", "backup-name=first");
    assert_eq!(uploads.len(), 3);
    for upload in &uploads {
        let (status, claim) = (&upload["status"], upload["spec"]["sourcePVC"].as_str().unwrap());
        assert_eq!(status["phase"], "Completed", "{upload:#}");
        assert!(status["snapshotID"].as_str().unwrap().ends_with(&format!(":/moved/{claim}")), "{status:#}");
        assert!(
            status["progress"]["bytesDone"] == status["progress"]["totalBytes"] && status["incrementalBytes"].is_number(),
            "{status:#}"
        );
        assert!(status["startTimestamp"].is_string() && status["completionTimestamp"].is_string() && status["nodeOS"] == "linux");
    }
    let described = velero.ok(&["backup", "describe", "first", "--details"]).stdout;
    for words in ["Data Mover: estiba", "Moved data Size (bytes): 3145728", "Result: succeeded"] {
        assert!(described.contains(words), "{words}:\n{described}");
    }
    // Stock restic reads it with nothing but the password.
    let listed = velero.stored("first");
    let mut paths: Vec<_> = listed.iter().map(|snapshot| snapshot["paths"][0].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/moved/device", "/moved/files", "/moved/late"]);

    cluster().kubectl().ok(&["delete", "namespace", "moved", "--timeout", "100s"]);
    velero.restore("again", "first", &[]);
    velero.ends("restore", "again", "Completed");
    assert_same(&before.path().join("files"), &scene.volume("files").join("data"));
    assert_eq!(std::fs::read(scene.volume("late").join("data/file")).unwrap(), random(3 << 20, 2));
    assert_eq!(std::fs::read(scene.volume("device").join("disk.img")).unwrap(), stored);
    let downloads = velero.transfers("datadownload", "restore-name=again");
    assert!(downloads.len() == 3 && downloads.iter().all(|download| download["status"]["phase"] == "Completed"), "{downloads:#?}");
    assert!(velero.ok(&["restore", "describe", "again", "--details"]).stdout.contains("Data Mover: estiba"));
    // Under another name, beside what is there.
    velero.restore("beside", "first", &["--namespace-mappings", "moved:moved-beside"]);
    velero.ends("restore", "beside", "Completed");
    let claim = cluster().get(&["pvc", "late", "--namespace", "moved-beside"]);
    assert_eq!(claim["status"]["phase"], "Bound");
    let volume = cluster().get(&["pv", claim["spec"]["volumeName"].as_str().unwrap()]);
    let folder = cluster().state.join("volumes/volumes").join(volume["spec"]["csi"]["volumeHandle"].as_str().unwrap());
    assert_eq!(std::fs::read(folder.join("data/file")).unwrap(), random(3 << 20, 2));
    cluster().kubectl().ok(&["delete", "namespace", "moved-beside", "--timeout", "100s"]);
    wait_for("its volumes to go", || cluster().list(&["pv"]).iter().all(|pv| pv["spec"]["claimRef"]["namespace"] != "moved-beside"));
    // A namespace that goes while its claims are being filled takes what was made for them with it.
    let policy = scene.cluster.policy(&json!({"moversPerNode": 0}));
    velero.restore("lost", "first", &["--namespace-mappings", "moved:moved-lost"]);
    let downloads = || velero.transfers("datadownload", "restore-name=lost");
    let all = |phase: &str| downloads().iter().filter(|download| download["status"]["phase"] == phase).count() == 3;
    wait_for("three that wait", || all("Prepared"));
    cluster().kubectl().ok(&["delete", "namespace", "moved-lost", "--timeout", "100s"]);
    wait_for("their end", || all("Failed"));
    assert!(
        downloads().iter().all(|download| download["status"]["message"].as_str().unwrap().contains("was removed")),
        "{:#?}",
        downloads()
    );
    velero.ends("restore", "lost", "PartiallyFailed");
    drop((policy, velero));
    scene.leaves_nothing();
}

/// Nothing of the first cluster is left but the bucket, and whoever restores knows the password.
#[test]
fn another_cluster_needs_the_bucket_and_the_password() {
    let scene = Scene::alone("elsewhere");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), random(3 << 20, 4)).unwrap();
    let velero = Velero::start(cluster());
    velero.back_up("carried", "elsewhere", &[]);
    velero.ends("backup", "carried", "Completed");
    velero.forget_cluster();
    cluster().kubectl().ok(&["delete", "namespace", "elsewhere", "--timeout", "100s"]);
    cluster().uninstall();
    cluster().kubectl().ok(&["delete", "erepo", "velero-default"]);
    cluster().install_as("second");
    velero.restart();
    wait_for("what is in the bucket to be found", || velero.is_there("backup", "carried"));
    velero.restore("there", "carried", &[]);
    velero.ends("restore", "there", "Completed");
    assert_eq!(std::fs::read(scene.volume("data").join("data/file")).unwrap(), random(3 << 20, 4));
    // It stores beside the first, and what they have in common once.
    velero.back_up("back", "elsewhere", &[]);
    velero.ends("backup", "back", "Completed");
    let upload = velero.transfers("dataupload", "backup-name=back").remove(0);
    assert!(upload["status"]["incrementalBytes"].as_u64().unwrap() < 10_000, "{upload:#}");
    let hosts: Vec<_> = velero.stored("back").into_iter().map(|snapshot| snapshot["hostname"].clone()).collect();
    assert_eq!(hosts, ["second"]);
    drop(velero);
    cluster().install();
    scene.leaves_nothing();
}

/// What this project began with: many volumes, one mover at a time, and nobody fails for having to wait.
#[test]
fn ten_claims_wait_for_one_mover() {
    let scene = Scene::alone("queue");
    let velero = Velero::start(cluster());
    for i in 0..10 {
        let volume = scene.claim(&format!("data-{i}"), "test", "Filesystem");
        std::fs::write(volume.join("data/file"), random(1 << 20, i)).unwrap();
    }
    let closed = scene.cluster.cordon("node-b");
    let policy = scene.cluster.policy(&json!({"moversPerNode": 0}));
    let watch = scene.cluster.watch_movers();
    velero.back_up("ten", "queue", &[]);
    velero.reaches("backup", "ten", "WaitingForPluginOperations");
    let uploads = || velero.transfers("dataupload", "backup-name=ten");
    let all = |phase: &str| uploads().iter().filter(|upload| upload["status"]["phase"] == phase).count() == 10;
    wait_for("ten that wait", || all("Prepared"));
    let says_why = |upload: &serde_json::Value| upload["status"]["message"].as_str().unwrap().contains("has no slots by policy");
    assert!(uploads().iter().all(says_why), "{:#?}", uploads());
    // The application's namespace is clean while they wait, and a server that is new knows them.
    assert!(cluster().list(&["volumesnapshots", "--namespace", "queue"]).is_empty());
    velero.restart();
    assert!(all("Prepared") && watch.events().is_empty(), "{:#?}", uploads());
    policy.change(&json!({"moversPerNode": 1}));
    velero.ends("backup", "ten", "Completed");
    let mut there = std::collections::BTreeSet::new();
    let mut movers = 0;
    for (_, kind, pod) in watch.events() {
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        if kind == "DELETED" {
            there.remove(&uid);
        } else if there.insert(uid) {
            movers += 1;
        }
        assert!(there.len() <= 1, "more movers than slots");
    }
    assert_eq!(movers, 10, "one each: none failed");
    drop((watch, policy, closed, velero));
    scene.leaves_nothing();
}

/// A server that ends while it backs up gives up what it asked for; one that waits for too long does so, too. Nothing is left.
#[test]
fn what_velero_gives_up_ends_and_leaves_nothing() {
    let scene = Scene::alone("given-up");
    let velero = Velero::start(cluster());
    for i in 0..6 {
        let volume = scene.claim(&format!("data-{i}"), "test", "Filesystem");
        std::fs::write(volume.join("data/file"), random(1 << 20, i)).unwrap();
    }
    let policy = scene.cluster.policy(&json!({"moversPerNode": 0}));
    let uploads = |backup: &str| velero.transfers("dataupload", &format!("backup-name={backup}"));
    let are_canceled = |backup: &str| {
        wait_for("the end of all", || uploads(backup).iter().all(|upload| upload["status"]["phase"] == "Canceled"));
        let run =
            |upload: &serde_json::Value| cluster().get(&["vb", upload["metadata"]["name"].as_str().unwrap(), "--namespace", "velero"]);
        wait_for("nothing to be left", || uploads(backup).iter().all(|upload| run(upload)["status"]["cleaned"] == true));
    };
    // One after another it takes snapshots; the driver stops in the middle.
    velero.back_up("restarted", "given-up", &[]);
    wait_for("the first of them", || !uploads("restarted").is_empty());
    let fault = scene.cluster.fault("CreateSnapshot", &json!({"seconds": 3600}));
    assert_eq!(velero.get("backup", "restarted")["status"]["phase"], "InProgress");
    wait_for("a run", || uploads("restarted").iter().any(|upload| upload["status"]["phase"] == "Prepared"));
    velero.restart();
    velero.ends("backup", "restarted", "Failed");
    drop(fault);
    are_canceled("restarted");
    // Who waits is warned in time.
    velero.back_up("late", "given-up", &["--item-operation-timeout", "40s"]);
    wait_for("a warning", || {
        let warned =
            |upload: &serde_json::Value| upload["status"]["message"].as_str().is_some_and(|said| said.contains("Velero gives up at"));
        uploads("late").iter().any(warned)
    });
    velero.ends("backup", "late", "PartiallyFailed");
    are_canceled("late");
    drop((policy, velero));
    scene.leaves_nothing();
}
