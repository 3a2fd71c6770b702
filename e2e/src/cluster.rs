//! The running cluster of `e2e/cluster/cluster.sh`, with the chart installed; what all scenes share.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{PASSWORD, Program, Ran, Running, built, tool};

/// Estiba's namespace.
pub const NAMESPACE: &str = "estiba";
/// Nothing here takes longer.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster, with the chart installed.
#[derive(Debug)]
pub struct Cluster {
    /// Its folder.
    pub state: PathBuf,
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
        self.install_as("");
    }

    /// The same, in a cluster of another name.
    pub fn install_as(&self, name: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}));
        self.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "minio", "namespace": NAMESPACE}, "stringData": {
            "password": PASSWORD, "AWS_ACCESS_KEY_ID": "estiba-test", "AWS_SECRET_ACCESS_KEY": "estiba-secret"}}));
        self.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "estiba-velero", "namespace": NAMESPACE},
            "stringData": {"password": PASSWORD}}));
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/estiba");
        let named = format!("clusterName={name}");
        let values = ["--set", &named, "--set", "image.tag=dev,image.pullPolicy=Never,clones=true,velero.namespace=velero"];
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
        let kinds = "pods,secrets,persistentvolumeclaims,volumesnapshots.snapshot.storage.k8s.io,\
            volumebackups.estiba.dev,volumerestores.estiba.dev,backupschedules.estiba.dev,repositoryqueries.estiba.dev";
        let in_namespaces = self.list(&[kinds, "--all-namespaces"]);
        let others = self.list(&["persistentvolumes,volumesnapshotcontents.snapshot.storage.k8s.io,volumeattachments"]);
        let names = in_namespaces.iter().chain(&others).filter_map(|item| {
            let name = item["metadata"]["name"].as_str().unwrap();
            // The controllers' own pods come and go, and helm's records of what it installed.
            let is_left = !["estiba-controller", "sh.helm.release"].iter().any(|prefix| name.starts_with(prefix));
            is_left.then(|| format!("{} {}/{name}", item["kind"], item["metadata"]["namespace"]))
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
        // Read at any moment: there as a whole, or not.
        let part = self.state.join("volumes").join(format!("{operation}.part"));
        std::fs::write(&part, fault.to_string()).unwrap();
        std::fs::rename(&part, &path).unwrap();
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

/// How many controllers of the chart run; none, where others take their place.
pub fn scale(replicas: &str) {
    cluster().kubectl().ok(&["scale", "deployment/estiba-controller", "--namespace", NAMESPACE, "--replicas", replicas]);
    cluster().kubectl().ok(&["rollout", "status", "deployment/estiba-controller", "--namespace", NAMESPACE, "--timeout", "60s"]);
    let pods = || cluster().list(&["pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=estiba-controller"]);
    wait_for("as many controllers", || pods().len().to_string() == replicas);
}

/// Waits for something in the cluster.
pub fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    crate::within(PATIENCE, Duration::from_millis(200), what, is_so);
}

/// All controllers are killed, at once and without a word.
pub fn kill_controllers() {
    let controllers = ["--selector", "app.kubernetes.io/name=estiba-controller", "--force", "--grace-period", "0"];
    cluster().kubectl().ok(&[&["delete", "pods", "--namespace", NAMESPACE], &controllers[..]].concat());
}

/// Whether no mover is left that was not told to end.
pub fn movers_are_told_to_end() -> bool {
    let pods = cluster().list(&["pods", "--namespace", NAMESPACE, "--selector", "estiba.dev/run"]);
    pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_string())
}

/// Tells how long something took, for the log of a run.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "note: {text}");
}
