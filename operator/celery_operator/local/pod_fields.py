"""Fields of a pod template that Kubernetes does not know: the API server refuses them when the workers are made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from celery_operator.local.manifests import did_you_mean

KUBERNETES = "1.37"
"""Whose fields the client's models have: its versions count Kubernetes' minor ones."""
_LIST = re.compile(r"list\[(\w+)\]", re.IGNORECASE)


def unknown_fields(template: Any, path: str, *, kind: str = "V1PodTemplateSpec") -> Iterator[tuple[str, str]]:
    """Yield path and message for each field that the Kubernetes client's models do not have.

    A newer Kubernetes may know some of them. Values of the wrong shape are left to those who merge them.

    Args:
        template: The user's pod template, or what stands below it.
        path: Where it stands.
        kind: The name of its model.
    """
    from kubernetes import client  # noqa: PLC0415 - takes a quarter of a second, and few resources have a template

    model: Any = getattr(client, kind, None)
    if not isinstance(template, Mapping) or not hasattr(model, "attribute_map"):
        return
    types = {name: str(model.openapi_types[attribute]) for attribute, name in model.attribute_map.items()}
    for name, value in template.items():
        below = f"{path}.{name}"
        if name not in types:
            yield below, f"no field of Kubernetes {KUBERNETES}.{did_you_mean(str(name), list(types))}"
        elif of_list := _LIST.fullmatch(types[name]):
            for index, each in enumerate(value if isinstance(value, list) else ()):
                yield from unknown_fields(each, f"{below}[{index}]", kind=of_list[1])
        else:
            yield from unknown_fields(value, below, kind=types[name])
