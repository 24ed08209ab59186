"""scikit-learn's 1,797 handwritten digits as labelled, split image files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEST_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Digits:
    """Some of the digits; all arrays are of one length.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, 8, 8, 1)
    labels : ndarray of int64, shape (n,)
    splits : ndarray of str, shape (n,)
        ``"train"`` or ``"test"``.
    paths : ndarray of str, shape (n,)
        ``split/label/number.png``, under which `write_digits` writes them.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    paths: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def train(self) -> Digits:
        """Those of the training split."""
        return self._keep(self.splits == "train")

    @property
    def test(self) -> Digits:
        """Those of the test split."""
        return self._keep(self.splits == "test")

    def select(self, labels: Iterable[int]) -> Digits:
        """Return those with the given labels."""
        return self._keep(np.isin(self.labels, list(labels)))

    def thin_out(self, n_per_label: int, *, seed: int) -> Digits:
        """Return all test digits, but only `n_per_label` training digits of each label."""
        # Drawn at random: the first ones in the collection come from one writer's hand.
        shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(self.splits == "train"))
        keep = self.splits == "test"
        for label in np.unique(self.labels):
            keep[shuffled[self.labels[shuffled] == label][:n_per_label]] = True
        return self._keep(keep)

    def _keep(self, rows: NDArray[np.bool_]) -> Digits:
        return Digits(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


def load_digits(*, seed: int) -> Digits:
    """Load the digits that come with scikit-learn and split them, stratified by label."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bundled = datasets.load_digits()
    labels = bundled.target.astype(np.int64)
    _, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed
    )
    splits = np.full(len(labels), "train")
    splits[test] = "test"
    names = zip(splits, labels, strict=True)
    paths = [f"{split}/{label}/{number:04d}.png" for number, (split, label) in enumerate(names)]
    # The collection counts ink from 0 to 16.
    pixels = np.rint(bundled.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Digits(pixels=pixels, labels=labels, splits=splits, paths=np.array(paths))


def write_digits(digits: Digits, folder: Path) -> None:
    """Write the digits as grey PNG files below `folder`; files that exist are left alone."""
    for pixels, path in zip(digits.pixels, digits.paths, strict=True):
        file = folder / str(path)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            # Hidden until it is whole, or a kill would leave half an image for ever.
            partial = file.with_name(f".{file.name}")
            Image.fromarray(pixels[..., 0]).save(partial)
            partial.replace(file)
