"""What the README and docs tell to type is typed, page by page, on small data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from tests.helpers.inputs import write_photos
from tests.helpers.pages import DOCS, PAGES, Block, read_blocks

PHOTOS = "extract --images photos/ --split test=0.3"
LAYERS = "block2_pool,block2_pool:avg,block5_pool:avg"
PREPARED = (
    f"{PHOTOS} --backbone vgg16 --layers {LAYERS} --out features.h5",
    f"{PHOTOS} --backbone none --size 32 --layers pixels --out f.h5",
    "fit --features features.h5 --layer block5_pool:avg --head logreg --out runs/logreg",
    "sweep --features features.h5 --heads logreg --cv 3 --out runs/sweep",
    "export --model runs/logreg --out classifier.keras",
)
EXPERIMENT = {
    "images": "photos/",
    "split": {"test": 0.3},
    "backbones": [{"name": "none", "size": 16, "layers": ["pixels"]}],
    "heads": [{"kind": "logreg", "C": [0.01, 0.1]}],
    "cv": 3,
    "jobs": 1,
    "out": "runs/photos",
}
RUN = """#!/bin/sh
# What "python" and "permafrost" are on a page.
case "$0 $1" in
    *python\\ run.py) shift; exec "{python}" "{root}/tests/docs/offline.py" "$@" ;;
    *permafrost\\ *) exec "{python}" "{root}/tests/docs/offline.py" "$@" ;;
    *) exec "{python}" "$@" ;;
esac
"""
# A transformer that a page makes has no weights of ImageNet either.
OFFLINE = """
from permafrost import BackboneFeatures
BackboneFeatures.__init__.__kwdefaults__ = dict(
    BackboneFeatures.__init__.__kwdefaults__ or {}, weights="random"
)
"""
BLOCKS = {page: read_blocks(page) for page in PAGES}
RUN_PAGES = [
    page
    for page, blocks in BLOCKS.items()
    if any(one.language in ("sh", "python") and not one.excuse for one in blocks)
]


def call(folder: Path, command: list[str]) -> str:
    found = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": found, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write_commands(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "permafrost"):
        file = folder / "bin" / name
        file.write_text(RUN.format(python=sys.executable, root=ROOT))
        file.chmod(0o755)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that pages speak of, once."""
    folder = tmp_path_factory.mktemp("prepared")
    write_commands(folder)
    crops = write_photos(folder / "photos", n_each=12)
    for old, new in (("china", "cat"), ("flower", "dog")):
        (crops / old).rename(crops / new)
        for number, file in enumerate(sorted((crops / new).iterdir())):
            file.rename(file.with_name(f"{number}.jpg"))
    shutil.copytree(crops / "cat", folder / "new-photos" / "cat")
    shutil.copy(crops / "cat" / "0.jpg", folder / "cat.jpg")
    for command in PREPARED:
        call(folder, ["bash", "-c", f"python run.py {command}"])
    for name in ("vgg16.h5", "mobilenet.h5"):
        shutil.copy(folder / "features.h5", folder / name)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run_block(block: Block, folder: Path, before: str) -> str:
    if block.language == "sh":
        return call(folder, ["bash", "-euo", "pipefail", "-c", block.text])
    return call(folder, [sys.executable, "-c", f"{OFFLINE}\n{before}\n{block.text}"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_works(page: Path, folder: Path) -> None:
    imports = ""  # A later block of a page goes on from the earlier ones.
    for block in BLOCKS[page]:
        if block.excuse or block.language not in ("sh", "python"):
            continue
        told = run_block(block, folder, imports)
        missing = [*find_missing(block.shown, told)]
        assert not missing, f"{block.place}: {missing} is not in\n{told}"
        if block.language == "python":
            imports += f"{block.text}\n"


def find_missing(shown: str, told: str) -> Iterator[str]:
    """Yield the lines that a page shows and a command does not say, whatever their figures."""
    lines = {hide_figures(line) for line in told.splitlines()}
    for line in shown.splitlines():
        if line != "…" and hide_figures(line) not in lines:
            yield line


def hide_figures(line: str) -> str:
    words = re.sub(r"<?[+-]?\d[\d.,]*(e-\d+)?", "#", line).split()
    return re.sub(r"#( #)+", "#", " ".join(words))


def test_lines_are_compared_but_for_their_figures() -> None:
    told = "1   0.9841    0.0050          0.2      pool        ridge\nall of 3"
    assert not [*find_missing("2   0.97  0.01  <0.001  0.2  pool  ridge\n…", told)]
    assert [*find_missing("1  0.98  0.01  0.2  pool  logreg", told)]


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    excused = [block for blocks in BLOCKS.values() for block in blocks if block.excuse]
    assert len(excused) == 27
    assert all(len(block.excuse.split()) > 2 for block in excused)


def test_the_tutorial_is_run_from_beginning_to_end() -> None:
    blocks = BLOCKS[DOCS / "tutorial.md"]
    assert [block.line for block in blocks if block.excuse] == [
        next(block.line for block in blocks if "venv" in block.text)
    ]
