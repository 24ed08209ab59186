"""Which backend Keras is set to, found out without Keras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

CODE = """
import sys
from permafrost.stages.frameworks.start import find_keras_backend
print(find_keras_backend(), "keras" in sys.modules)
"""


@pytest.mark.parametrize(
    ("settings", "variable", "backend"),
    [
        (None, None, "tensorflow"),
        ('{"backend": "torch"}', None, "torch"),
        ('{"backend": "torch"}', "jax", "jax"),
        ('{"backend": "torch"}', "", "torch"),
        ('{"floatx": "float32"}', None, "tensorflow"),
        ("{", None, "tensorflow"),
    ],
)
def test_the_backend_is_that_of_the_variable_or_else_of_the_settings(
    settings: str | None, variable: str | None, backend: str, tmp_path: Path
) -> None:
    if settings is not None:
        (tmp_path / "keras.json").write_text(settings)
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": variable or ""}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [backend, "False"]


def test_keras_itself_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from permafrost.stages.frameworks.start import find_keras_backend

    monkeypatch.setenv("KERAS_BACKEND", "torch" if keras.config.backend() != "torch" else "jax")
    assert find_keras_backend() == keras.config.backend()


@pytest.mark.parametrize(
    ("error", "shown"), [(KeyboardInterrupt(), ""), (ImportError("no libcuda"), "chatter\n")]
)
def test_what_tensorflow_says_as_it_starts_is_shown_if_it_fails_not_if_it_is_interrupted(
    error: BaseException, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from permafrost.stages.frameworks.start import _holding_back_stderr

    with pytest.raises(type(error)), _holding_back_stderr():
        os.write(2, b"chatter\n")
        raise error
    assert capfd.readouterr().err == shown
