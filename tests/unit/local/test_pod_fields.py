"""Fields of a pod template that Kubernetes does not know are named, with what was probably meant."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

from celery_operator.local.pod_fields import KUBERNETES, unknown_fields

CONTAINER = {"name": "worker", "env": [{"name": "A", "value": "1"}], "resources": {"limits": {"example.org/gpu": 1}}}


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ({}, []),
        ({"metadata": {"labels": {"any": "thing"}}, "spec": {"containers": [CONTAINER], "dnsPolicy": "None"}}, []),
        ({"spec": {"dnsPolic": "None"}}, [("t.spec.dnsPolic", "Did you mean dnsPolicy?")]),
        ({"spec": {"containers": [{}, {"evn": []}]}}, [("t.spec.containers[1].evn", "Did you mean env?")]),
        (
            {"spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimits": "1Gi"}}], "tolerations": [{"keys": "a"}]}},
            [
                ("t.spec.volumes[0].emptyDir.sizeLimits", "Did you mean sizeLimit?"),
                ("t.spec.tolerations[0].keys", "Did you mean key?"),
            ],
        ),
        ({"spec": {"containers": {"name": "no list"}, "securityContext": "no object"}}, []),
    ],
)
def test_unknown_fields_are_named_with_their_place(template: Any, found: list[tuple[str, str]]) -> None:
    expected = [(path, f"no field of Kubernetes {KUBERNETES}. {hint}") for path, hint in found]
    assert list(unknown_fields(template, "t")) == expected


def test_it_says_which_kubernetes_the_models_are_of() -> None:
    assert f"1.{version('kubernetes').partition('.')[0]}" == KUBERNETES
