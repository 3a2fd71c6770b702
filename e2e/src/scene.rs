//! A namespace of the cluster with a repository of its own, for one test; and who plays beside whom.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, NAMESPACE, PATIENCE, cluster, note, wait_for};
use crate::program::{Program, mover, restic};

/// Where MinIO listens.
const MINIO: &str = "http://10.244.0.1:19000";

/// Who plays: one scene that changes what all share, or any number that do not.
static STAGE: RwLock<()> = RwLock::new(());
/// The scenes that share the stage, and what was there before the first of them.
static TROUPE: Mutex<(usize, BTreeSet<String>)> = Mutex::new((0, BTreeSet::new()));

#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
enum Stage {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A namespace with a repository of its own, for one test.
#[derive(Debug)]
pub struct Scene {
    /// Where it plays.
    pub cluster: &'static Cluster,
    /// The namespace, and the name of the repository.
    pub name: String,
    started: Instant,
    is_over: Cell<bool>,
    /// Given back last.
    _stage: Stage,
}

impl Scene {
    /// One that may change what all share: policies, faults, nodes, controllers. Nothing else plays meanwhile.
    pub fn alone(name: &str) -> Self {
        Self::on(Stage::Alone(STAGE.write().unwrap_or_else(PoisonError::into_inner)), name)
    }

    /// One that keeps to its namespace and its repository.
    pub fn beside_others(name: &str) -> Self {
        Self::on(Stage::Shared(STAGE.read().unwrap_or_else(PoisonError::into_inner)), name)
    }

    fn on(stage: Stage, name: &str) -> Self {
        let cluster = cluster();
        let mut troupe = TROUPE.lock().unwrap_or_else(PoisonError::into_inner);
        if troupe.0 == 0 {
            troupe.1 = cluster.inventory();
        }
        troupe.0 += 1;
        drop(troupe);
        // From here on it takes itself off the stage, whatever fails.
        let scene = Self { cluster, name: name.to_owned(), started: Instant::now(), is_over: Cell::new(false), _stage: stage };
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        scene.repository(&json!({}));
        scene
    }

    /// Writes the repository, with changes to its spec.
    pub fn repository(&self, changes: &Value) {
        let mut spec = json!({"s3": {"bucket": "estiba", "prefix": self.name, "endpoint": MINIO}, "secret": "minio", "namespaces": {"names": [self.name]}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.cluster
            .apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "Repository", "metadata": {"name": self.name}, "spec": spec}));
    }

    /// A claim, bound, and the folder of its volume.
    pub fn claim(&self, name: &str, class: &str, mode: &str) -> PathBuf {
        let annotations = if class == "test" { json!({}) } else { json!({"volume.kubernetes.io/selected-node": "node-b"}) };
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": self.name, "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeMode": mode, "resources": {"requests": {"storage": "64Mi"}}}}));
        self.volume(name)
    }

    /// The folder of a claim's volume, once it is bound.
    pub fn volume(&self, name: &str) -> PathBuf {
        let mut claim = Value::Null;
        wait_for(&format!("claim {name} to be bound"), || {
            claim = self.cluster.get(&["pvc", name, "--namespace", &self.name]);
            claim["status"]["phase"] == "Bound"
        });
        let volume = self.cluster.get(&["pv", claim["spec"]["volumeName"].as_str().unwrap()]);
        self.cluster.state.join("volumes/volumes").join(volume["spec"]["csi"]["volumeHandle"].as_str().unwrap())
    }

    /// A claim that waits for a restore; the answer is its folder, once it is filled, by [`Scene::volume`].
    pub fn waiting_claim(&self, name: &str, restore: &str, class: &str, changes: &Value) {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "64Mi"}},
            "dataSourceRef": {"apiGroup": "estiba.dev", "kind": "VolumeRestore", "name": restore}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.cluster.apply(
            &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": self.name}, "spec": spec}),
        );
    }

    /// A run that fills a claim from what was stored of another.
    pub fn restore(&self, name: &str, claim: &str, source: &Value) {
        self.cluster.apply(
            &json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeRestore", "metadata": {"name": name, "namespace": self.name},
            "spec": {"repository": self.name, "source": source, "claim": claim}}),
        );
    }

    /// Asks a run to stop.
    pub fn cancel(&self, run: &str) {
        self.patch(run, &json!({"spec": {"cancel": true}}));
    }

    /// Changes a run, or another object of this namespace, as `KIND/NAME`.
    pub fn patch(&self, object: &str, patch: &Value) {
        let object = named(object);
        self.cluster.kubectl().ok(&["patch", &object, "--namespace", &self.name, "--type", "merge", "--patch", &patch.to_string()]);
    }

    /// The repository's snapshots, as stock restic lists them.
    pub fn stored(&self) -> Vec<Value> {
        serde_json::from_str(&self.restic().ok(&["snapshots", "--json"]).stdout).unwrap()
    }

    /// `kubectl estiba` in this namespace; it must succeed.
    pub fn estiba(&self, args: &[&str]) -> String {
        let ran = self.cluster.plugin(&[args, &["--namespace", &self.name]].concat());
        assert!(ran.code == 0, "{ran:?}");
        ran.stdout
    }

    /// A run that backs a claim up.
    pub fn backup(&self, name: &str, claim: &str) {
        self.backup_with(name, &json!({"source": {"claim": claim}}));
    }

    /// A run with changes to its spec.
    pub fn backup_with(&self, name: &str, changes: &Value) {
        let mut spec = json!({"repository": self.name});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.cluster.apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "VolumeBackup",
            "metadata": {"name": name, "namespace": self.name}, "spec": spec}));
    }

    /// A run: a VolumeBackup by its name, another kind as `volumerestore/NAME`.
    pub fn run(&self, name: &str) -> Value {
        self.cluster.get(&[&named(name), "--namespace", &self.name])
    }

    /// What is known of a run.
    pub fn status(&self, name: &str) -> Value {
        self.run(name)["status"].clone()
    }

    /// Waits until that is so of a run.
    pub fn wait(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name);
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{name}: {what} did not happen: {status:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a run has ended as it should.
    pub fn ends(&self, name: &str, phase: &str) -> Value {
        let is_end = |status: &Value| ["Completed", "Failed", "Canceled"].iter().any(|end| status["phase"] == *end);
        let status = self.wait(name, "its end", |status| is_end(status) && status["cleaned"] == true);
        assert!(status["phase"] == phase, "{name}: {status:#}");
        status
    }

    /// Waits until a run says this reason, with these words.
    pub fn says(&self, name: &str, reason: &str, words: &str) {
        self.wait(name, &format!("{reason}: {words}"), |status| {
            status["reason"] == reason && status["message"].as_str().is_some_and(|message| message.contains(words))
        });
    }

    /// The pod in which a run's mover works, once it does.
    pub fn mover_pod(&self, name: &str) -> Value {
        self.wait(name, "its mover at work", |status| status["phase"] == "InProgress");
        let uid = self.run(name)["metadata"]["uid"].as_str().unwrap().to_owned();
        self.cluster.list(&["pods", "--namespace", NAMESPACE, "--selector", &format!("estiba.dev/run={uid}")]).remove(0)
    }

    /// Stock restic on the repository.
    pub fn restic(&self) -> Program {
        keys(restic("restic-new", format!("s3:{MINIO}/estiba/{}", self.name)))
    }

    /// `mover` on the repository.
    pub fn mover(&self) -> Program {
        keys(mover(format!("s3:{MINIO}/estiba/{}", self.name)))
    }

    /// Ends the scene. What the cluster held before the first of those that played together, it holds after the last, and
    /// nothing else.
    pub fn leaves_nothing(self) {
        let ended = Instant::now();
        let left = self.clear();
        note(&format!("{} took {:.0?}, {:.0?} of it to clean up", self.name, self.started.elapsed(), ended.elapsed()));
        assert!(left.is_empty(), "left behind, or taken away: {left:#?}");
    }

    fn clear(&self) -> Vec<String> {
        self.is_over.set(true);
        // Namespaces wait for seconds before they begin to go: nobody needs to watch that.
        for kind in ["backupschedules", "volumebackups", "volumerestores", "repositoryqueries"] {
            let all = format!("/apis/estiba.dev/v1alpha1/namespaces/{}/{kind}", self.name);
            let _ = self.cluster.kubectl().run(&["delete", "--raw", &all]);
        }
        let all = ["delete", "pods,pvc", "--all", "--namespace", &self.name, "--timeout", "100s"];
        let _ = self.cluster.kubectl().run(&all);
        let _ = self.cluster.kubectl().run(&["delete", "namespace", &self.name, "--ignore-not-found", "--wait=false"]);
        let _ = self.cluster.kubectl().run(&["delete", "repository", &self.name, "--ignore-not-found"]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut troupe = TROUPE.lock().unwrap_or_else(PoisonError::into_inner);
            if troupe.0 > 1 {
                // The last one looks.
                troupe.0 -= 1;
                return Vec::new();
            }
            let now = self.cluster.inventory();
            let left: Vec<_> = now.symmetric_difference(&troupe.1).cloned().collect();
            if left.is_empty() || Instant::now() > deadline {
                troupe.0 -= 1;
                return left;
            }
            drop(troupe);
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A test that fails does not spoil the next one.
        if std::thread::panicking() && !self.is_over.get() {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.clear()));
        }
    }
}

/// A VolumeBackup goes by its name alone.
fn named(object: &str) -> String {
    if object.contains('/') { object.to_owned() } else { format!("volumebackup/{object}") }
}

fn keys(program: Program) -> Program {
    program.env("AWS_ACCESS_KEY_ID", "estiba-test").env("AWS_SECRET_ACCESS_KEY", "estiba-secret")
}
