"""The assets of the examples, materialised by Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.workflows import N_IMAGES, PAIRS, Workshop, find_runner, read_summary, set_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Materialise all, without the minutes between two tries, and print what Dagster keeps of it.
RUN = """
import json, sys, dagster, dagster_assets
dagster_assets.WAIT_S = 0
instance = dagster.DagsterInstance.get()
assets = list(dagster_assets.defs.assets)
done = dagster.materialize(assets, instance=instance, raise_on_error=False)
found = {}
for one in assets:
    event = instance.get_latest_materialization_event(one.key)
    kept = event.asset_materialization
    figures = {key: value.value for key, value in kept.metadata.items()}
    found[one.key.to_user_string()] = {"version": kept.tags["dagster/data_version"], **figures}
print(json.dumps(found))
sys.exit(not done.success)
"""


@pytest.fixture(scope="module")
def dagster() -> Path:
    return find_runner("dagster")


def materialize(dagster: Path, workshop: Workshop) -> dict[str, dict[str, Any]]:
    (workshop.root / "dagster").mkdir(exist_ok=True)
    home = str(workshop.root / "dagster")
    printed = workshop.call(dagster.with_name("python"), "-c", RUN, DAGSTER_HOME=home)
    (line,) = [line for line in printed.splitlines() if line.startswith('{"')]
    return read_summary(line)


def test_versions_are_those_of_what_features_say(dagster: Path, tmp_path: Path) -> None:
    workshop = set_up(tmp_path, "dagster_assets.py")
    workshop.fail_once(75)
    first = materialize(dagster, workshop)
    assert len(workshop.take_calls()) == (2 + 4 + 4) + 1
    names = ["/".join(pair) for pair in PAIRS]
    assert first.keys() == {
        *("photos/manifest", "crops/manifest"),
        *(f"{name}/{kind}" for name in names for kind in ("features", "leaderboard")),
    }
    assert [first[f"{name}/features"]["computed"] for name in names] == [N_IMAGES] * 4
    again = materialize(dagster, workshop)
    assert [again[f"{name}/features"]["computed"] for name in names] == [0] * 4
    assert list_versions(again) == list_versions(first)
    (tmp_path / "photos" / "china" / "0000.jpg").unlink()
    changed = list_versions(materialize(dagster, workshop))
    differing = {key for key, version in changed.items() if version != list_versions(first)[key]}
    assert differing == {key for key in changed if key.startswith("photos/")}


def list_versions(assets: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {key: kept["version"] for key, kept in assets.items()}
