"""Which way of computing is the fastest on this machine, as the index remembers it."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from permafrost.cache.store.index import Index
from permafrost.pipeline.forward.kept_model import describe_program, digest_facts, place_model
from permafrost.pipeline.options import FeatureOptions
from permafrost.stages.engines.program import ProgramSpec, Verdict, Work
from permafrost.stages.engines.support import describe_processor
from permafrost.stages.shortcuts.choice import WAYS

if TYPE_CHECKING:
    from permafrost.pipeline.planning.prepare import Preparation

# So much work is worth a few seconds of trying every way.
_LONG_S = 60.0


class Verdicts:
    """Recalls and remembers verdicts.

    Parameters
    ----------
    index : Index, optional
        Without it nothing is remembered.
    asked : str
        ``"auto"``, or the way that the program is to be.

    Attributes
    ----------
    verdict : Verdict or None
        Of the program that was built last, once there is one.
    """

    def __init__(self, index: Index | None = None, asked: str = "auto") -> None:
        self._index = index
        self._asked = asked
        self.verdict: Verdict | None = None

    def describe_work(
        self, features: FeatureOptions, prepared: Preparation, spec: ProgramSpec
    ) -> Work:
        """Describe what a program is built for, with the way that is known to be the fastest.

        Of OpenVINO, it says where the model is kept.
        """
        # Only there, as another engine may run where there is no TensorFlow.
        is_timed, is_openvino = (features.engine == one for one in ("tensorflow", "openvino"))
        key = _name_memo(prepared, spec) if is_timed else ""
        if self._asked != "auto":
            self.verdict = Verdict(way=self._asked)
        elif is_timed and self._index:
            self.verdict = _read(self._index.memo(key), n_images=prepared.n_rows)

        def note(verdict: Verdict) -> None:
            self.verdict = verdict
            if self._index:
                self._index.add_memo(key, json.dumps(asdict(verdict)))

        # Where all rows are there, as for a comparison, nothing lies beside them.
        keeps = self._index and is_openvino and prepared.plan.of_network
        return Work(
            batch_size=prepared.fitting.batch_size,
            n_images=prepared.n_rows,
            way=self.verdict.way if self.verdict else None,
            note=note,
            keep=place_model(prepared, spec) if keeps else None,
        )


def _name_memo(prepared: Preparation, spec: ProgramSpec) -> str:
    # The weights too: they decide whether the numbers are close enough.
    facts = describe_program(prepared, spec) | {
        "batch_size": prepared.fitting.batch_size,
        "processor": describe_processor(),
        "tensorflow": importlib.metadata.version("tensorflow"),
    }
    return f"program {digest_facts(facts)}"


def _read(memo: str | None, *, n_images: int) -> Verdict | None:
    """Read what was remembered; None where much work is worth the ways that were left untried.

    None as well of what an index that was garbled says.
    """
    try:
        verdict = Verdict(**json.loads(memo or ""))
        seconds = n_images / verdict.images_per_second[verdict.way] if verdict.untried else 0.0
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return None
    return verdict if verdict.way in WAYS and seconds < _LONG_S else None
