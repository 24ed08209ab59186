"""An option of a feature set is declared as a field; whoever has to know it follows."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any, cast

import pytest

from permafrost.cache.store.recipe import recipe_key
from permafrost.pipeline.api.transformer import BackboneFeatures
from permafrost.pipeline.cli.parser import build_parser
from permafrost.pipeline.experiments.schema import (
    BackboneSection,
    ExperimentSection,
    read_section,
)
from permafrost.pipeline.options import DatasetOptions, FeatureOptions, RunOptions, name_key
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.recipe import build_recipe
from permafrost.pipeline.sweeps.plan import SweepOptions
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.stages.backbones.layers import LayerCard, parse_layer_spec

OPTIONS = [option for option in fields(FeatureOptions) if option.default is not MISSING]
CHOSEN = [option for option in OPTIONS if "choices" in option.metadata]


def find_key(**options: str) -> str:
    """Return the key of a feature set without its network."""
    features = FeatureOptions(backbone="any", layers=("last",), **cast("Any", options))
    layer = LayerCard(shape=(8, 8, 2), digest="0")
    card = SimpleNamespace(name="any", channels=3, size=(8, 8), find_layer=lambda _: layer)
    resizing = features.resize, features.resize_mode
    told = SimpleNamespace(card=card, preprocess=features.preprocess, resizing=resizing)
    backbone = cast("Backbone", told)
    return recipe_key(build_recipe(features, backbone, parse_layer_spec("last")))


@pytest.mark.parametrize("option", CHOSEN, ids=lambda option: str(option.name))
def test_every_choice_is_another_recipe(option: Any) -> None:
    choices = list(option.metadata["choices"])
    assert len({find_key(**{option.name: choice}) for choice in choices}) == len(choices) > 1


def test_the_transformer_takes_every_option_with_its_default() -> None:
    parameters = inspect.signature(BackboneFeatures).parameters
    assert {option.name: option.default for option in OPTIONS} == {
        option.name: parameters[option.name].default for option in OPTIONS
    }


def test_an_experiment_takes_every_option_with_its_default() -> None:
    layers = ("last",)
    keys = BackboneSection(name="vgg16", layers=["last"]).model_dump()
    options = read_section(FeatureOptions, keys, backbone="vgg16", layers=layers)
    assert options == FeatureOptions(backbone="vgg16", layers=layers)
    assert set(BackboneSection.model_fields) == {"name", "layers", *(one.name for one in OPTIONS)}


@pytest.mark.parametrize("options", [DatasetOptions, TaskOptions, SweepOptions, RunOptions])
def test_what_the_command_line_takes_is_a_key_of_an_experiment(options: Any) -> None:
    declared = {name_key(one) for one in fields(options) if one.metadata}
    # An experiment has files of features of its own, and one `out` for all.
    declared -= {"features", "out", "data", "answer"}
    assert declared <= set(ExperimentSection.model_fields)


@pytest.mark.parametrize("command", ["extract", "plan"])
def test_what_is_not_typed_is_left_to_the_field(command: str) -> None:
    required = ["--images", "photos", "--backbone", "vgg16", "--layers", "last", "--out", "f.h5"]
    parsed = build_parser().parse_args([command, *required])
    assert not vars(parsed).keys() & {option.name for option in OPTIONS}
