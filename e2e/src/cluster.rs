//! The running cluster of `e2e/cluster/cluster.sh`, with the chart installed; and a scene for one test in it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{PASSWORD, Program, Ran, Running, built, mover, restic, tool};

/// Estiba's namespace.
pub const NAMESPACE: &str = "estiba";
/// Where MinIO listens.
const MINIO: &str = "http://10.244.0.1:19000";
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster, with the chart installed.
#[derive(Debug)]
pub struct Cluster {
    state: PathBuf,
}

/// The one that runs. The first call installs the chart.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let state = std::env::var("ESTIBA_CLUSTER").unwrap_or_else(|_| "/var/tmp/estiba-cluster".to_owned()).into();
        let cluster = Cluster { state };
        assert!(cluster.state.join("kubeconfig").exists(), "no cluster runs: make cluster starts one");
        cluster.install();
        cluster
    })
}

impl Cluster {
    /// Removes the chart, and nothing else.
    pub fn uninstall(&self) {
        self.helm().ok(&["uninstall", "estiba", "--namespace", NAMESPACE, "--wait", "--timeout", "90s"]);
    }

    fn helm(&self) -> Program {
        Program::new(tool("helm")).env("KUBECONFIG", self.kubeconfig()).env("HOME", "/tmp")
    }

    /// Installs the chart, or brings it up to date.
    pub fn install(&self) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}));
        self.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "minio", "namespace": NAMESPACE}, "stringData": {
            "password": PASSWORD, "AWS_ACCESS_KEY_ID": "estiba-test", "AWS_SECRET_ACCESS_KEY": "estiba-secret"}}));
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/estiba");
        let values = ["--set", "image.tag=dev,image.pullPolicy=Never,clones=true"];
        self.helm().ok(&[
            &["upgrade", "--install", "estiba", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--wait", "--timeout", "90s"],
            &values[..],
        ]
        .concat());
    }

    fn kubeconfig(&self) -> String {
        self.state.join("kubeconfig").to_str().unwrap().to_owned()
    }

    /// kubectl, as an administrator.
    pub fn kubectl(&self) -> Program {
        Program::new(tool("kubectl")).env("KUBECONFIG", self.kubeconfig())
    }

    /// `kubectl estiba`, found by kubectl as a plugin.
    pub fn plugin(&self, args: &[&str]) -> Ran {
        let path = format!("{}:{}", built("").display(), std::env::var("PATH").unwrap());
        self.kubectl().env("PATH", path).run(&[&["estiba"], args].concat())
    }

    /// A controller beside those of the chart, on this machine, until the answer is dropped.
    pub fn controller(&self, identity: &str, args: &[&str]) -> Running {
        let mut image = vec!["--image-pull-policy", "Never"];
        if !args.contains(&"--image") {
            image.extend(["--image", "localhost/estiba:dev"]);
        }
        Program::new(built("estiba-controller"))
            .env("KUBECONFIG", self.kubeconfig())
            .start_unheard(&[&["run", "--namespace", NAMESPACE, "--identity", identity], &image[..], args].concat())
    }

    /// The script that made it.
    pub fn script(&self, args: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh");
        assert!(Command::new(script).args(args).stdout(Stdio::null()).status().unwrap().success(), "cluster.sh {args:?}");
    }

    /// Applies an object.
    pub fn apply(&self, object: &Value) {
        let ran = self.try_apply(object);
        assert!(ran.code == 0, "{ran:?}\n{object}");
    }

    /// Applies an object that may be refused.
    pub fn try_apply(&self, object: &Value) -> Ran {
        self.kubectl().run_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], object.to_string().as_bytes())
    }

    /// What `kubectl get` answers.
    pub fn get(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl().ok(&[&["get", "-o", "json"], args].concat()).stdout).unwrap()
    }

    /// The items of a list.
    pub fn list(&self, args: &[&str]) -> Vec<Value> {
        self.get(args)["items"].as_array().unwrap().clone()
    }

    /// Everything that a run could leave behind: objects, volumes, snapshots.
    pub fn inventory(&self) -> BTreeSet<String> {
        let kinds = "pods,secrets,persistentvolumeclaims,volumesnapshots.snapshot.storage.k8s.io";
        let in_namespaces = self.list(&[kinds, "--all-namespaces"]);
        let others = self.list(&["persistentvolumes,volumesnapshotcontents.snapshot.storage.k8s.io,volumeattachments"]);
        let names = in_namespaces.iter().chain(&others).filter_map(|item| {
            let name = item["metadata"]["name"].as_str().unwrap();
            // The controllers' own pods come and go.
            (!name.starts_with("estiba-controller")).then(|| format!("{} {}/{name}", item["kind"], item["metadata"]["namespace"]))
        });
        let on_disk = ["volumes", "snapshots"].into_iter().flat_map(|folder| {
            std::fs::read_dir(self.state.join("volumes").join(folder))
                .unwrap()
                .map(move |entry| format!("{folder} {:?}", entry.unwrap().file_name()))
        });
        names.chain(on_disk).collect()
    }

    /// Makes an operation of the CSI driver slow, or lets it fail, until the answer is dropped.
    pub fn fault(&self, operation: &str, fault: &Value) -> DriverFault {
        let path = self.state.join("volumes/faults").join(operation);
        std::fs::write(&path, fault.to_string()).unwrap();
        DriverFault(path)
    }

    /// Sets the policy; back to the default when dropped.
    pub fn policy(&self, spec: &Value) -> Policy {
        let policy = Policy;
        policy.change(spec);
        policy
    }

    /// The node is closed to movers until the answer is dropped.
    pub fn cordon(&'static self, node: &'static str) -> Cordon {
        self.kubectl().ok(&["cordon", node]);
        Cordon { cluster: self, node }
    }

    /// Watches mover pods from now on: whatever happens to them after this was called is told.
    pub fn watch_movers(&self) -> Watch {
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=estiba.dev/run");
        let now: Value = serde_json::from_str(&self.kubectl().ok(&["get", "--raw", &pods]).stdout).unwrap();
        let since = now["metadata"]["resourceVersion"].as_str().unwrap();
        let args = ["get", "--raw", &format!("{pods}&watch=1&resourceVersion={since}")];
        let mut child = self.kubectl().command(&args).stderr(Stdio::null()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let events: Arc<Mutex<Vec<(Instant, Value)>>> = Arc::default();
        let into = events.clone();
        std::thread::spawn(move || {
            for event in serde_json::Deserializer::from_reader(std::io::BufReader::new(out)).into_iter::<Value>().map_while(Result::ok) {
                into.lock().unwrap().push((Instant::now(), event));
            }
        });
        Watch { child, events }
    }
}

/// A fault of the driver.
#[derive(Debug)]
pub struct DriverFault(PathBuf);

impl Drop for DriverFault {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A policy that is not the default.
#[derive(Debug)]
pub struct Policy;

impl Policy {
    /// Another one in its place.
    pub fn change(&self, spec: &Value) {
        cluster()
            .apply(&json!({"apiVersion": "estiba.dev/v1alpha1", "kind": "MoverPolicy", "metadata": {"name": "default"}, "spec": spec}));
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = cluster().kubectl().run(&["delete", "moverpolicy", "default", "--ignore-not-found"]);
    }
}

/// A node that takes no pods.
#[derive(Debug)]
pub struct Cordon {
    cluster: &'static Cluster,
    node: &'static str,
}

impl Drop for Cordon {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl().run(&["uncordon", self.node]);
    }
}

/// What happened to mover pods, in the order the API server tells it.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    events: Arc<Mutex<Vec<(Instant, Value)>>>,
}

impl Watch {
    /// All of it so far: when it was told, what, and the pod.
    pub fn events(&self) -> Vec<(Instant, String, Value)> {
        let events = self.events.lock().unwrap();
        events.iter().map(|(at, event)| (*at, event["type"].as_str().unwrap().to_owned(), event["object"].clone())).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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

/// How many controllers of the chart run; none, where others take their place.
pub fn scale(replicas: &str) {
    cluster().kubectl().ok(&["scale", "deployment/estiba-controller", "--namespace", NAMESPACE, "--replicas", replicas]);
    cluster().kubectl().ok(&["rollout", "status", "deployment/estiba-controller", "--namespace", NAMESPACE, "--timeout", "60s"]);
    let pods = || cluster().list(&["pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=estiba-controller"]);
    wait_for("as many controllers", || pods().len().to_string() == replicas);
}

/// Waits for a condition.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tells how long something took, for the log of a run.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "note: {text}");
}
