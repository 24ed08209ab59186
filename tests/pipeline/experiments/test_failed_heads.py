"""A head that cannot be fitted does not cost the others of an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def test_the_other_heads_are_fitted_and_the_failed_one_is_named(
    command: Any, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    content = {
        "images": str(photos),
        "cache": str(tmp_path / "cache"),
        "backbones": [{"name": str(backbone), "layers": ["last:avg"]}],
        "heads": [{"kind": "knn", "neighbors": [5000, 1]}, {"kind": "ridge"}],
        "cv": 2,
        "jobs": 1,
        "out": str(out),
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(content))
    answer = command("run", file)
    assert answer.status == 2
    (line,) = [line for line in answer.err.splitlines() if line.startswith("permafrost:")]
    assert "1 of 3 heads could not be fitted" in line
    assert "neighbors=5000" in line
    *fitted, failed = json.loads((out / "summary.json").read_text())["configurations"]
    assert sorted(one["head"] for one in fitted) == ["knn", "ridge"]
    assert failed["error"]
