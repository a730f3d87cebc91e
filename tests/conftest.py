"""Which kinds of Redis the tests run on.

A test, or a module by its ``pytestmark``, that is marked ``every_redis`` runs once on each kind; all others run on the
first alone, and so does a test marked ``one_redis`` in such a module. Fixtures that start a server take the fixture
``redis_kind`` for its kind.
"""

from __future__ import annotations

import pytest

from servers import RedisKind, every_kind
from servers_kinds import ENV_KIND, KINDS, program_of, version

FIXTURE = "redis_kind"


def pytest_report_header() -> list[str]:
    """Say which servers the tests run on, and on which they do not."""
    runs = [f"{kind.name} ({(version(program_of(kind)) or ('', '?'))[1]})" for kind in every_kind()]
    left_out = [kind.name for kind in KINDS if kind not in every_kind()]
    lines = [f"redis kinds: {', '.join(runs)}"]
    if left_out:
        lines.append(f"NOT on {', '.join(left_out)}: {ENV_KIND} is set, or this machine has none (see make system)")
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``every_redis`` on each kind."""
    if FIXTURE not in metafunc.fixturenames:
        return
    first, *others = every_kind()
    marked = metafunc.definition.get_closest_marker
    if marked("every_redis") and not marked("one_redis"):
        metafunc.parametrize(FIXTURE, [first, *others], indirect=True, ids=lambda kind: kind.name, scope="session")
    else:
        # A parameter here too, so that these tests share the servers of the others on the first kind.
        metafunc.parametrize(FIXTURE, [pytest.param(first, id=pytest.HIDDEN_PARAM)], indirect=True, scope="session")


@pytest.fixture(scope="session")
def redis_kind(request: pytest.FixtureRequest) -> RedisKind:
    """The kind of Redis that a test runs on."""
    kind: RedisKind = getattr(request, "param", every_kind()[0])
    return kind
