"""The configuration files of the node's programs. Pure."""

from __future__ import annotations

import json

from harness.addresses import CLUSTER_DOMAIN, DNS_SERVICE, MAX_PODS, NODE_ADDRESS, POD_RANGE
from harness.layout import NODE, Layout

CNI_PLUGINS = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins puts them."""

POD_NETWORK = "celery-operator-pods"
"""Begins the names of the files that CNI leaves in a folder it shares with every other network on the machine."""


def containerd_toml(layout: Layout, *, pause_image: str) -> str:
    """Return containerd's configuration."""
    return f"""\
version = 3
root = "{layout.state}/containerd"
state = "{layout.run}/containerd"

[grpc]
  address = "{layout.containerd_socket}"

[ttrpc]
  address = "{layout.containerd_socket}.ttrpc"

[plugins.'io.containerd.internal.v1.opt']
  path = "{layout.state}/opt"

[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause_image}"

[plugins.'io.containerd.cri.v1.runtime']
  # Where the process may not lower its own OOM score, every sandbox would fail in the middle of its start.
  restrict_oom_score_adj = true
  # Not in /run/netns, where other programs keep theirs.
  netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{CNI_PLUGINS}"]
  conf_dir = "{layout.state}/cni"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = "{layout.run}/runc"
"""


def cni_conflist(layout: Layout) -> str:
    """Return the pod network: one routed pair of interfaces per pod.

    Unlike a bridge, this needs no bridge netfilter in the kernel for Services to work between pods of the same node.
    """
    document = {
        "cniVersion": "1.0.0",
        "name": POD_NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{layout.run}/addresses",
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def kubelet_configuration(layout: Layout) -> str:
    """Return the kubelet's configuration."""
    certificates = layout.certificates
    # What would otherwise be shared with another kubelet on the machine stays below the node's own folders.
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{certificates}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{certificates}/node.crt",
        "tlsPrivateKeyFile": f"{certificates}/node.key",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": f"{layout.state}/resolv-node.conf",
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{NODE}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "podLogsDir": f"{layout.state}/pod-logs",
        "volumePluginDir": f"{layout.state}/volume-plugins",
        "maxPods": MAX_PODS,
        # A developer's disk is often nearly full, and nothing here is worth more than the pods under test.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }
    return json.dumps(document, indent=2) + "\n"


def proxy_configuration(layout: Layout) -> str:
    """Return kube-proxy's configuration."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{layout.state}/kubeconfig-proxy"},
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE,
        # The limits of connection tracking belong to the whole machine: leave them alone.
        "conntrack": {"maxPerCore": 0, "min": 0},
        # Endpoints of a pod that dies should not linger for a second in tests that measure.
        "iptables": {"minSyncPeriod": "100ms"},
    }
    return json.dumps(document, indent=2) + "\n"


def node_resolv_conf() -> str:
    """Return the resolver file that pods with `dnsPolicy: Default` start from."""
    return f"nameserver {NODE_ADDRESS}\n"


def client_resolv_conf() -> str:
    """Return the resolver file for commands that `harness exec` runs: like a pod's in the namespace `default`."""
    searched = " ".join((f"default.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN))
    return f"nameserver {DNS_SERVICE}\nsearch {searched}\noptions ndots:5 timeout:2\n"


def node_file_texts(layout: Layout, *, pause_image: str) -> dict[str, str]:
    """Return every configuration file, by its path below the state folder."""
    return {
        "containerd.toml": containerd_toml(layout, pause_image=pause_image),
        "cni/10-pods.conflist": cni_conflist(layout),
        "kubelet.json": kubelet_configuration(layout),
        "proxy.json": proxy_configuration(layout),
        "resolv-node.conf": node_resolv_conf(),
        "resolv-client.conf": client_resolv_conf(),
    }
