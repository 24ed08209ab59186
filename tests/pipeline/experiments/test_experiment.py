"""What an experiment's file stands for: its folders, layers and heads."""

from __future__ import annotations

import pytest
import yaml

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.experiment import name_folders, read_experiment
from tests.helpers.experiments import RIDGES


def read(tmp_path, **replaced):
    file = tmp_path / "experiment.yaml"
    content = {
        "images": "a",
        "backbones": [{"name": "vgg16", "layers": ["a"]}],
        "heads": [{"kind": "logreg"}],
        "out": "runs",
    }
    file.write_text(yaml.safe_dump(content | replaced, sort_keys=False))
    return read_experiment(file)


def test_backbones_that_read_alike_have_folders_of_their_own():
    names = ["a/b", "a-b", "a b", "..", "卷积", "best"]
    assert name_folders(names) == ["a-b", "a-b-2", "a-b-3", "unnamed", "unnamed-2", "best-2"]


def test_the_same_head_twice_is_tried_once(tmp_path):
    heads = [{"kind": "logreg", "C": [1, 1], "scale": "l2"}]
    heads += [{"kind": "logreg", "scale": "l2", "C": 1}]
    assert len(read(tmp_path, heads=heads).sweep.candidates) == 1
    assert len(read(tmp_path, heads=RIDGES).sweep.candidates) == 6


def test_layers_are_tried_alone_and_told_apart_where_backbones_share_them(tmp_path):
    one = {"name": "vgg16", "layers": ["fc1", "fc1:none", "block5_pool:avg"]}
    other = {"name": "vgg19", "layers": ["block5_pool:max", "block5_conv4:avg"]}
    layers = read(tmp_path, backbones=[one, other]).sweep.layers
    assert layers == (
        *("fc1", "vgg16/block5_pool:avg", "vgg19/block5_pool:max", "block5_conv4:avg"),
    )
    assert read(tmp_path, layers=["a+a:avg"]).sweep.layers == ("a+a:avg",)


def test_views_are_a_text_or_a_list(tmp_path):
    for views in ("identity,hflip", ["identity", "hflip"]):
        backbone = {"name": "vgg16", "layers": ["a"], "view": views}
        experiment = read(tmp_path, backbones=[backbone], average_views=True)
        assert [one.views for one in experiment.backbones.values()] == [("identity", "hflip")]
        assert experiment.sweep.data.average_views is True
    with pytest.raises(PipelineError, match=r"backbones\.0: unknown view 'hflop'; did you mean"):
        read(tmp_path, backbones=[{"name": "vgg16", "layers": ["a"], "view": ["hflop"]}])


def test_predict_is_one_or_several(tmp_path):
    one = {"images": "new/", "out": "new.csv"}
    assert len(read(tmp_path, predict=one).predictions) == 1
    assert len(read(tmp_path, predict=[one, one | {"out": "b.csv"}]).predictions) == 2
    assert read(tmp_path, predict=None).predictions == ()


def test_how_it_is_gone_about_may_be_in_the_file(tmp_path):
    experiment = read(
        tmp_path, memory="1GB", batch_size=8, workers=2, on_error="fail", materialize=True, jobs=3
    )
    run = experiment.run
    assert (run.memory_bytes, run.batch_size, run.workers) == (10**9, 8, 2)
    assert (run.on_error, run.materialize) == ("fail", True)
    assert (experiment.sweep.data.memory_bytes, experiment.sweep.jobs) == (10**9, 3)
    assert read(tmp_path, batch_size="auto").run.batch_size is None
