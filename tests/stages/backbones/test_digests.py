"""Digests: of the whole graph. What has one digest gives one output; and old digests stay."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.digests import digest_layers
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.network import KerasNetwork

SHAPE = (4, 5, 2)
IMAGES = np.random.default_rng(0).uniform(-2, 2, (2, *SHAPE)).astype(np.float32)

# A property over small networks and their near relatives


@dataclass(frozen=True)
class Step:
    """One layer or operation of a network: on one or two results before, with one option of six."""

    kind: str
    option: int
    sources: tuple[int, int]


NUMBERS = (0.5, 2.0, -1.0, 3, 127.5, 0.25)
ARRAYS = tuple(np.array(pair, np.float32) for pair in itertools.permutations((0.5, 2, -3), 2))
TURNS = (slice(None, None, -1), slice(0, 1), slice(1, 2), slice(None), slice(-1, None), slice(0, 2))
AXES = (1, 2, 3, (1, 2), (2, 3), (1, 3))
OPERATIONS: dict[str, Callable[[int, Any, Any], Any]] = {
    "times": lambda n, x, _: x * NUMBERS[n],
    "divided": lambda n, x, _: x / NUMBERS[n],
    "less": lambda n, x, _: x - NUMBERS[n],
    "taken from": lambda n, x, _: NUMBERS[n] - x,
    "plus array": lambda n, x, _: x + ARRAYS[n],
    "times array": lambda n, x, _: ops.multiply(ARRAYS[n], x),
    "clipped": lambda n, x, _: ops.clip(x, -abs(NUMBERS[n]), NUMBERS[-n]),
    "turned": lambda n, x, _: x[..., TURNS[n]] * np.ones(2, np.float32),
    "flipped": lambda n, x, _: ops.flip(x, AXES[n]),
    "taken": lambda n, x, _: ops.take(x, [n % 2, n // 3], axis=-1),
    "rolled": lambda n, x, _: ops.roll(x, n, axis=1 + n % 2),
    "reshaped": lambda n, x, _: ops.reshape(
        ops.reshape(x, (-1, *tuple(itertools.permutations(SHAPE))[n])), (-1, *SHAPE)
    ),
    "difference": lambda _, x, y: x - y,
    "quotient": lambda _, x, y: x / (1 + ops.abs(y)),
    "greater": lambda n, x, y: ops.where(x > NUMBERS[n], x, y),
    "joined": lambda n, x, y: ops.concatenate([x, y], axis=-1)[..., n % 3 : n % 3 + 2],
    "mean": lambda n, x, _: x - ops.mean(x, axis=AXES[n], keepdims=True),
    "sorted": lambda n, x, _: ops.sort(x, axis=1 + n % 3),
}
LAYERS: dict[str, Callable[[int, str], Any]] = {
    "rescaling": lambda n, name: kl.Rescaling(NUMBERS[n], offset=n % 2, name=name),
    "relu": lambda n, name: kl.ReLU(negative_slope=abs(NUMBERS[n]), name=name),
    "conv": lambda n, name: kl.Conv2D(2, 1 + n % 3, padding="same", name=name),
    "norm": lambda n, name: kl.BatchNormalization(epsilon=abs(NUMBERS[n]), name=name),
}
PAIRED = {
    "layer difference": lambda name: kl.Subtract(name=name),
    "layer average": lambda name: kl.Average(name=name),
}
# Called wherever it stands, one and the same; and with an option of the call, not of the layer.
SHARED = ("shared", "causal")


def build_nested(option: int, name: str) -> Any:
    image = kl.Input(SHAPE)
    scaled = kl.Conv2D(2, 1, name="inside")(image * NUMBERS[option])
    return keras.Model(image, ops.roll(scaled, option % 3, axis=1), name=name)


LAYERS["nested"] = build_nested
KINDS = (*OPERATIONS, *LAYERS, *PAIRED, *SHARED)


def apply_step(step: Step, name: str, shared: dict[str, Any], x: Any, y: Any) -> Any:
    if step.kind in OPERATIONS:
        return OPERATIONS[step.kind](step.option, x, y)
    if step.kind in LAYERS:
        return LAYERS[step.kind](step.option, name)(x)
    if step.kind in PAIRED:
        return PAIRED[step.kind](name)([x, y])
    if step.kind == "shared":
        return shared.setdefault("shared", kl.Conv2D(2, 1, name="shared"))(x)
    rows = ops.reshape(x, (-1, 20, 2))
    seen = kl.Attention(name=name)([rows, rows], use_causal_mask=step.option % 2 == 0)
    return ops.reshape(seen, (-1, *SHAPE))


def build_network(steps: Sequence[Step], *, seed: int = 0) -> Any:
    """Build a network whose layers are called after their kinds, with weights that a name gives."""
    # As in files that two processes wrote: the names of operations tell no network from another.
    keras.utils.clear_session(free_memory=False)
    image = kl.Input(SHAPE, name="image")
    results, shared = [image], {}
    for number, step in enumerate(steps):
        x, y = (results[source % len(results)] for source in step.sources)
        results.append(apply_step(step, f"{step.kind.replace(' ', '_')}_{number}", shared, x, y))
    model = keras.Model(image, kl.Identity(name="end")(results[-1]))
    for layer in model.layers:
        values = np.random.default_rng([seed, *layer.name.encode()])
        layer.set_weights([values.uniform(0.5, 1, one.shape) for one in layer.get_weights()])
    return model


def draw_step(chance: random.Random, n_results: int) -> Step:
    # Mostly on the step before, so that hardly any of them is for nothing.
    latest, any_one = n_results - 1, chance.randrange(n_results)
    sources = (chance.choice([latest, latest, any_one]), chance.choice([latest, any_one, any_one]))
    return Step(chance.choice(KINDS), chance.randrange(6), sources)


def draw_family(seed: int, *, n_relatives: int = 7) -> list[tuple[Step, ...]]:
    """Draw a network, and others that differ from it in one step's option, wiring or kind."""
    chance = random.Random(seed)
    steps = tuple(draw_step(chance, number + 1) for number in range(chance.randint(2, 7)))
    relatives = {steps: None}
    while len(relatives) <= n_relatives:
        place = chance.randrange(len(steps))
        old, other = steps[place], draw_step(chance, place + 1)
        changed = chance.choice(
            [
                replace(old, option=other.option),
                replace(old, kind=other.kind),
                replace(old, sources=other.sources),
                replace(old, sources=old.sources[::-1]),
            ]
        )
        relatives[(*steps[:place], changed, *steps[place + 1 :])] = None
    return list(relatives)


@contextmanager
def noting_first_outputs(model: Any) -> Iterator[dict[str, np.ndarray]]:
    noted: dict[str, np.ndarray] = {}

    def note(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            noted.setdefault(name, np.asarray(output))
            return output

        return noting

    for layer in model.layers:
        layer.call = note(layer.name, layer.call)
    yield noted


def run_network(model: Any, images: np.ndarray = IMAGES) -> dict[str, np.ndarray]:
    with noting_first_outputs(model) as noted, np.errstate(all="ignore"):
        model(images, training=False)
    return noted


@dataclass(frozen=True)
class Member:
    """A network of a family: how it was built, its layers' digests, and what they give."""

    steps: tuple[Step, ...]
    digests: dict[str, str]
    outputs: dict[str, np.ndarray]


def compare(one: Member, other: Member) -> int:
    """Return how many layers of two networks have one digest; all of those give one output."""
    common = one.outputs.keys() & other.outputs
    alike = [name for name in common if one.digests[name] == other.digests[name]]
    for name in alike:
        said = f"{name} of {one.steps} and {other.steps}"
        np.testing.assert_array_equal(one.outputs[name], other.outputs[name], said)
    return len(alike)


def test_networks_with_one_digest_give_one_output() -> None:
    n_pairs = n_alike = 0
    for seed in range(40):
        members = []
        for steps in draw_family(seed):
            model = build_network(steps)
            members.append(Member(steps, digest_layers(model), run_network(model)))
        for one, other in itertools.combinations(members, 2):
            n_pairs += 1
            n_alike += compare(one, other)
    assert n_pairs >= 1000
    # Not because hardly anything has one digest.
    assert n_alike >= 500


# What a digest must tell apart, and what not


def build_plain(model: Any) -> Any:
    """Give a network the same weights on every machine."""
    for layer in model.layers:
        weights = layer.get_weights()
        layer.set_weights([np.arange(w.size, dtype=w.dtype).reshape(w.shape) for w in weights])
    return model


def test_digests_of_networks_without_operations_are_pinned() -> None:
    image = kl.Input(SHAPE, name="image")
    conv = kl.Conv2D(2, 3, padding="same", activation="relu", name="conv")(image)
    inner = keras.Sequential(
        [kl.Input(SHAPE, name="inside"), kl.BatchNormalization(name="norm")], name="inner"
    )
    functional = keras.Model(image, kl.Add(name="add")([inner(conv), image]))
    layers = [kl.Input(SHAPE), kl.Dense(3, name="dense"), kl.Flatten(name="flat")]
    sequential = keras.Sequential(layers)
    # As they were before operations were digested: caches hold rows under them.
    assert digest_layers(build_plain(functional)) == {
        "image": "6d070129a8087dfa28d38b2cc0a82636a9968fecb52d071b2428119533d796e9",
        "conv": "8edd92c8bdb6e2a74d2054704a81c4916c9a5504b235ae7d5961d45cd9dc5d7f",
        "inner": "6272cd01e6008386c701fac1e960fc271ce390df264d74b16bdceebddc8d65e7",
        "add": "118e6bb036bae45ec1aa2821ce452807fbd878d0835bdee4491bd850e78b5fd3",
    }
    assert digest_layers(build_plain(sequential)) == {
        "dense": "01996190f3ce6abdc26c801bd3050913724ccab768ce72205569cf8100bc0cea",
        "flat": "e190f9a6097e1cc639fe0c6c8e7695450ccf4204a9da1e9b7d9742bebaa2b571",
    }


def test_operations_are_told_apart_by_place_and_not_by_name() -> None:
    def build() -> Any:
        image = kl.Input(SHAPE, name="image")
        return keras.Model(image, kl.ReLU(name="end")(image * 2 + ops.flip(image, 1) * 3))

    first, second = build(), build()
    names = [{one.name for one in model.operations} for model in (first, second)]
    assert names[0] != names[1]
    assert digest_layers(first) == digest_layers(second)


def test_a_layer_behind_operations_has_one_digest_with_and_without_what_follows() -> None:
    image = kl.Input(SHAPE, name="image")
    middle = kl.ReLU(name="middle")(image * 2)
    whole = keras.Model(image, kl.Conv2D(2, 1, name="conv")(middle + 1))
    cut = digest_layers(keras.Model(image, middle))
    assert {name: digest_layers(whole)[name] for name in cut} == cut


@pytest.mark.parametrize("n_rows", [2, 3])
def test_operations_do_not_bring_the_size_of_the_input_into_the_digest(n_rows: int) -> None:
    def build(n_rows: int) -> Any:
        image = kl.Input((n_rows, n_rows, 2), name="image")
        return keras.Model(image, kl.ReLU(name="end")(image * 2))

    assert digest_layers(build(n_rows)) == digest_layers(build(8))


def digest_end(apply: Callable[[Any], Any], *, nested: bool = False) -> str:
    keras.utils.clear_session(free_memory=False)
    image = kl.Input(SHAPE, name="image")
    if nested:
        inside = kl.Input(SHAPE, name="inside")
        apply = keras.Model(inside, apply(inside), name="nested")
    return digest_layers(keras.Model(image, kl.Identity(name="end")(apply(image))))["end"]


@pytest.mark.parametrize("nested", [False, True])
def test_an_argument_called_shape_is_an_argument(nested: bool) -> None:
    def apply(n_columns: int) -> Callable[[Any], Any]:
        return lambda x: ops.mean(ops.slice(x, (0, 0, 0, 0), (2, 4, n_columns, 2)), axis=2)

    assert digest_end(apply(2), nested=nested) != digest_end(apply(3), nested=nested)


def test_which_call_of_a_shared_layer_comes_first_is_in_its_digest() -> None:
    def build(*, swapped: bool) -> Any:
        keras.utils.clear_session(free_memory=False)
        image = kl.Input(SHAPE, name="image")
        shared = kl.Conv2D(2, 1, name="shared")
        early = kl.ReLU(name="early")(shared(image))
        late = kl.ReLU(name="late")(shared(kl.ReLU(name="relu")(image)))
        both = [late, early] if swapped else [early, late]
        return build_plain(keras.Model(image, kl.Add(name="add")(both)))

    models = [build(swapped=False), build(swapped=True)]
    outputs = [run_network(model)["shared"] for model in models]
    digests = [digest_layers(model)["shared"] for model in models]
    assert not np.array_equal(*outputs)
    assert digests[0] != digests[1]


def test_the_type_of_a_sequential_input_is_in_the_digest() -> None:
    def build(dtype: str) -> Any:
        return keras.Sequential([kl.Input(SHAPE, dtype=dtype), kl.Rescaling(0.5, name="half")])

    assert digest_layers(build("uint8")) != digest_layers(build("float32"))


@contextmanager
def setting_keras(name: str, value: object) -> Iterator[None]:
    usual = getattr(keras.config, name)()
    getattr(keras.config, f"set_{name}")(value)
    try:
        yield
    finally:
        getattr(keras.config, f"set_{name}")(usual)


@pytest.mark.parametrize(
    ("name", "value"),
    [("floatx", "float16"), ("image_data_format", "channels_first"), ("epsilon", 0.1)],
)
def test_settings_that_operations_ask_as_they_run_are_in_the_digest(
    name: str, value: object
) -> None:
    image = kl.Input(SHAPE, name="image")
    scaled = kl.Rescaling([1.0, 2.0], name="by_channel")(image)
    model = keras.Model(image, kl.Identity(name="end")(ops.argmax(scaled, -1) / 3))
    usual = digest_layers(model)
    with setting_keras(name, value):
        unusual = digest_layers(model)
    assert not set(usual.values()) & set(unusual.values())
    assert digest_layers(model) == usual


def test_a_policy_set_in_python_changes_no_backbone() -> None:
    request = BackboneRequest(
        backbone=parse_backbone("mobilenet(alpha=0.25)"), weights="random", size=(32, 32)
    )
    usual = load_backbone(request).digest_layers()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert load_backbone(request).digest_layers() == usual
    finally:
        keras.config.set_dtype_policy("float32")


def test_constants_of_a_saved_model_are_in_its_digests(tmp_path: Path) -> None:
    def digest(number: float) -> str:
        folder = tmp_path / str(number)
        image = kl.Input((8, 8, 3), name="image")
        model = keras.Model(image, kl.ReLU(name="end")(image * number + np.ones(3, np.float32)))
        model.export(folder, verbose=False)
        network = load_backbone(BackboneRequest(backbone=parse_backbone(str(folder))))
        card = network.describe()
        assert {name: one.digest for name, one in card.layers.items()} == network.digest_layers()
        return network.digest_layers()["end"]

    assert digest(2.0) != digest(3.0)


def test_a_network_gives_the_digests_of_its_card() -> None:
    network = KerasNetwork(build_network([Step("nested", 0, (0, 0)), Step("conv", 0, (1, 0))]))
    network.size = SHAPE[:2]
    card = network.describe()
    assert {name: layer.digest for name, layer in card.layers.items()} == network.digest_layers()
