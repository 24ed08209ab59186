"""YAML says what it shows."""

from __future__ import annotations

import io

import pytest

from permafrost.pipeline.experiments.yaml_text import read_yaml


def test_numbers_are_read_as_they_are_written() -> None:
    text = "[0, 10, -3, +4, 0.5, .5, 1., 1.0e-3, '1_0', 1e-3]"
    assert read_yaml(io.StringIO(text)) == [0, 10, -3, 4, 0.5, 0.5, 1.0, 1e-3, "1_0", "1e-3"]


@pytest.mark.parametrize("text", ["1_0", "010", "0x10", "0b11", "1:30", "1_0.5", "1:30.5"])
def test_numbers_that_mean_another_in_yaml_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text} is another number in YAML; write 10, 0.5 or '"):
        read_yaml(io.StringIO(f"cv: {text}"))
