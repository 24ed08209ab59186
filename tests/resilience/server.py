"""A server of S3 that throttles, stumbles, cuts off and hangs up."""

from __future__ import annotations

import hashlib
import os
import random
from unittest.mock import patch

from permafrost.stages.sources import retries as patience
from permafrost.stages.sources.reading import hash_images, start_reading
from permafrost.stages.sources.source import open_source
from tests.resilience.report import NotHereError, Result, sum_up

_N_IMAGES = 120
_FAULTS = ("503", "500", "429", "cut", "reset")
_MOST_FAULTS = 3  # of one image in a row
_WAIT_S = 0.05  # instead of half a second and more


def run(seed: int) -> Result:
    try:
        import moto  # noqa: F401
        import s3fs  # noqa: F401
    except ImportError as error:
        raise NotHereError(f"{error}; pip install .[test]") from error
    from tests.helpers.serving import CREDENTIALS, serve_proxy, serve_s3, upload

    rng = random.Random(seed)
    files = {f"{number:03d}.jpg": rng.randbytes(5000) for number in range(_N_IMAGES)}
    faults = {path: rng.choices(_FAULTS, k=rng.randint(1, _MOST_FAULTS)) for path in files}

    def choose(path: str, before: int) -> str:
        # Twice: when it is hashed, and when it is loaded.
        planned = faults.get(path.rpartition("/")[2], [])
        planned = [*planned, "", *planned]
        return planned[before] if before < len(planned) else ""

    with (
        serve_proxy(serve_s3()) as proxy,
        patch.dict(os.environ, {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy.address}),
        patch.object(patience, "READ_WAITS_S", (_WAIT_S,) * (_MOST_FAULTS + 1)),
    ):
        source = open_source(upload(serve_s3(), f"bucket-{seed}", files))
        proxy.fault = choose
        digests = hash_images(source, list(files), workers=2)
        loaded = [read() for read in start_reading(source, list(files))]
    outcomes = []
    for (path, content), digest, data in zip(files.items(), digests, loaded, strict=True):
        right = digest == hashlib.sha256(content).digest() and data == content
        wrong = "" if right else f"{path} of seed {seed}, after {faults[path]}: {digest!r}"
        outcomes += [wrong] * 2 * len(faults[path])
    return sum_up(
        "answers of an S3 server that were 503, 500, 429, cut off or none: the image is read all"
        " the same",
        outcomes,
    )
