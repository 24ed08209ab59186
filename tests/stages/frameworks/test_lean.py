"""What is imported beside TensorFlow, and by whom."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import threading

import pytest

from permafrost.stages.frameworks import lean
from tests.helpers import ROOT

CODE = """
import sys
from permafrost.stages.frameworks import lean, start
{claim}
start.start_tensorflow()
print(sorted({{"pandas", "scipy", "sklearn"}} & set(sys.modules)))
import scipy.sparse, sklearn, keras
print(keras.ops.convert_to_numpy(keras.ops.add([1.0], 2.0)))
"""


def _run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_command_imports_tensorflow_without_what_it_can_spare_and_can_have_it_later() -> None:
    assert _run(CODE.format(claim="lean.claim_process()")) == ["[]", "[3.]"]


def test_whoever_uses_the_library_has_keras_whole() -> None:
    told, values = _run(CODE.format(claim=""))
    assert "sklearn" in told
    assert values == "[3.]"


def test_only_the_importing_thread_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "_claims", [True])
    monkeypatch.setattr(lean, "_OPTIONAL", ("wave",))
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    found = []
    thread = threading.Thread(target=lambda: found.append(importlib.import_module("wave")))
    with lean.importing_lean():
        with pytest.raises(ModuleNotFoundError, match="wave"):
            importlib.import_module("wave")
        thread.start()
        thread.join()
    assert found[0].__name__ == "wave"


def test_garbage_is_searched_for_again_also_after_an_import_that_fails() -> None:
    finders = list(sys.meta_path)
    with pytest.raises(ImportError), lean.importing_lean():
        assert not gc.isenabled()
        importlib.import_module("permafrost.no_such_module")
    assert gc.isenabled()
    assert sys.meta_path == finders
