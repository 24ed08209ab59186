"""Real images and a real network, made on the spot; and the command line, called in process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from permafrost import stamps
from tests.helpers.answers import Answer, Command
from tests.helpers.inputs import LAYERS, write_model, write_photos
from tests.helpers.towers import save_tower


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 12 small photos in two classes."""
    return write_photos(tmp_path / "photos", n_each=6)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were written just now count as written long ago."""
    monkeypatch.setattr(stamps, "CLOCK_STEP_NS", 0)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small Keras model."""
    return write_model(tmp_path_factory.mktemp("model") / "small.keras")


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a small preset of ``CLIP`` or ``SigLIP``, which no test may change."""
    pytest.importorskip("keras_hub", reason="the extra hub is not installed")
    pytest.importorskip("sentencepiece", reason="no tokenizer can be trained without it")
    made: dict[str, Path] = {}

    def find(family: str) -> Path:
        if family not in made:
            made[family] = save_tower(family, tmp_path_factory.mktemp(family) / family.lower())
        return made[family]

    return find


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process."""
    from permafrost.pipeline.cli.main import main

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse, of a wrong option
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


@pytest.fixture
def extract(command: Command, photos: Path, backbone: Path, tmp_path: Path) -> Command:
    """Call ``extract`` with what the other fixtures made; options can be added and replaced."""

    def call(
        *options: object,
        images: object = photos,
        model: object = backbone,
        layers: str = LAYERS,
        cache: object = tmp_path / "cache",
        out: object = tmp_path / "features.h5",
    ) -> Answer:
        source = () if images is None else ("--images", images)
        return command(
            *("extract", *source, "--backbone", model, "--layers", layers),
            *("--cache", cache, "--out", out, "--json", *options),
        )

    return call
