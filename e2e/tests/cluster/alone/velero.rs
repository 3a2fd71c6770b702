//! With Velero's own server, command line and plugin for S3: what its users type, and what they get.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use e2e::cluster::{cluster, wait_for};
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
    let listed: Vec<serde_json::Value> = serde_json::from_str(&velero.restic().ok(&["snapshots", "--json"]).stdout).unwrap();
    let mut paths: Vec<_> = listed.iter().map(|snapshot| snapshot["paths"][0].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/moved/device", "/moved/files", "/moved/late"]);
    assert!(listed.iter().all(|snapshot| snapshot["tags"].as_array().unwrap().contains(&json!("velero-backup=first"))), "{listed:#?}");

    cluster().kubectl().ok(&["delete", "namespace", "moved", "--timeout", "100s"]);
    velero.restore("again", "first", &[]);
    velero.ends("restore", "again", "Completed");
    assert_same(&before.path().join("files"), &scene.volume("files").join("data"));
    assert_eq!(std::fs::read(scene.volume("late").join("data/file")).unwrap(), random(3 << 20, 2));
    assert_eq!(std::fs::read(scene.volume("device").join("disk.img")).unwrap(), stored);
    let downloads = velero.transfers("datadownload", "restore-name=again");
    assert!(downloads.len() == 3 && downloads.iter().all(|download| download["status"]["phase"] == "Completed"), "{downloads:#?}");
    assert!(velero.ok(&["restore", "describe", "again", "--details"]).stdout.contains("Phase:  Completed"));
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
    drop(velero);
    scene.leaves_nothing();
}
