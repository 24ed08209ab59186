"""Numbers on the command line, read as people write them."""

from __future__ import annotations

import pytest

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.parsers import parse_bytes, parse_size
from tests.helpers.answers import Command


@pytest.mark.parametrize(
    "options",
    [
        *(
            ["--workers", "1_0"],
            ["--seed", "１"],
            ["--batch-size", "3_2"],
            ["--batch-size", "３２"],
        ),
        *(["--size", "３２"], ["--size", "3_2"], ["--memory", "４GB"], ["--split", "test=0.3_0"]),
        *(["--isolate", "--image-timeout", "nan"], ["--isolate", "--image-timeout", "1_0"]),
    ],
    ids=" ".join,
)
def test_what_only_python_takes_for_a_number_is_refused(
    extract: Command, options: list[str]
) -> None:
    answer = extract(*options)
    assert answer.status == 2
    assert answer.err.startswith("permafrost: ")
    assert options[-1].removeprefix("test=") in answer.err


@pytest.mark.parametrize(
    ("command_name", "options"),
    [
        ("fit", ["--cv", "1_0", "--head", "logreg", "--layer", "x"]),
        ("sweep", ["--jobs", "1_0", "--heads", "logreg"]),
        ("gc", ["--keep-days", "3_0"]),
        ("verify", ["--sample", "0.0_1"]),
    ],
)
def test_other_commands_are_as_strict(
    command: Command, command_name: str, options: list[str]
) -> None:
    place = () if command_name in ("gc", "verify") else ("--features", "f.h5", "--out", "out")
    answer = command(command_name, *place, *options)
    assert answer.status == 2
    assert f"argument {options[0]}: '{options[1]}' is not a" in answer.err


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "GB"])
def test_amounts_beyond_all_bounds_are_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="write it as 4GB"):
        parse_bytes(text)
    with pytest.raises(PipelineError, match="write it as 224"):
        parse_size(text)
