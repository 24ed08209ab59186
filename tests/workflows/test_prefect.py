"""The flow of the examples, run by Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.workflows import N_IMAGES, PAIRS, Workshop, find_runner, read_summary, set_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# As `python prefect_flow.py`, without the minutes between two tries.
RUN = """
import json, prefect_flow
prefect_flow.permafrost = prefect_flow.permafrost.with_options(retry_delay_seconds=0)
print(json.dumps(prefect_flow.compare_backbones()))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return find_runner("prefect").with_name("python")


@pytest.fixture(scope="module")
def workshop(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return set_up(tmp_path_factory.mktemp("prefect"), "prefect_flow.py")


def call(workshop: Workshop, *command: object, fails: bool = False) -> str:
    """Run a command with a server of its own, whose start may take long on a busy machine."""
    return workshop.call(
        *command,
        fails=fails,
        PREFECT_HOME=str(workshop.root / "prefect"),
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
        PREFECT_LOGGING_LEVEL="ERROR",
        DO_NOT_TRACK="1",
    )


def test_the_flow_returns_the_best_of_each_pair_and_computes_once(
    workshop: Workshop, python: Path
) -> None:
    found = find_result(call(workshop, python, "prefect_flow.py"))
    assert found.keys() == {f"{dataset}-{backbone}" for dataset, backbone in PAIRS}
    assert all(0.5 < score <= 1 for score in found.values())
    shards, layers = workshop.list_shards(), workshop.read_features().values()
    assert all(len(values) == N_IMAGES for layer in layers for values in layer.values())
    assert find_result(call(workshop, python, "prefect_flow.py")) == found
    assert workshop.list_shards() == shards


def test_what_may_be_better_later_is_tried_again(workshop: Workshop, python: Path) -> None:
    workshop.take_calls()
    workshop.fail_once(75)
    call(workshop, python, "-c", RUN)
    assert len(workshop.take_calls()) == (2 + 4 + 4) + 1


def test_bad_input_is_not(workshop: Workshop, python: Path) -> None:
    workshop.take_calls()
    workshop.fail_once(2)
    assert "returned non-zero exit status 2" in call(workshop, python, "-c", RUN, fails=True)
    calls = [call.split()[0] for call in workshop.take_calls()]
    # The other dataset goes on; nothing that needs the manifest is called.
    assert sorted(calls) == ["extract"] * 2 + ["index"] * 2 + ["sweep"] * 2


def find_result(printed: str) -> dict[str, Any]:
    (line,) = [line for line in printed.splitlines() if line.startswith("{")]
    return read_summary(line)
