"""What it takes to fit on a matrix, in bytes, and whether its rows are to be reduced first."""

from __future__ import annotations

from dataclasses import dataclass

from permafrost.stages.errors import InputError

# From this many features for each row on, a reduction costs no more than it saves in one fit of a
# logistic regression (measured with 200 and 1,000 rows of 512 to 50,000 features).
WIDE = 4

# Up to so many values a direct fit takes a fraction of a second, and gives scikit-learn's model. At
# the default tolerance, one on reduced rows would stop at another distance from the optimum.
SMALL = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most memory that a fit takes, on rows as they are (dense) and on reduced rows.

    Attributes
    ----------
    n_rows, n_features : int
        Of the rows to fit on.
    memory_bytes : int
        What there is.
    fit_bytes : int
        What the learner adds to each value that it fits on.
    """

    n_rows: int
    n_features: int
    memory_bytes: int
    fit_bytes: int

    @property
    def is_wide(self) -> bool:
        """Whether a reduction costs less than it saves, and saves enough to be felt."""
        is_small = self.n_rows * self.n_features <= SMALL
        return self.n_features > WIDE * self.n_rows and not is_small

    @property
    def block_bytes(self) -> int:
        """One block of columns; the larger, the fewer times a chunk of the file is read."""
        return self.memory_bytes // 4

    @property
    def gram_bytes(self) -> int:
        """A matrix of inner products, with the mean and variance of each column."""
        return 8 * self.n_rows**2 + 16 * self.n_features

    @property
    def rows_bytes(self) -> int:
        """All rows as they are."""
        return 4 * self.n_rows * self.n_features

    @property
    def reduced_bytes(self) -> int:
        """Reduced rows, the same with length 1, a training set of them, and its fit."""
        return 8 * self.n_rows**2 + self.job_bytes(is_reduced=True)

    def dense_bytes(self, *, n_sets: int) -> int:
        """Count the rows, a scaled copy where they are needed again, a training set, its fit."""
        if n_sets == 1:
            return self.job_bytes(is_reduced=False)
        return self.rows_bytes + self.job_bytes(is_reduced=False)

    def job_bytes(self, *, is_reduced: bool) -> int:
        """Count what every process has for itself: scaled rows, a training set, its fit."""
        if is_reduced:
            return self.n_rows**2 * (8 + 8 + self.fit_bytes)
        return self.n_rows * self.n_features * (4 + 4 + self.fit_bytes)

    def fits_dense(self, *, n_sets: int) -> bool:
        """Whether there is room for the rows as they are."""
        return self.dense_bytes(n_sets=n_sets) <= self.memory_bytes

    def count_grams(self) -> int:
        """Return how many matrices of inner products there is room for at a time."""
        left = self.memory_bytes - self.block_bytes - self.reduced_bytes
        return max(0, left // self.gram_bytes)

    def count_jobs(self, *, is_reduced: bool) -> int:
        """Return how many processes there is room for; one takes what there is."""
        if is_reduced:
            used = self.block_bytes + self.reduced_bytes + self.gram_bytes
        else:
            used = self.dense_bytes(n_sets=2)
        return 1 + max(0, self.memory_bytes - used) // self.job_bytes(is_reduced=is_reduced)

    def should_reduce(self, *, n_sets: int, may_reduce: bool) -> bool:
        """Choose the faster way of those that there is room for.

        Parameters
        ----------
        n_sets : int
            How many training sets there are.
        may_reduce : bool
            Whether the learner can do with reduced rows.

        Raises
        ------
        InputError
            There is room for neither.
        """
        fits = self.fits_dense(n_sets=n_sets)
        if may_reduce and self.count_grams():
            return self.is_wide or not fits
        if fits:
            return False
        dense = self.dense_bytes(n_sets=n_sets)
        reduced = (self.gram_bytes + self.reduced_bytes) * 4 // 3
        needed = min(dense, reduced) if may_reduce else dense
        raise InputError(
            f"fitting on {self.n_rows} rows of {self.n_features} features takes"
            f" {format_bytes(needed)}, more than the {format_bytes(self.memory_bytes)} allowed;"
            f" give it --memory {format_bytes(needed)}, or stream the rows with"
            " --head sgd or --head mlp"
        )


def format_bytes(n_bytes: int) -> str:
    """Return, as in ``520MB``, no less than what is given: what is asked for must suffice."""
    if n_bytes < 10**6:
        return f"{-(-n_bytes // 10**3)}KB"
    if n_bytes < 10**9:
        return f"{-(-n_bytes // 10**6)}MB"
    return f"{-(-n_bytes // 10**8) / 10:g}GB"
