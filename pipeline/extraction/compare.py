"""``plan --compare``: every engine and precision that works here, timed on the user's images.

About a minute, whatever the network: batches are as small as a slow network needs, and what there
is no time left for is left out and said.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from permafrost.cache.store.index import Index
from permafrost.cache.store.records import Parity
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.extraction.comparison import ComparedRow, Comparison, estimate_rate
from permafrost.pipeline.extraction.sample import DecodedSample, decode_sample
from permafrost.pipeline.forward.verdicts import Verdicts
from permafrost.pipeline.forward.views import choose_view, run_views
from permafrost.pipeline.options import PRECISIONS, ExtractOptions, FeatureOptions
from permafrost.pipeline.planning.prepare import Preparation, count_missing
from permafrost.pipeline.progress import tell
from permafrost.stages.engines.program import HalvingProgram, ProgramSpec, Verdict
from permafrost.stages.engines.registry import BUILDERS, name_reference, open_reference
from permafrost.stages.engines.support import check_precision, computes_on_gpu
from permafrost.stages.errors import StageError
from permafrost.stages.shortcuts.differences import Run, measure_errors

# OpenVINO takes as many at a time.
_FEWEST_AT_ONCE = 4
# What a batch should take, and what is spent on those of one program. Longer ones are not repeated,
# and so long TensorFlow may try ways to compute the same. Then when no other program is begun.
_BATCH_S, _EACH_S, _LONGEST_S, _ALL_S = 1.0, 2.0, 8.0, 45.0
# As if there were work enough to try all ways.
_MANY = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What was found of one engine and precision: images/s, and errors by way of decoding."""

    per_second: float
    batches: int
    way: str | None
    errors: dict[str, dict[str, Parity]]


def compare(options: ExtractOptions, prepared: Preparation, index: Index) -> Comparison:
    """Time every engine and precision on at most 32 of the images that are missing.

    Where none is, they are of all images. The cache's feature sets stay as they are.

    Raises
    ------
    PipelineError
        There is no network to compare, a cluster is to compute, or no image can be decoded.
    """
    started_s = time.monotonic()
    if options.run.scheduler:
        raise PipelineError("--compare measures this machine, not a cluster; drop --scheduler")
    if all(layer.spec.is_pixels for layer in prepared.plan.layers):
        raise PipelineError(
            f"--compare times networks, and --layers {','.join(options.features.layers)} needs"
            " none; name a layer of a backbone"
        )
    sample = decode_sample(prepared, n_threads=options.run.n_threads)
    bench = _Bench(options, prepared, index, sample, until_s=started_s + _ALL_S)
    rows = [row for one in _list_candidates(options) for row in bench.compare(*one)]
    return Comparison(
        images=len(next(iter(sample.pixels.values()))),
        batch_size=bench.batch_size,
        seconds=round(time.monotonic() - started_s, 1),
        difference=sample.difference,
        rows=sorted(rows, key=lambda row: -(row.images_per_second or 0.0)),
    )


def _list_candidates(options: ExtractOptions) -> list[tuple[str, str]]:
    """List engines and precisions; what is asked for first, and last what is seldom the fastest."""
    features = options.features
    asked = features.engine, features.precision
    every = [(engine, precision) for engine in BUILDERS for precision in PRECISIONS]
    return sorted(every, key=lambda one: (one != asked, one[0] == "keras"))


class _Bench:
    """Builds one program after the other and runs the same images through each."""

    def __init__(
        self,
        options: ExtractOptions,
        prepared: Preparation,
        index: Index,
        sample: DecodedSample,
        *,
        until_s: float,
    ) -> None:
        self._options, self._prepared, self._index = options, prepared, index
        self._sample, self._until_s = sample, until_s
        self._layers = [one for one in prepared.plan.layers if not one.spec.is_pixels]
        self._spec = ProgramSpec(
            layers=tuple(dict.fromkeys(one.spec.without_view for one in self._layers)),
            preprocess=prepared.backbone.preprocess,
            view=choose_view(self._layers),
        )
        self._expected = self._run_reference()
        self.batch_size = len(self._expected[0])
        self._batches = {mode: some[: self.batch_size] for mode, some in sample.pixels.items()}

    def _run_reference(self) -> list[np.ndarray]:
        """Choose the size of batches; return what the reference makes of one."""
        pixels = next(iter(self._sample.pixels.values()))
        with closing(open_reference(self._prepared.backbone.load(), self._spec)) as reference:
            run = self._through(HalvingProgram(reference))
            run(pixels[:1])
            started_s = time.perf_counter()
            run(pixels[:1])
            each_s = time.perf_counter() - started_s
            most = min(len(pixels), self._prepared.fitting.batch_size)
            n_images = min(most, max(_FEWEST_AT_ONCE, int(_BATCH_S / each_s)))
            self._batch_s = n_images * each_s
            return run(pixels[:n_images])

    def _through(self, program: Run) -> Run:
        return partial(run_views, program, layers=self._layers, spec=self._spec)

    def compare(self, engine: str, precision: str) -> list[ComparedRow]:
        """Return a row for each way of decoding, or one that says why there is none."""
        features = replace(self._options.features, engine=engine, precision=precision)
        rows = [self._begin_row(features, mode) for mode in self._sample.pixels]
        try:
            check_precision(engine, precision)
            if time.monotonic() > self._until_s:
                return [replace(row, reason="left out, no time was left") for row in rows]
            tell("progress", f"comparing {engine} {precision}")
            measured = self._measure(features)
        except (StageError, PipelineError, MemoryError) as error:
            return [replace(row, reason=str(error) or "out of memory") for row in rows]
        finally:
            gc.collect()  # Graphs are cycles, and may hold a gigabyte.
        return [self._complete(row, measured) for row in rows]

    def _begin_row(self, features: FeatureOptions, mode: str) -> ComparedRow:
        decoding = f" --decode {mode}" if len(self._sample.pixels) > 1 else ""
        return ComparedRow(
            engine=features.engine,
            precision=features.precision,
            decode=mode,
            options=f"--engine {features.engine} --precision {features.precision}{decoding}",
            asked=replace(features, decode=mode) == self._options.features,
        )

    def _complete(self, row: ComparedRow, measured: _Measured) -> ComparedRow:
        decoding = self._sample.per_second[row.decode]
        rate = estimate_rate(
            measured.per_second,
            decoding,
            n_threads=self._options.run.n_threads,
            on_gpu=computes_on_gpu(row.engine),
        )
        features = replace(
            self._options.features, engine=row.engine, precision=row.precision, decode=row.decode
        )
        missing = count_missing(
            replace(self._options, features=features), self._prepared, self._index
        )
        return replace(
            row,
            missing=missing,
            images_per_second=_round(rate),
            forward_per_second=_round(measured.per_second),
            decoding_per_second=_round(decoding),
            seconds=_round(missing / rate),
            errors=measured.errors.get(row.decode, {}),
            program=measured.way,
            batches=measured.batches,
        )

    def _measure(self, features: FeatureOptions) -> _Measured:
        verdicts: list[Verdict] = []
        spec = replace(self._spec, precision=features.precision)
        work = Verdicts(self._index, self._options.run.program).describe_work(
            features, self._prepared, spec
        )
        work = replace(
            work, batch_size=self.batch_size, n_images=_MANY, note=verdicts.append, keep=None
        )
        chooses = features.engine == "tensorflow" and work.way is None
        with closing(
            BUILDERS[features.engine](self._prepared.backbone.load, spec, work)
        ) as program:
            seconds, outputs = self._time(program, lambda: bool(verdicts) or not chooses)
            errors = {mode: self._find_errors(outputs[mode]) for mode in outputs}
        way = verdicts[0].way if verdicts else work.way
        return _Measured(
            per_second=self.batch_size * program.n_at_once / min(seconds[1:] or seconds),
            batches=len(seconds) - 1,
            way=way if features.engine == "tensorflow" else None,
            errors=errors,
        )

    def _time(
        self, program: HalvingProgram, is_settled: Callable[[], bool]
    ) -> tuple[list[float], dict[str, list[np.ndarray]]]:
        """Return the seconds of batches, the first with its compiling, and outputs of each mode."""
        run = self._through(program)
        first, *others = batches = self._batches
        outputs: dict[str, list[np.ndarray]] = {}
        seconds: list[float] = []

        def run_all() -> None:
            started_s = time.perf_counter()
            outputs[first], *_ = pool.map(run, [batches[first]] * program.n_at_once)
            seconds.append(time.perf_counter() - started_s)

        with ThreadPoolExecutor(program.n_at_once) as pool:
            run_all()
            if self._batch_s > _LONGEST_S:
                return seconds, outputs
            while not is_settled() and sum(seconds) < _LONGEST_S:
                run_all()
            n_before = len(seconds)
            while sum(seconds[n_before:]) < _EACH_S or len(seconds) == 1:
                run_all()
        return seconds, outputs | {mode: run(batches[mode]) for mode in others}

    def _find_errors(self, outputs: list[np.ndarray]) -> dict[str, Parity]:
        """Compare a batch with that of the reference."""
        found = measure_errors(lambda _: outputs, lambda _: self._expected, [outputs[0]])
        errors = {}
        for layer, (max_error, mean_error) in zip(self._layers, found, strict=True):
            if not math.isfinite(max_error + mean_error):
                raise PipelineError(f"layer {layer.spec} has values beyond its range")
            errors[str(layer.spec)] = Parity(
                reference=name_reference(),
                images=self.batch_size,
                max_error=max_error,
                mean_error=mean_error,
            )
        return errors


def _round(figure: float) -> float:
    return float(f"{figure:.4g}")
