"""What the recipes say, without their runners: no option is misspelt, and each is documented."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from permafrost.pipeline.cli.parser import build_parser
from permafrost.stages.heads import parse_settings
from tests.helpers import ROOT
from tests.helpers.workflows import EXAMPLES, Workshop, find_runner

CONFIG = yaml.safe_load((EXAMPLES / "config.yaml").read_text())


def test_the_options_of_the_config_are_those_of_the_command_line() -> None:
    parse = build_parser().parse_args
    for dataset in CONFIG["datasets"]:
        options = shlex.split(dataset["options"])
        assert parse(["index", dataset["images"], *options, "--out", "m.csv"]).split
    for backbone in CONFIG["backbones"]:
        options = shlex.split(backbone["options"])
        parsed = parse(["extract", "--manifest", "m.csv", *options, "--out", "f.h5"])
        assert parsed.backbone == backbone["name"]
    swept = parse(["sweep", "--features", "f.h5", *shlex.split(CONFIG["sweep"]), "--out", "out"])
    assert parse_settings(swept.heads[0], {"C": "1"})


def test_make_would_run_the_commands_of_the_config(tmp_path: Path) -> None:
    make = find_runner("make")
    shutil.copy(EXAMPLES / "Makefile", tmp_path)
    for dataset in CONFIG["datasets"]:
        (tmp_path / dataset["images"]).mkdir()
    lines = Workshop(tmp_path).call(make, "--dry-run").splitlines()
    commands = [shlex.split(line.partition(" && ")[0])[1:] for line in lines]
    parsed = [build_parser().parse_args(command) for command in commands]
    n_datasets, n_backbones = len(CONFIG["datasets"]), len(CONFIG["backbones"])
    assert sorted(one.command for one in parsed) == sorted(
        ["index"] * n_datasets + ["extract", "sweep"] * n_datasets * n_backbones
    )
    for one in (*CONFIG["datasets"], *CONFIG["backbones"]):
        assert any(one["options"] in line for line in lines)
    assert any(CONFIG["sweep"] in line for line in lines)


@pytest.mark.parametrize("file", sorted(EXAMPLES.iterdir()), ids=lambda file: file.name)
def test_every_recipe_is_documented(file: Path) -> None:
    if file.is_file():
        page = (ROOT / "docs" / "runners.md").read_text()
        assert f"(../examples/workflows/{file.name})" in page
