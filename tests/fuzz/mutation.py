"""Mutations of valid samples: what reaches deeper than noise."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

_MOST_EDITS = 6


def mutate(samples: Sequence[bytes], tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy of samples with a few edits: bytes and tokens in, out, over and twice.

    Parameters
    ----------
    samples : sequence of bytes
        Valid ones.
    tokens : sequence of bytes
        What has a meaning in their language.
    """
    place = st.floats(0, 1)
    insert = st.tuples(
        st.just("insert"), place, st.sampled_from(tokens) | st.binary(min_size=1, max_size=4)
    )
    cut = st.tuples(st.just("cut"), place, place)
    repeat = st.tuples(st.just("repeat"), place, st.integers(1, 40))
    overwrite = st.tuples(st.just("overwrite"), place, st.binary(min_size=1, max_size=8))
    edits = st.lists(insert | cut | repeat | overwrite, max_size=_MOST_EDITS)
    return st.builds(_apply, st.sampled_from(samples), edits)


def _apply(sample: bytes, edits: list[tuple[str, float, object]]) -> bytes:
    for kind, place, what in edits:
        at = int(place * len(sample))
        match what:
            case bytes() if kind == "insert":
                sample = sample[:at] + what + sample[at:]
            case bytes():
                sample = sample[:at] + what + sample[at + len(what) :]
            case int():
                sample = sample[:at] + sample[at : at + 20] * what + sample[at + 20 :]
            case float():
                start, stop = sorted((at, int(what * len(sample))))
                # Ten bytes or all between: a small hole leaves the rest in its place.
                sample = sample[:start] + sample[stop if stop - start > 200 else start + 10 :]
    return sample
