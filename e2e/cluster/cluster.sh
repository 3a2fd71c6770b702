#!/usr/bin/env bash
# A whole Kubernetes of two nodes on one machine, without a container engine: etcd, the control plane, two containerds
# with a kubelet each, our CSI driver with its sidecars, and MinIO. As root.
#
#   cluster.sh up     starts what does not run; prints how to use it
#   cluster.sh down   ends everything and leaves nothing behind
#   cluster.sh image TAR...   makes an image known to both nodes
#   cluster.sh velero-start | velero-stop          Velero's server, on this machine, with its plugin for S3
#   cluster.sh node-kill NODE | node-start NODE    a node that is lost, with all its containers; and comes back
#
# Everything lies in one folder, $ESTIBA_CLUSTER; processes are ended by the ids written there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
STATE=${ESTIBA_CLUSTER:-/var/tmp/estiba-cluster}
RUN=/run/estiba-cluster
BRIDGE=estiba0
NET=10.244.0
NODES=(node-a node-b)
DRIVER=csi.estiba.test
TOKEN=estiba-test-admin
say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# NAME COMMAND...: runs in the background, unless it runs already.
start() {
    local name=$1
    shift
    running "$name" && return
    setsid "$@" >>"$STATE/logs/$name.log" 2>&1 </dev/null &
    echo $! >"$STATE/pids/$name"
}
# The same for a sidecar, which ends when the driver does, and for a kubelet: started again, as a pod or a unit would be.
keep() {
    local name=$1
    shift
    start "$name" bash -c 'while :; do "$@"; sleep 1; done' keep "$@"
}
running() { [ -f "$STATE/pids/$1" ] && kill -0 "$(cat "$STATE/pids/$1")" 2>/dev/null; }
# NAME [SIGNAL]: ends it, and waits.
stop() {
    local file="$STATE/pids/$1" pid
    [ -f "$file" ] || return 0
    pid=$(cat "$file")
    # Each leads a group of its own.
    kill "-${2:-TERM}" -- "-$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
    rm -f "$file"
}
# SECONDS WHAT COMMAND...: waits until the command succeeds.
await() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            tail -n 5 "$STATE"/logs/*.log | cut -c1-300 >&2
            die "$what did not happen within $seconds s; the ends of all logs are above, the rest in $STATE/logs"
        fi
        sleep 0.2
    done
}
kubectl() { "$BIN/kubectl" --kubeconfig "$STATE/kubeconfig" "$@"; }
ctr_of() { ctr -a "$RUN/$1/containerd.sock" -n k8s.io "${@:2}"; }
ip_of() { case $1 in node-a) echo "$NET.1" ;; node-b) echo "$NET.2" ;; esac; }
offset_of() { case $1 in node-a) echo 0 ;; node-b) echo 1 ;; esac; }

network() {
    [ -f "$STATE/ip_forward" ] || cat /proc/sys/net/ipv4/ip_forward >"$STATE/ip_forward"
    echo 1 >/proc/sys/net/ipv4/ip_forward
    ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
    ip addr replace "$NET.1/24" dev "$BRIDGE"
    ip addr replace "$NET.2/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
}

control_plane() {
    [ -f "$STATE/sa.key" ] || openssl genrsa -out "$STATE/sa.key" 2048 2>/dev/null
    echo "$TOKEN,admin,admin,\"system:masters\"" >"$STATE/tokens.csv"
    start etcd "$BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:12379 \
        --advertise-client-urls http://127.0.0.1:12379 --listen-peer-urls http://127.0.0.1:12380 --log-level error
    start kube-apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:12379 --secure-port 16443 --bind-address 0.0.0.0 \
        --advertise-address "$NET.1" --service-cluster-ip-range 10.96.0.0/16 --authorization-mode RBAC --allow-privileged=true \
        --token-auth-file "$STATE/tokens.csv" --cert-dir "$STATE/apiserver" --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file "$STATE/sa.key" --service-account-signing-key-file "$STATE/sa.key" \
        --kubelet-preferred-address-types InternalIP
    await 60 "the API server's start" curl -sfk "https://127.0.0.1:16443/readyz"
    cat >"$STATE/kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: estiba
clusters: [{name: estiba, cluster: {server: "https://$NET.1:16443", certificate-authority: "$STATE/apiserver/apiserver.crt"}}]
users: [{name: admin, user: {token: $TOKEN}}]
contexts: [{name: estiba, context: {cluster: estiba, user: admin}}]
YAML
    start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$STATE/kubeconfig" --use-service-account-credentials \
        --service-account-private-key-file "$STATE/sa.key" --root-ca-file "$STATE/apiserver/apiserver.crt" --leader-elect=false \
        --node-monitor-grace-period=${NODE_GRACE:-20s} --node-monitor-period=2s --secure-port 10257
    start kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$STATE/kubeconfig" --leader-elect=false
    start kube-proxy "$BIN/kube-proxy" --kubeconfig "$STATE/kubeconfig" --proxy-mode iptables --cluster-cidr "$NET.0/24" \
        --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0s --conntrack-tcp-timeout-close-wait 0s \
        --hostname-override node-a --healthz-bind-address 127.0.0.1:10256
}

node_start() {
    local node=$1 ip offset folder
    ip=$(ip_of "$node") offset=$(offset_of "$node") folder="$STATE/$node"
    mkdir -p "$folder/cni" "$folder/kubelet" "$folder/pods" "$RUN/$node"
    for hierarchy in /sys/fs/cgroup/*/; do
        [ -e "$hierarchy/tasks" ] || continue
        mkdir -p "$hierarchy/estiba-$node"
        for file in cpuset.cpus cpuset.mems; do
            [ -e "$hierarchy/$file" ] && cat "$hierarchy/$file" >"$hierarchy/estiba-$node/$file"
        done
    done
    cat >"$folder/cni/10-estiba.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "estiba", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$STATE/cni-addresses", "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "$NET.0/24", "rangeStart": "$NET.20", "gateway": "$NET.1"}]]}},
  {"type": "loopback"}]}
JSON
    cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "$RUN/$node/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "$RUN/$node/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
    cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /estiba-$node
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://$RUN/$node/containerd.sock
port: $((10250 + offset * 100))
healthzPort: $((10248 + offset * 100))
readOnlyPort: 0
podLogsDir: $folder/pods
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 10s
nodeLeaseDurationSeconds: 10
syncFrequency: 10s
resolvConf: ""
YAML
    start "containerd-$node" containerd --config "$folder/containerd.toml"
    await 30 "containerd on $node" ctr_of "$node" version
    keep "kubelet-$node" "$BIN/kubelet" --config "$folder/kubelet.yaml" --kubeconfig "$STATE/kubeconfig" --root-dir "$folder/kubelet" \
        --hostname-override "$node" --node-ip "$ip"
}

# Everything of a node is killed, as when its power goes.
node_kill() {
    local node=$1
    stop "kubelet-$node" KILL
    stop "containerd-$node" KILL
    # Containers of the node are in its cgroups, shims name its socket.
    pkill -KILL -f "containerd-shim-runc-v2 .*-address $RUN/$node/containerd.sock" || true
    for hierarchy in /sys/fs/cgroup/pids/estiba-$node /sys/fs/cgroup/estiba-$node; do
        [ -d "$hierarchy" ] || continue
        find "$hierarchy" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
    done
}

pause_image() {
    local work="$STATE/pause"
    [ -f "$work/pause.tar" ] && return
    mkdir -p "$work/root"
    printf '#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { _exit(0); }\nint main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n' >"$work/pause.c"
    gcc -static -O1 -o "$work/root/pause" "$work/pause.c"
    "$root/charts/image.sh" localhost/pause:1 "$work/root" "$work/pause.tar" /pause
}

image() {
    local node
    for node in "${NODES[@]}"; do ctr_of "$node" images import "$1" >/dev/null; done
}

storage() {
    kubectl apply -f "$BIN/../snapshot-crds" >/dev/null
    kubectl apply -f "$here/storage.yaml" >/dev/null
    local nodes=()
    for node in "${NODES[@]}"; do nodes+=(--node "$node=$STATE/$node/kubelet"); done
    start csi-driver "$root/target/release/csi-driver" --state "$STATE/volumes" --endpoint "$RUN/csi.sock" "${nodes[@]}"
    await 20 "the CSI driver's start" test -S "$RUN/csi.sock"
    # Their own default, five requests a second, would be most of what the tests wait for.
    local common=(--kubeconfig "$STATE/kubeconfig" --leader-election=false --kube-api-qps 100 --kube-api-burst 200)
    local sidecar=(--csi-address "$RUN/csi.sock" "${common[@]}")
    # A volume is copied whole: what takes longer than their own patience would be begun again beside it.
    sidecar+=(--timeout 5m)
    keep csi-provisioner "$BIN/csi-provisioner" "${sidecar[@]}" --feature-gates Topology=true --extra-create-metadata --http-endpoint ""
    keep csi-attacher "$BIN/csi-attacher" "${sidecar[@]}"
    keep csi-snapshotter "$BIN/csi-snapshotter" "${sidecar[@]}" --extra-create-metadata
    start snapshot-controller "$BIN/snapshot-controller" "${common[@]}"
}

minio() {
    mkdir -p "$STATE/minio/estiba"
    MINIO_ROOT_USER=estiba-test MINIO_ROOT_PASSWORD=estiba-secret MINIO_BROWSER=off \
        start minio "$BIN/minio" server --quiet --address "$NET.1:19000" "$STATE/minio"
}

# Velero's kinds, and a place for its backups; its server runs only when it is asked for.
velero() {
    mkdir -p "$STATE/minio/velero" "$STATE/velero-plugins"
    kubectl apply --server-side -f "$BIN/../velero-crds.yaml" >/dev/null
    kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null
    kubectl apply -f "$here/velero.yaml" >/dev/null
    cp "$BIN/velero-plugin-for-aws" "$STATE/velero-plugins/"
}
velero_start() {
    kubectl --namespace velero get secret cloud-credentials -o 'go-template={{.data.cloud | base64decode}}' >"$STATE/velero-credentials"
    KUBECONFIG="$STATE/kubeconfig" HOME="$STATE" AWS_SHARED_CREDENTIALS_FILE="$STATE/velero-credentials" start velero "$BIN/velero" server --namespace velero --features EnableCSI \
        --plugin-dir "$STATE/velero-plugins" --item-operation-sync-frequency 2s --resource-timeout 30s --metrics-address 127.0.0.1:18085 \
        --profiler-address 127.0.0.1:16060 ${VELERO_ARGS:-}
    await 60 "Velero's start" curl -sf http://127.0.0.1:18085/metrics
    await 60 "Velero's access to its bucket" sh -c "'$BIN/kubectl' --kubeconfig '$STATE/kubeconfig' --namespace velero get bsl default -o yaml | grep -q 'phase: Available'"
}

up() {
    [ "$(id -u)" = 0 ] || die "a cluster needs root"
    BIN=$("$root/e2e/tools/setup.sh")
    mkdir -p "$STATE/logs" "$STATE/pids" "$RUN"
    [ -f "$STATE/netns" ] || { ls /run/netns 2>/dev/null || true; } >"$STATE/netns"
    [ -x "$root/target/release/csi-driver" ] || (cd "$root" && cargo build --release --locked --package csi-driver)
    network
    control_plane
    pause_image
    for node in "${NODES[@]}"; do node_start "$node"; done
    image "$STATE/pause/pause.tar"
    minio
    velero
    for node in "${NODES[@]}"; do await 120 "$node's registration" kubectl get node "$node"; done
    storage
    kubectl wait --for=condition=Ready nodes --all --timeout=60s >/dev/null
    for node in "${NODES[@]}"; do
        await 60 "the CSI driver on $node" sh -c "'$BIN/kubectl' --kubeconfig '$STATE/kubeconfig' get csinode $node -o yaml | grep -q $DRIVER"
    done
    say "the cluster is up:"
    say "  export KUBECONFIG=$STATE/kubeconfig PATH=$BIN:\$PATH"
    say "  MinIO: http://$NET.1:19000, bucket estiba, keys estiba-test / estiba-secret"
}

down() {
    [ -d "$STATE" ] || return 0
    BIN=$("$root/e2e/tools/setup.sh")
    local name node
    for node in "${NODES[@]}"; do node_kill "$node"; done
    stop kube-proxy
    "$BIN/kube-proxy" --cleanup >/dev/null 2>&1 || true
    for name in velero snapshot-controller csi-snapshotter csi-attacher csi-provisioner csi-driver minio kube-scheduler kube-controller-manager kube-apiserver etcd; do
        # Nothing of it is needed again.
        stop "$name" KILL
    done
    # What kubelets made.
    for name in mangle nat filter; do
        iptables-save -t "$name" | sed -n 's/^-A \(.*KUBE-.*\)/-t '"$name"' -D \1/p' | while read -r rule; do xargs iptables <<<"$rule" || true; done
        iptables-save -t "$name" | sed -n 's/^:\(KUBE-[^ ]*\).*/\1/p' | while read -r chain; do iptables -t "$name" -X "$chain" || true; done
    done
    # Innermost first.
    awk '{print $5}' /proc/self/mountinfo | grep -E "^($STATE|$RUN)/" | sort -r | while read -r mount; do umount -l "$mount" || true; done
    losetup -n -O NAME,BACK-FILE | awk -v at="$STATE/" 'index($2, at) == 1 {print $1}' | xargs -r -n1 losetup -d
    for name in $(ls /run/netns 2>/dev/null | grep '^cni-' | grep -vxFf "$STATE/netns" || true); do ip netns delete "$name"; done
    ip link delete "$BRIDGE" 2>/dev/null || true
    for node in "${NODES[@]}"; do
        for hierarchy in /sys/fs/cgroup/*/estiba-$node; do
            [ -d "$hierarchy" ] && find "$hierarchy" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        done
    done
    cat "$STATE/ip_forward" >/proc/sys/net/ipv4/ip_forward
    rm -rf "$STATE" "$RUN"
}

case ${1:-} in
    up) up ;;
    down) down ;;
    image) shift; for tar in "$@"; do image "$tar"; done ;;
    velero-start) BIN=$("$root/e2e/tools/setup.sh"); velero_start ;;
    velero-stop) stop velero "${2:-TERM}" ;;
    node-kill) node_kill "$2" ;;
    node-start) BIN=$("$root/e2e/tools/setup.sh"); node_start "$2" ;;
    *) die "usage: cluster.sh up | down | image TAR... | velero-start | velero-stop | node-kill NODE | node-start NODE" ;;
esac
