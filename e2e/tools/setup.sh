#!/usr/bin/env bash
# Installs what the tests need and prints the folder that holds it: stock restic (old and new), MinIO, and a whole
# Kubernetes: its own programs, the CSI sidecars, helm, Velero, and Debian's containerd.
# Everything lands in a cache outside the checkout, keyed by what was asked for, so a second run builds nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
key=$(cat "$here"/*/go.mod "$here"/*/go.sum | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/estiba-e2e/$key
say() { printf '%s\n' "$*" >&2; }

packages=(restic acl attr time openssl curl make containerd runc containernetworking-plugins iptables conntrack socat e2fsprogs)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing: ${missing[*]}"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >&2
fi

mkdir -p "$cache/bin"
# Kubernetes does not know its own version unless told; charts ask for it.
version=$(sed -n 's/.*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$here/kubernetes/go.mod" | head -n 1)
minor=${version#v1.}
say_version=""
for module in component-base/version client-go/pkg/version; do
    say_version+=" -X k8s.io/$module.gitVersion=$version -X k8s.io/$module.gitMajor=1 -X k8s.io/$module.gitMinor=${minor%%.*}"
done

# FOLDER PACKAGE...: builds what is not there yet. Go keeps its own cache, so a changed version builds only what changed.
build() {
    local folder=$1 package name
    shift
    for package in "$@"; do
        name=${package##*/}
        # etcd's program is called server, in a folder with its major version.
        [ "$folder" = etcd ] && name=etcd
        [ -x "$cache/bin/$name" ] && continue
        say "building $name"
        (cd "$here/$folder" && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w$say_version" -o "$cache/bin/$name.part" "$package" >&2)
        mv "$cache/bin/$name.part" "$cache/bin/$name"
    done
}
build minio github.com/minio/minio
build etcd go.etcd.io/etcd/server/v3
build kubernetes k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet,kubectl}
build snapshotter github.com/kubernetes-csi/external-snapshotter/v8/cmd/{snapshot-controller,csi-snapshotter}
build provisioner github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner
build attacher github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher
build sanity github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
build helm helm.sh/helm/v3/cmd/helm
build velero github.com/vmware-tanzu/velero/cmd/velero github.com/vmware-tanzu/velero-plugin-for-aws/velero-plugin-for-aws

# The snapshot kinds come with the snapshotter's own client module.
if [ ! -d "$cache/snapshot-crds" ]; then
    module=$(cd "$here/snapshotter" && go list -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8)
    mkdir "$cache/snapshot-crds.part"
    cp "$module"/config/crd/*.yaml "$cache/snapshot-crds.part/"
    rm -f "$cache/snapshot-crds.part/kustomization.yaml"
    mv "$cache/snapshot-crds.part" "$cache/snapshot-crds"
fi

if [ ! -f "$cache/velero-crds.yaml" ]; then
    "$cache/bin/velero" install --crds-only --dry-run -o yaml >"$cache/velero-crds.yaml.part"
    mv "$cache/velero-crds.yaml.part" "$cache/velero-crds.yaml"
fi

[ -x "$cache/bin/restic-old" ] || ln -sf "$(command -v restic)" "$cache/bin/restic-old"
if [ ! -x "$cache/bin/restic-new" ]; then
    say "unpacking a newer restic"
    apt="$cache/apt"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    # The machine's own Debian mirror, other suites of it.
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null \
        | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d " " || true)
    [ -n "$mirror" ] || { say "no Debian mirror found in /etc/apt"; exit 1; }
    printf 'deb %s trixie main\n' "$mirror" > "$apt/sources.list"
    options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt" -o "APT::Get::List-Cleanup=0" -o "APT::Sandbox::User=root")
    apt-get "${options[@]}" update -qq >&2
    (cd "$apt" && apt-get "${options[@]}" download -qq restic >&2 && dpkg-deb -x restic_*.deb unpacked)
    mv "$apt/unpacked/usr/bin/restic" "$cache/bin/restic-new"
    rm -rf "$apt"
fi
printf '%s\n' "$cache/bin"
