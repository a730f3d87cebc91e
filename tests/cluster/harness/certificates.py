"""The node's certificate authority, its certificates and kubeconfigs.

They are made with the etcd data that they sign for and removed together with it, so they can never disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.addresses import API_PORT, API_SERVICE, NODE_ADDRESS
from harness.commands import run
from harness.kubeconfig import render_kubeconfig
from harness.layout import NODE, Layout

_DAYS = "365"
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names.

    Attributes:
        file: The stem of the key's and the certificate's file names.
        user: The user name that Kubernetes reads from it.
        group: The group that Kubernetes reads from it, if any.
        names: Under which names and addresses it serves, in openssl's words.
    """

    file: str
    user: str
    group: str = ""
    names: tuple[str, ...] = ()


_API_SERVER_NAMES = (
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    "DNS:localhost",
    "IP:127.0.0.1",
    f"IP:{API_SERVICE}",
    f"IP:{NODE_ADDRESS}",
)
SUBJECTS = (
    Subject("apiserver", "kube-apiserver", names=_API_SERVER_NAMES),
    Subject("admin", "kubernetes-admin", "system:masters"),
    Subject("controller-manager", "system:kube-controller-manager"),
    Subject("scheduler", "system:kube-scheduler"),
    Subject("proxy", "system:kube-proxy"),
    Subject("node", f"system:node:{NODE}", "system:nodes", (f"DNS:{NODE}", f"IP:{NODE_ADDRESS}", "IP:127.0.0.1")),
    Subject("front-proxy", "front-proxy"),
)
_KUBECONFIGS = {
    "kubeconfig-controller-manager": "controller-manager",
    "kubeconfig-scheduler": "scheduler",
    "kubeconfig-proxy": "proxy",
    "kubeconfig-kubelet": "node",
    "kubeconfig-inside": "admin",
}


def make_certificates(folder: Path) -> None:
    """Make the authority, one certificate per subject and the key that signs service account tokens."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = ("-subj", f"/CN={NODE}", "-days", _DAYS, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run(("openssl", "req", "-x509", *_CURVE, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt", *authority))
    for subject in SUBJECTS:
        _sign(folder, subject)
    run(("openssl", "genrsa", "-out", f"{folder}/service-accounts.key", "2048"))


def _sign(folder: Path, subject: Subject) -> None:
    stem = folder / subject.file
    name = (f"/O={subject.group}" if subject.group else "") + f"/CN={subject.user}"
    run(("openssl", "req", *_CURVE, "-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", name))
    # Python 3.13 and later refuse a chain without these extensions.
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "authorityKeyIdentifier=keyid",
        "keyUsage=critical,digitalSignature,keyEncipherment",
        "extendedKeyUsage=serverAuth,clientAuth",
    ]
    if subject.names:
        extensions.append(f"subjectAltName={','.join(subject.names)}")
    described = folder / f"{subject.file}.ext"
    described.write_text("\n".join(extensions) + "\n", encoding="utf-8")
    signer = ("-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-CAcreateserial", "-days", _DAYS)
    run(("openssl", "x509", "-req", "-in", f"{stem}.csr", "-out", f"{stem}.crt", "-extfile", str(described), *signer))


def write_kubeconfigs(layout: Layout, *, port: int) -> None:
    """Write the kubeconfigs of the node's programs and the two of the administrator, inside and on the host.

    Args:
        layout: The folders of the cluster.
        port: The host's loopback port that leads to the API server.
    """
    for file, subject in _KUBECONFIGS.items():
        _write_kubeconfig(layout, layout.state / file, subject, API_PORT)
    _write_kubeconfig(layout, layout.kubeconfig, "admin", port)


def _write_kubeconfig(layout: Layout, target: Path, subject: str, port: int) -> None:
    folder = layout.certificates
    text = render_kubeconfig(
        server=f"https://127.0.0.1:{port}",
        authority=(folder / "ca.crt").read_bytes(),
        certificate=(folder / f"{subject}.crt").read_bytes(),
        key=(folder / f"{subject}.key").read_bytes(),
        name=NODE,
    )
    target.touch(mode=0o600)
    target.write_text(text, encoding="utf-8")
