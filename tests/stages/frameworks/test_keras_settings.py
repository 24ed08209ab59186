"""Keras' settings, found out without Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = """
import json, sys
from permafrost.stages.frameworks.start import find_keras_settings
before = find_keras_settings()
assert "keras" not in sys.modules
import keras
print(json.dumps([before, find_keras_settings()]))
"""


def test_settings_are_the_same_before_and_after_keras_is_imported(tmp_path: Path) -> None:
    settings = {"image_data_format": "channels_first", "epsilon": 1e-5}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert before == after
    assert before == {"backend": "tensorflow", "floatx": "float32", **settings}
