import base64
import ipaddress
import json
import tomllib
from pathlib import Path

from harness.addresses import API_SERVICE, DNS_SERVICE, MAX_PODS, NODE_ADDRESS, POD_RANGE, SERVICE_RANGE
from harness.kubeconfig import render_kubeconfig
from harness.layout import Layout, layout_for
from harness.node_commands import control_plane, node_agents
from harness.node_files import node_file_texts

LAYOUT = Layout(cache=Path("/c"), state=Path("/s"), run=Path("/r"))


def test_a_kubeconfig_embeds_everything_it_needs() -> None:
    text = render_kubeconfig(server="https://127.0.0.1:1", authority=b"A", certificate=b"C", key=b"K", name="n")
    assert json.loads(text) == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "n", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": _b64("A")}}
        ],
        "users": [{"name": "n", "user": {"client-certificate-data": _b64("C"), "client-key-data": _b64("K")}}],
        "contexts": [{"name": "n", "context": {"cluster": "n", "user": "n"}}],
        "current-context": "n",
    }


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_every_address_lies_in_the_range_for_tests_and_the_ranges_are_apart() -> None:
    reserved = ipaddress.ip_network("198.18.0.0/15")
    pods, services = ipaddress.ip_network(POD_RANGE), ipaddress.ip_network(SERVICE_RANGE)
    node = ipaddress.ip_address(NODE_ADDRESS)
    assert pods.overlaps(reserved)
    assert services.overlaps(reserved)
    assert not pods.overlaps(services)
    assert node in reserved
    assert node not in pods
    assert {ipaddress.ip_address(API_SERVICE), ipaddress.ip_address(DNS_SERVICE)} <= set(services.hosts())


def test_there_is_an_address_for_twice_as_many_pods_as_may_run() -> None:
    assert ipaddress.ip_network(POD_RANGE).num_addresses >= 2 * MAX_PODS


def test_containerd_keeps_everything_below_the_folders_of_the_cluster() -> None:
    document = tomllib.loads(node_file_texts(LAYOUT, pause_image="localhost/pause:1")["containerd.toml"])
    plugins = document["plugins"]
    assert (document["root"], document["state"]) == ("/s/containerd", "/r/containerd")
    assert document["grpc"] == {"address": "/r/containerd.sock"}
    assert plugins["io.containerd.cri.v1.images"]["pinned_images"] == {"sandbox": "localhost/pause:1"}
    assert plugins["io.containerd.cri.v1.runtime"]["netns_mounts_under_state_dir"] is True
    assert plugins["io.containerd.cri.v1.runtime"]["cni"] == {"bin_dirs": ["/usr/lib/cni"], "conf_dir": "/s/cni"}
    runc = plugins["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"]
    assert runc["options"] == {"SystemdCgroup": False, "Root": "/r/runc"}


def test_the_kubelet_keeps_to_the_node_s_own_control_groups_and_folders() -> None:
    document = json.loads(node_file_texts(LAYOUT, pause_image="p")["kubelet.json"])
    assert document["cgroupRoot"] == "/celery-operator-node"
    assert document["podLogsDir"] == "/s/pod-logs"
    assert document["volumePluginDir"] == "/s/volume-plugins"
    assert document["containerRuntimeEndpoint"] == "unix:///r/containerd.sock"


def test_every_file_that_a_program_is_told_to_read_is_written() -> None:
    written = {f"/s/{name}" for name in node_file_texts(LAYOUT, pause_image="p")}
    programs = (
        *control_plane(LAYOUT, kube=Path("/k"), containerd=Path("/d")),
        *node_agents(LAYOUT, kube=Path("/k")),
    )
    configured = {
        word.removeprefix("--config=")
        for program in programs
        for word in program.command
        if word.startswith(("--config=", "/s/"))
    }
    assert configured == {"/s/containerd.toml", "/s/kubelet.json", "/s/proxy.json"}
    assert configured <= written


def test_programs_are_named_and_started_by_the_same_name() -> None:
    programs = (
        *control_plane(LAYOUT, kube=Path("/k"), containerd=Path("/d")),
        *node_agents(LAYOUT, kube=Path("/k")),
    )
    assert [(program.name, Path(program.command[0]).name) for program in programs] == [
        (name, name)
        for name in (
            "etcd",
            "containerd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
        )
    ]


def test_root_has_system_folders_and_everybody_else_their_home() -> None:
    environment = {"HOME": "/home/ada"}
    assert layout_for(environment, root=True) == Layout(
        cache=Path("/home/ada/.cache/celery-operator/cluster"),
        state=Path("/var/lib/celery-operator-node"),
        run=Path("/run/celery-operator-node"),
    )
    assert layout_for({**environment, "XDG_CACHE_HOME": "/x", "XDG_STATE_HOME": "/y"}, root=False) == Layout(
        cache=Path("/x/celery-operator/cluster"),
        state=Path("/y/celery-operator/cluster"),
        run=Path("/y/celery-operator/cluster/run"),
    )
