import io
import json
import tarfile
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.layout import CHECKOUT
from harness.load import chosen_images
from harness.oci import architecture, write_image
from harness.pip_settings import local_folders, pip_conf, pip_settings


def _write(target: Path, program: bytes) -> bytes:
    write_image(
        target, name="localhost/p:1", program=program, path="/p", machine="amd64", user="65535:65535", labels={"a": "b"}
    )
    return target.read_bytes()


def test_an_image_archive_leads_from_its_index_to_the_program(tmp_path: Path) -> None:
    _write(tmp_path / "p.tar", b"\x7fELF")
    with tarfile.open(tmp_path / "p.tar") as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member is not None
            return member.read()

        def blob(descriptor: dict[str, str]) -> bytes:
            return read(f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}")

        index = json.loads(read("index.json"))
        manifest = json.loads(blob(index["manifests"][0]))
        configuration = json.loads(blob(manifest["config"]))
        with tarfile.open(fileobj=io.BytesIO(blob(manifest["layers"][0]))) as layer:
            files = [(member.name, member.mode, member.size) for member in layer]
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "localhost/p:1"
    assert configuration["config"] == {
        "Entrypoint": ["/p"],
        "User": "65535:65535",
        "WorkingDir": "/",
        "Labels": {"a": "b"},
    }
    assert configuration["rootfs"] == {"type": "layers", "diff_ids": [manifest["layers"][0]["digest"]]}
    assert files == [("p", 0o755, 4)]


def test_the_same_program_gives_the_same_archive_and_another_one_another(tmp_path: Path) -> None:
    first = _write(tmp_path / "1.tar", b"one")
    assert _write(tmp_path / "2.tar", b"one") == first
    assert _write(tmp_path / "3.tar", b"two") != first


def test_machines_are_called_as_containers_call_them() -> None:
    assert [architecture(name) for name in ("x86_64", "aarch64", "riscv64")] == ["amd64", "arm64", "riscv64"]


def test_pip_settings_keep_only_what_says_where_packages_come_from_and_the_environment_wins() -> None:
    files = (
        "[global]\nindex-url = https://one.example/\ntimeout = 5\nuser = true\n",
        "[install]\nindex-url = https://two.example/\nextra-index-url =\n    https://a.example/\n    https://b.example/\n",
        "[list]\nformat = columns\n",
    )
    environment = {"PIP_DEFAULT_TIMEOUT": "60", "PIP_CERT": "/x.pem", "PIP_NO_INDEX": "", "PATH": "/bin"}
    assert pip_settings(files, environment) == {
        "extra-index-url": "\nhttps://a.example/\nhttps://b.example/",
        "index-url": "https://two.example/",
        "timeout": "60",
    }


def test_folders_with_packages_are_named_by_where_they_are_mounted() -> None:
    settings = pip_settings((), {"PIP_FIND_LINKS": "/wheels file:///more https://links.example/"})
    assert local_folders(settings) == ("/wheels", "/more")
    assert pip_conf(settings, moved={"/wheels": "/run/0", "/more": "/run/1"}, certificates="/c.crt") == (
        "[global]\ncert = /c.crt\nfind-links = /run/0\n    /run/1\n    https://links.example/\n"
    )


def test_images_are_chosen_by_their_short_names() -> None:
    assert [image.name for image in chosen_images(["worker", "redis"])] == [
        "localhost/celery-worker:dev",
        "localhost/celery-operator-redis:dev",
    ]


def test_an_unknown_image_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(HarnessError, match="No image is called redes; there are: operator, worker, redis, rabbitmq"):
        chosen_images(["redis", "redes"])


def test_the_recipe_in_the_docs_is_the_one_that_the_cluster_tests_build() -> None:
    page = (CHECKOUT / "docs" / "worker-image.md").read_text(encoding="utf-8")
    [extended] = chosen_images(["extended"])
    recipe = extended.dockerfile.read_text(encoding="utf-8").replace(
        "localhost/celery-worker:dev", "celery-worker:0.1.0"
    )
    assert f"```dockerfile\n{recipe}```" in page
    source = (extended.context / "shop" / "celery.py").read_text(encoding="utf-8")
    code = source.partition("\n\n")[2].replace("  # type: ignore[untyped-decorator]", "")
    assert f"```python\n# shop/celery.py\n{code}```" in page
