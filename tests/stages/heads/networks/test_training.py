"""A fit that is killed goes on at the epoch where it was, and ends as if it had not been."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import HEADS, FitRows, State, parse_settings
from permafrost.stages.heads.networks.held_out import choose_held_out
from permafrost.stages.matrices.matrix import ArrayMatrix, RowOrigin

DIGITS = load_digits()
X, Y = DIGITS.data[:120].astype(np.float32) / 16, DIGITS.target[:120].astype(str)
CLASSES = Targets(task="classification", values=Y, classes=np.unique(Y))
IMAGES = ArrayMatrix(X, RowOrigin(shape=(8, 8, 1), is_image=True))
SETTINGS = {
    "filters": "4",
    "convolutions": "1",
    "hidden": "8",
    "epochs": "4",
    "patience": "3",
    "augment": "flip+crop",
}


class KilledError(Exception):
    """What a kill is here: the fit does not go on."""


@dataclass
class Memory:
    """Keeps the state in memory, and kills the fit once it has been kept so often."""

    kept: list[State] = field(default_factory=list)
    n_until_killed: int = 1000
    told: list[str] = field(default_factory=list)

    def load(self) -> State | None:
        return self.kept[-1] if self.kept else None

    def keep(self, state: State) -> None:
        self.kept.append({name: value.copy() for name, value in state.items()})
        if len(self.kept) == self.n_until_killed:
            raise KilledError

    def tell(self, text: str) -> None:
        self.told.append(text)


def fit(kind: str = "cnn", *, checkpoint: Memory | None = None, **settings: str) -> Any:
    rows = FitRows(
        matrix=IMAGES,
        targets=CLASSES,
        train=np.arange(len(X)),
        groups=np.arange(len(X)),
        seed=3,
        memory_bytes=10**9,
        checkpoint=checkpoint,
    )
    own = SETTINGS if kind == "cnn" else {"epochs": "5", "hidden": "8"}
    return HEADS[kind].fit(parse_settings(kind, own | settings), rows)


@pytest.mark.parametrize(
    "n_epochs", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))]
)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_killed_after_any_epoch_it_ends_as_if_it_had_not_been(
    schedule: str, n_epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However short an epoch is.
    monkeypatch.setattr("permafrost.stages.heads.networks.training._KEEPING_SHARE", 1e9)
    whole = fit(schedule=schedule)
    assert len(whole.history) == 4
    checkpoint = Memory(n_until_killed=n_epochs)
    with pytest.raises(KilledError):
        fit(checkpoint=checkpoint, schedule=schedule)
    resumed = fit(checkpoint=replace(checkpoint, n_until_killed=1000), schedule=schedule)
    assert [one.loss for one in resumed.history] == [one.loss for one in whole.history]
    for ours, theirs in zip(resumed.network.weights, whole.network.weights, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())


def test_a_long_fit_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permafrost.stages.heads.networks.training._TELL_S", 0)
    checkpoint = Memory()
    last = fit("mlp", checkpoint=checkpoint).history[-1]
    assert len(checkpoint.told) == 5
    assert checkpoint.told[-1].startswith(f"mlp: epoch 5 of 5, loss {last.loss:.4f}, accuracy ")


def test_a_state_of_another_network_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = Memory()
    fit("mlp", checkpoint=checkpoint)
    assert checkpoint.kept
    head = fit("mlp", checkpoint=checkpoint, hidden="9")
    assert "of another network" in caplog.text
    assert len(head.history) == 5


def test_a_rate_that_makes_no_sense_is_named() -> None:
    with pytest.raises(InputError, match=r"cnn diverged with learning_rate=1e.30: give"):
        fit(learning_rate="1e30", optimizer="sgd")


def test_accuracy_and_loss_are_those_of_the_rows_held_out() -> None:
    """The last epoch's figures, measured again with the head that it left."""
    head = fit(epochs="1", augment="none")
    said = head.history[-1]
    classes, codes = np.unique(Y, return_inverse=True)
    watched = choose_held_out(codes, np.arange(len(X)), seed=3)
    outputs = head.predict(X[watched])
    assert said.held_out_accuracy == pytest.approx((outputs.argmax(1) == codes[watched]).mean())
    expected = -np.log(outputs[np.arange(len(watched)), codes[watched]]).mean()
    assert said.held_out_loss == pytest.approx(expected, rel=1e-5)
    assert len(classes) == len(head.classes)
