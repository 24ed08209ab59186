"""What the benchmarks make of what they measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from permafrost.pipeline.options import FeatureOptions
from tests.benchmarks.contestants import Figures, divide_difference
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.peers import NoPeerError, PeerJob, command_torch
from tests.benchmarks.photos import choose_evenly, list_photos
from tests.benchmarks.report import (
    STEADY,
    WHOLE,
    Benchmark,
    Round,
    find_medians,
    find_memory_ratio,
    find_ratios,
)


def give_process(
    whole: float, steady: float | None, *, n_images: int = 100, peak: int = 8
) -> Figures:
    return {
        "n_images": n_images,
        "seconds": n_images / whole,
        WHOLE: whole,
        STEADY: steady,
        "peak_bytes": peak * 10**9,
        "summary": {},
    }


def give_round(ours: float, idiom: float) -> Round:
    return {
        "ours": give_process(ours, 2 * ours, peak=4),
        "idiom": give_process(idiom, 2 * idiom),
        "torch": give_process(2.0, 3.0),
        "torch-channels-last": give_process(1.0, 4.0),
        "floor": {"images_per_s": 20.0},
        "decode": {"images_per_s": 60.0},
    }


ROUNDS = [give_round(6.0, 2.0), give_round(8.0, 4.0), give_round(9.0, 1.0)]


def test_ratios_are_medians_of_those_within_a_round() -> None:
    ratios = find_ratios(ROUNDS)
    # 3, 2 and 9: not the ratio of the medians, which is 4.
    assert ratios["Keras idiom"] == {WHOLE: 3.0, STEADY: 3.0}
    assert ratios["floor"] == pytest.approx({WHOLE: 8 / 20, STEADY: 16 / 20})
    assert find_medians(ROUNDS)["ours"][WHOLE] == 8.0
    assert find_memory_ratio(ROUNDS) == 0.5


def test_parts_on_the_same_cores_take_turns() -> None:
    bound = find_ratios(ROUNDS)["1 / (1/floor + 1/decoding)"]
    assert bound == pytest.approx({WHOLE: 8 / 15, STEADY: 16 / 15})


def test_the_best_torch_is_the_faster_layout_of_each_kind() -> None:
    assert find_ratios(ROUNDS)["best torchvision"] == {WHOLE: 8 / 2, STEADY: 16 / 4}


def test_processes_on_fewer_images_are_compared_without_their_start() -> None:
    rounds = [{**ROUNDS[0], "idiom": give_process(2.0, 3.0, n_images=50)}]
    assert find_ratios(rounds)["Keras idiom"] == {WHOLE: None, STEADY: 4.0}
    assert find_memory_ratio(rounds) is None


def test_a_rate_that_noise_hides_is_none_and_no_number() -> None:
    assert divide_difference(100, 50.0) == 2.0
    assert divide_difference(100, -0.1) is None
    rounds = [*ROUNDS, {**ROUNDS[0], "ours": give_process(6.0, None)}]
    assert find_medians(rounds)["ours"][STEADY] is None
    assert find_ratios(rounds)["floor"][STEADY] is None


def test_the_table_says_all_of_it() -> None:
    benchmark = Benchmark(
        title="a network",
        note="three rounds",
        titles={name: f"<{name}>" for name in [*ROUNDS[0], "write"]},
        left_out={"write": "no disk"},
        machine=describe_machine(None),
        load_before=(0.5, 0.0, 0.0),
        load_after=(2.0, 1.0, 0.5),
        rounds=ROUNDS,
    )
    table = benchmark.describe()
    assert "| <ours> | 8.00 | 16.0 | 12.5 | 4.00 GB |" in table
    assert "| <floor> |  | 20.0 |  |  |" in table
    assert "| Keras idiom | 3.00 | 3.00 |" in table
    assert "Left out: <write>: no disk." in table
    assert "numpy" in table
    assert benchmark.to_dict()["memory_ratio"] == 0.5


def test_repeated_photos_look_alike_and_are_different_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "cat").mkdir(parents=True)
    Image.linear_gradient("L").save(source / "cat" / "one.jpg")
    for photo in list_photos(source, n_repeats=2):
        photo.copy(tmp_path / "copies")
    first, second = sorted((tmp_path / "copies" / "cat").iterdir())
    assert first.read_bytes() != second.read_bytes()
    assert Image.open(first).tobytes() == Image.open(second).tobytes()


def test_few_are_chosen_from_everywhere() -> None:
    assert choose_evenly(range(10), 4) == [0, 2, 5, 7]
    assert choose_evenly(range(3), 4) == [0, 1, 2]


def test_torch_runs_the_same_layers_or_not_at_all() -> None:
    options = FeatureOptions(backbone="vgg16", layers=("block2_pool", "block5_pool:avg"))
    command = command_torch(PeerJob(options, Path("in"), Path("out")), Path("python"))
    assert command[command.index("--nodes") + 1] == "features.9,features.30:avg"
    other = FeatureOptions(backbone="mobilenet(alpha=0.25)", layers=("conv_pw_13_relu",))
    with pytest.raises(NoPeerError, match="not mapped"):
        command_torch(PeerJob(other, Path("in"), Path("out")), Path("python"))
