"""The folders that an experiment's heads are kept in."""

from __future__ import annotations

import yaml

from permafrost.pipeline.experiments.run import list_fits
from permafrost.pipeline.experiments.schema import read_experiment
from permafrost.pipeline.options import RunOptions
from tests.helpers.experiments import RIDGES


def name_fits(layers, heads, tmp_path):
    file = tmp_path / "names.yaml"
    backbones = [{"name": "vgg16", "layers": layers}]
    content = {"images": "a", "backbones": backbones, "heads": heads, "out": "runs"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    experiment = read_experiment(file)
    fits = list_fits(experiment, experiment.backbones[0], tmp_path / "features.h5", RunOptions())
    return [str(fit.out.relative_to(tmp_path)) for fit in fits]


def test_layers_and_heads_that_read_alike_have_folders_of_their_own(tmp_path):
    heads = [{"kind": "logreg"}]
    layers = ["a/b", "a-b", "a b", "..", "卷积"]
    assert name_fits(layers, heads, tmp_path) == [
        *("a-b/logreg", "a-b-2/logreg", "a-b-3/logreg", "unnamed/logreg", "unnamed-2/logreg")
    ]
    assert name_fits(["a:avg", "a-avg"], heads, tmp_path) == ["a-avg/logreg", "a-avg-2/logreg"]
    ridges = [f"ridge-alpha={alpha}-class_weight=china-2" for alpha in (1, 10, 100)]
    assert [f"a/{name}" for name in ridges] == name_fits(["a"], RIDGES, tmp_path)[1::2]
    hidden = [{"kind": "mlp", "hidden": [[256], [256, 128]]}]
    assert name_fits(["a"], hidden, tmp_path) == ["a/mlp-hidden=256", "a/mlp-hidden=256-128"]


def test_the_same_head_twice_is_fitted_once(tmp_path):
    heads = [{"kind": "logreg", "C": [1, 1], "scale": "l2"}]
    heads += [{"kind": "logreg", "scale": "l2", "C": 1}]
    assert name_fits(["a", "a:none"], heads, tmp_path) == ["a/logreg-C=1-scale=l2"]
