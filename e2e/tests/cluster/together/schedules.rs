//! Schedules, the examples of the documentation, and what tenants may not do.

use std::path::Path;

use e2e::cluster::{NAMESPACE, cluster, wait_for};
use e2e::scene::Scene;
use e2e::tree::{assert_same, difficult, random};
use serde_json::json;

/// The endpoint is the only thing that is changed.
fn example(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name);
    let text = std::fs::read_to_string(path).unwrap().replace("https://s3.example", "http://10.244.0.1:19000");
    let ran = cluster().kubectl().run_with_input(&["apply", "-f", "-"], text.as_bytes());
    assert!(ran.code == 0, "{ran:?}");
}

#[test]
fn the_examples_do_what_they_say() {
    let scene = Scene::beside_others("shop");
    let volume = scene.claim("data", "test", "Filesystem");
    difficult(&volume.join("data"));
    cluster().kubectl().ok(&["label", "pvc", "data", "backup=nightly", "--namespace", "shop"]);
    for name in ["repository.yaml", "backup.yaml", "schedule.yaml"] {
        example(name);
    }
    scene.ends("before-the-upgrade", "Completed");
    example("restore.yaml");
    scene.ends("volumerestore/data-restored", "Completed");
    assert_same(&volume.join("data"), &scene.volume("data-restored").join("data"));
    // Every night is not now.
    let runs = || cluster().list(&["vb", "--namespace", "shop", "--selector", "estiba.dev/schedule"]);
    let schedule = || cluster().get(&["bs", "nightly", "--namespace", "shop"])["status"].clone();
    wait_for("the schedule to be read", || schedule()["count"] == 1);
    assert!(runs().is_empty() && schedule()["next"].is_string(), "{}", schedule());
    assert!(scene.estiba(&["run", "nightly"]).contains("runs now"));
    wait_for("a run of the schedule", || runs().len() == 1);
    let run = runs()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    scene.ends(&run, "Completed");
    wait_for("its result in the schedule", || schedule()["claims"][0]["stored"].is_string());
    // Velero leaves runs alone.
    assert_eq!(scene.run(&run)["metadata"]["labels"]["velero.io/exclude-from-backup"], "true");
    // Each minute, those claims that fit; the schedule takes its runs with it.
    let other = scene.claim("other", "test", "Filesystem");
    std::fs::write(other.join("data/file"), random(1 << 20, 1)).unwrap();
    cluster().kubectl().ok(&["label", "pvc", "other", "often=yes", "--namespace", "shop"]);
    cluster()
        .apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "BackupSchedule", "metadata": {"name": "often", "namespace": "shop"},
        "spec": {"schedule": "* * * * *", "repository": "main", "claims": {"matchLabels": {"often": "yes"}}}}));
    let is_stored = || cluster().get(&["bs", "often", "--namespace", "shop"])["status"]["claims"][0]["stored"].is_string();
    wait_for("a run of its own accord", || runs().iter().any(|run| run["metadata"]["name"].as_str().unwrap().starts_with("often")));
    wait_for("what it stored", is_stored);
    cluster().kubectl().ok(&["delete", "bs", "often", "--namespace", "shop", "--timeout", "60s"]);
    wait_for("its runs to go with it", || !runs().iter().any(|run| run["metadata"]["name"].as_str().unwrap().starts_with("often")));
    let unreadable = json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "BackupSchedule", "metadata": {"name": "wrong", "namespace": "shop"},
        "spec": {"schedule": "0 25 * * *", "repository": "main"}});
    cluster().apply(&unreadable);
    wait_for("the reason", || {
        cluster().get(&["bs", "wrong", "--namespace", "shop"])["status"]["message"]
            .as_str()
            .is_some_and(|message| message.contains("cannot be read"))
    });
    cluster().kubectl().ok(&["delete", "erepo", "main"]);
    cluster().kubectl().ok(&["delete", "secret", "backups", "--namespace", NAMESPACE]);
    scene.leaves_nothing();
}

#[test]
fn tenants_do_what_is_theirs_and_nothing_else() {
    let scene = Scene::beside_others("tenant");
    let volume = scene.claim("data", "test", "Filesystem");
    std::fs::write(volume.join("data/file"), b"theirs").unwrap();
    cluster().kubectl().ok(&["create", "rolebinding", "edit", "--clusterrole", "edit", "--user", "ann", "--namespace", "tenant"]);
    let may = |what: &[&str]| cluster().kubectl().run(&[&["auth", "can-i", "--as", "ann"], what].concat()).stdout.trim() == "yes";
    wait_for("the rights of edit", || may(&["create", "volumebackups.estiba.dev", "--namespace", "tenant"]));
    for right in [
        "create volumerestores.estiba.dev",
        "delete volumebackups.estiba.dev",
        "patch backupschedules.estiba.dev",
        "get volumebackups.estiba.dev",
    ] {
        assert!(may(&[&right.split(' ').collect::<Vec<_>>()[..], &["--namespace", "tenant"]].concat()), "{right}");
    }
    for right in [
        "create volumebackups.estiba.dev --namespace default",
        "patch volumebackups.estiba.dev --subresource status --namespace tenant",
        "patch volumerestores.estiba.dev --subresource status --namespace tenant",
        "create repositories.estiba.dev",
        "patch moverpolicies.estiba.dev",
        "get secrets --namespace estiba",
        "create pods --namespace estiba",
        "create pods --subresource exec --namespace estiba",
        "get pods --subresource log --namespace estiba",
        "patch persistentvolumes",
    ] {
        assert!(!may(&right.split(' ').collect::<Vec<_>>()), "{right}");
    }
    // Names that would lead elsewhere are no names.
    for (source, words) in [
        (json!({"claim": "../other/data"}), "claim"),
        (json!({"claim": "data", "namespace": "../other"}), "namespace"),
        (json!({"claim": "data", "snapshot": "latest"}), "snapshot"),
        (json!({"claim": "data", "snapshot": "0123456:/other"}), "snapshot"),
        (json!({"claim": "data", "cluster": "--verbose"}), "cluster"),
        (json!({"backup": "a", "claim": "data"}), "not both"),
        (json!({"backup": "a", "before": "2026-11-20T12:00:00Z"}), "go with a claim"),
    ] {
        let ran = cluster().try_apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeRestore",
            "metadata": {"name": "r", "namespace": "tenant"}, "spec": {"repository": "tenant", "claim": "c", "source": source}}));
        assert!(ran.code != 0 && ran.stderr.contains(words), "{source}: {ran:?}");
    }
    // With nothing but these rights, there and back again.
    let backup = |args: &[&str]| {
        let ran = cluster().plugin(&[args, &["--namespace", "tenant", "--as", "ann"]].concat());
        assert!(ran.code == 0, "{ran:?}");
    };
    backup(&["backup", "data", "--repository", "tenant"]);
    backup(&["restore", "data", "--to", "again", "--repository", "tenant"]);
    assert_eq!(std::fs::read(scene.volume("again").join("data/file")).unwrap(), b"theirs");
    // And see what is theirs alone.
    backup(&["ls", "data", "/file", "--repository", "tenant"]);
    let others = |args: &[&str]| {
        let ran = cluster().plugin(&[args, &["--repository", "tenant", "--namespace", "tenant", "--as", "ann"]].concat());
        assert!(ran.code != 0 && ran.stderr.contains("does not let"), "{ran:?}");
    };
    others(&["ls", "data", "--from-namespace", "default"]);
    others(&["list", "--from-namespace", "default"]);
    others(&["list", "data", "--from-cluster", "another"]);
    // A question that nobody waits for leaves nothing, whenever it is taken back.
    for wait in [0, 1, 3] {
        cluster().apply(
            &json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "RepositoryQuery", "metadata": {"name": "idle", "namespace": "tenant"},
            "spec": {"repository": "tenant", "source": {"claim": "data"}, "files": {}}}),
        );
        std::thread::sleep(std::time::Duration::from_secs(wait));
        cluster().kubectl().ok(&["delete", "rq", "idle", "--namespace", "tenant", "--timeout", "60s"]);
    }
    scene.leaves_nothing();
}
