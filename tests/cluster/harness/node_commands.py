"""The command line of each of the node's programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.addresses import API_PORT, ETCD_CLIENT, ETCD_PEER, NODE_ADDRESS, SERVICE_RANGE
from harness.layout import NODE, Layout


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """One long-running program of the node: its name (of process record and log) and its command line."""

    name: str
    command: tuple[str, ...]


def control_plane(layout: Layout, *, kube: Path, containerd: Path) -> tuple[NodeProgram, ...]:
    """Return the programs that start first; those that need another one wait for it by themselves.

    Args:
        layout: The folders of the cluster.
        kube: The folder with the Kubernetes programs.
        containerd: The folder with containerd and its shim.
    """
    return (
        _etcd(layout, kube),
        NodeProgram("containerd", (f"{containerd}/containerd", "--config", f"{layout.state}/containerd.toml")),
        _api_server(layout, kube),
        _controller_manager(layout, kube),
        _program(kube, "kube-scheduler", kubeconfig=f"{layout.state}/kubeconfig-scheduler", leader_elect="false"),
    )


def node_agents(layout: Layout, *, kube: Path) -> tuple[NodeProgram, ...]:
    """Return the programs that start when containerd and the API server answer; the kubelet would end without one."""
    return (
        _program(
            kube,
            "kubelet",
            config=f"{layout.state}/kubelet.json",
            kubeconfig=f"{layout.state}/kubeconfig-kubelet",
            hostname_override=NODE,
            node_ip=NODE_ADDRESS,
            root_dir=f"{layout.state}/kubelet",
        ),
        _program(kube, "kube-proxy", config=f"{layout.state}/proxy.json"),
    )


def _program(folder: Path, name: str, **options: str) -> NodeProgram:
    flags = (f"--{option.replace('_', '-')}={value}" for option, value in options.items())
    return NodeProgram(name, (f"{folder}/{name}", *flags))


def _etcd(layout: Layout, kube: Path) -> NodeProgram:
    return NodeProgram(
        "etcd",
        (
            f"{kube}/etcd",
            f"--data-dir={layout.state}/etcd",
            f"--listen-client-urls={ETCD_CLIENT}",
            f"--advertise-client-urls={ETCD_CLIENT}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
            # The data never outlives the cluster, so nothing is lost by not waiting for the disk.
            "--unsafe-no-fsync",
            "--quota-backend-bytes=2147483648",
        ),
    )


def _api_server(layout: Layout, kube: Path) -> NodeProgram:
    certificates = layout.certificates
    return _program(
        kube,
        "kube-apiserver",
        etcd_servers=ETCD_CLIENT,
        secure_port=str(API_PORT),
        bind_address="0.0.0.0",
        advertise_address=NODE_ADDRESS,
        service_cluster_ip_range=SERVICE_RANGE,
        tls_cert_file=f"{certificates}/apiserver.crt",
        tls_private_key_file=f"{certificates}/apiserver.key",
        client_ca_file=f"{certificates}/ca.crt",
        service_account_issuer="https://kubernetes.default.svc",
        service_account_key_file=f"{certificates}/service-accounts.key",
        service_account_signing_key_file=f"{certificates}/service-accounts.key",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        kubelet_client_certificate=f"{certificates}/admin.crt",
        kubelet_client_key=f"{certificates}/admin.key",
        kubelet_certificate_authority=f"{certificates}/ca.crt",
        # `kubectl logs` and `exec` would look up the node's name, which no DNS server knows.
        kubelet_preferred_address_types="InternalIP",
        # One authority for clients and the front proxy is accepted only with the proxy's name said.
        requestheader_client_ca_file=f"{certificates}/ca.crt",
        requestheader_allowed_names="front-proxy",
        requestheader_username_headers="X-Remote-User",
        requestheader_group_headers="X-Remote-Group",
        requestheader_extra_headers_prefix="X-Remote-Extra-",
        proxy_client_cert_file=f"{certificates}/front-proxy.crt",
        proxy_client_key_file=f"{certificates}/front-proxy.key",
        allow_privileged="true",
    )


def _controller_manager(layout: Layout, kube: Path) -> NodeProgram:
    certificates = layout.certificates
    return _program(
        kube,
        "kube-controller-manager",
        kubeconfig=f"{layout.state}/kubeconfig-controller-manager",
        leader_elect="false",
        use_service_account_credentials="true",
        service_account_private_key_file=f"{certificates}/service-accounts.key",
        root_ca_file=f"{certificates}/ca.crt",
        cluster_signing_cert_file=f"{certificates}/ca.crt",
        cluster_signing_key_file=f"{certificates}/ca.key",
        # By default a folder below /usr, which it would make.
        flex_volume_plugin_dir=f"{layout.state}/volume-plugins",
    )
