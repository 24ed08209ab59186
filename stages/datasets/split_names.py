"""How splits are called: here, elsewhere, and by users who say so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from permafrost.stages.errors import InputError

SPLITS = ("train", "val", "test")
# Usual names, in lower case, and what they mean here.
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Splits for certain, but which ones depends on whom one asks.
_DOUBTFUL_NAMES = ("eval", "evaluation", "holdout", "heldout")
# What may stand beside such a name and changes nothing: val2017, test_images, hold-out set.
_FILLERS = ("set", "data", "dataset", "images", "imgs", "split", "part", "fold", "subset")
_MOST_SHOWN = 5


def parse_split_names(text: str | None) -> dict[str, str]:
    """Read ``holdout=test,eval=val``.

    Returns
    -------
    dict of str to str
        Name in lower case → one of `SPLITS`; for `normalise_splits` and others.

    Raises
    ------
    InputError
        It is written in another way.
    """
    names: dict[str, str] = {}
    for item in text.split(",") if text is not None else ():
        name, _, split = (part.strip().lower() for part in item.rpartition("="))
        if not name or split not in SPLITS:
            raise InputError(
                f"cannot read --split-names {text!r}: {item.strip()!r} gives no name a split;"
                " write, for example, holdout=test,eval=val (the splits are train, val and test)"
            )
        if names.setdefault(name, split) != split:
            raise InputError(f"--split-names {text!r} gives {name!r} two splits; give it one")
    return names


def normalise_splits(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> list[str]:
    """Return ``train``, ``val`` or ``test`` for their usual names; any other name as it is.

    Parameters
    ----------
    names : sequence of str
    chosen : mapping of str to str, optional
        Further names, as `parse_split_names` reads them.
    """
    known = {**SPLIT_NAMES, **(chosen or {})}
    found = {name: known.get(name.strip().lower(), name.strip()) for name in set(names)}
    return [found[name] for name in names]


def is_like_split(name: str) -> bool:
    """Tell whether nothing else than a split is called so: ``holdout``, ``val2017``, ``test_set``.

    Of ``train station`` it is not said, nor of anything that is not English.
    """
    plain = re.sub(r"h[oe]ld[-_ ]?out", "holdout", name.lower())
    words = [word for word in re.split(r"[^a-z]+", plain) if word]
    left = [word for word in words if word not in _FILLERS]
    return bool(left) and all(word in SPLIT_NAMES or word in _DOUBTFUL_NAMES for word in left)


def name_split(name: str) -> str:
    """Return the one split that a file's name tells, as it is called there; "" for none."""
    plain = re.sub(r"h[oe]ld[-_ ]?out", "holdout", name.lower())
    words = [word for word in re.split(r"[^a-z]+", plain) if is_like_split(word)]
    return words[0] if len(set(normalise_splits(words))) == 1 else ""


def check_splits(splits: Sequence[str], *, where: str, before: str = "") -> None:
    """Refuse rows of a split that is none: by default they would be trained on.

    Parameters
    ----------
    splits : sequence of str
    where : str
        What messages call the dataset.
    before : str
        What has to be done before splits can be named, as the start of the remedy.

    Raises
    ------
    InputError
        A split is called neither ``train``, ``val``, ``test`` nor ``""``.
    """
    strange = set(splits) - {"", *SPLITS}
    if not strange:
        return
    counts = Counter(split for split in splits if split in strange)
    named = [f"{name!r} ({n})" for name, n in counts.most_common(_MOST_SHOWN)]
    more = ", …" if len(counts) > _MOST_SHOWN else ""
    first = counts.most_common(1)[0][0]
    raise InputError(
        f"{counts.total()} images of {where} are in splits of no known name: {', '.join(named)}"
        f"{more}; {before}say what each is, as in --split-names '{first}=test', draw other splits"
        " with --split test=0.3, or rename what is a class and no split"
    )
