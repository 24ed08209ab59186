"""The state of a training on disk, so that a killed fit goes on at its last finished epoch."""

from __future__ import annotations

import logging
import shutil
from dataclasses import astuple, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from permafrost.cache.disk.publish import make_folder, published, remove_durably
from permafrost.pipeline.outputs import write_rows
from permafrost.pipeline.progress import tell
from permafrost.refusals import raise_refusal
from permafrost.stages.heads import Epoch, State

_log = logging.getLogger(__name__)

FOLDER_NAME = "training"
EPOCHS_NAME = "epochs.csv"
EPOCH_COLUMNS = ("epoch", "loss", "accuracy", "held_out_loss", "held_out_accuracy", "seconds")
# The epochs of each fit by its fold; None is the fit on all training rows.
Epochs = dict[int | None, tuple[Epoch, ...]]
# So much of a digest names a fit.
_KEY_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class FileCheckpoint:
    """A file with the state of one fit; see `stages.heads.Checkpoint`.

    Attributes
    ----------
    rows : str
        What people call the rows that are fitted on.
    """

    path: Path
    rows: str

    def load(self) -> State | None:
        """Return what was kept; None where there is nothing, or it is damaged."""
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise_refusal(error, self.path)
            _log.warning("%s is damaged, the fit begins anew: %s", self.path, error)
            return None

    def keep(self, state: State) -> None:
        """Put a state in the place of the one before."""
        make_folder(self.path.parent)
        with published(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **state)  # type: ignore[arg-type]

    def tell(self, text: str) -> None:
        """Write a line for people."""
        tell("training", f"{self.rows}, {text}")

    def forget(self) -> None:
        """Remove what was kept, once the fit itself is."""
        self.path.unlink(missing_ok=True)


def find_checkpoint(out: Path, key: str, fold: int | None) -> FileCheckpoint:
    """Return where the fit of a digest keeps its state.

    Parameters
    ----------
    out : Path
        Of ``fit`` or ``sweep``.
    key : str
        Digest of all that the fit depends on but for the fold.
    fold : int, optional
        None for the fit on all training rows.
    """
    part = "all" if fold is None else str(fold)
    rows = "all training rows" if fold is None else f"fold {fold}"
    # Absolute: processes of a sweep work in another folder.
    folder = out.absolute() / FOLDER_NAME
    return FileCheckpoint(folder / f"{key[:_KEY_CHARACTERS]}-{part}.npz", rows)


def forget_checkpoints(out: Path) -> None:
    """Remove all states, once what came of them is kept."""
    shutil.rmtree(out / FOLDER_NAME, ignore_errors=True)


def describe_epoch(epoch: Epoch) -> list[object]:
    """Return the fields of `EPOCH_COLUMNS`; nothing where there is nothing to say."""
    number, *figures = astuple(epoch)
    return [number, *("" if np.isnan(one) else f"{one:.6g}" for one in figures)]


def write_epochs(out: Path, epochs: Epochs) -> None:
    """Write ``epochs.csv``, where there are any: by fold, none for the fit on all training rows."""
    rows = [
        ["" if fold is None else fold, *describe_epoch(epoch)]
        for fold, several in epochs.items()
        for epoch in several
    ]
    if rows:
        write_rows(out / EPOCHS_NAME, ["fold", *EPOCH_COLUMNS], rows)
    else:
        remove_durably(out / EPOCHS_NAME)  # Those of an earlier fit.
