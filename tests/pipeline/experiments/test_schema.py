from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import yaml

from permafrost.pipeline.cli.main import main
from permafrost.pipeline.experiments.experiment import read_experiment
from permafrost.pipeline.experiments.schema import HeadSection

GOOD = {
    "images": "photos/",
    "labels": "folder",
    "split": {"test": 0.3, "seed": 7},
    "cache": ".cache",
    "backbones": [{"name": "vgg16", "layers": ["block2_pool", "block5_pool:avg"]}],
    "heads": [{"kind": "logreg", "C": [0.01, 0.1]}],
    "cv": 5,
    "seed": 3,
    "out": "runs/photos",
}


@pytest.fixture
def read(tmp_path):
    """Read an experiment from text, or from GOOD with some keys replaced."""

    def call(text=None, **replaced):
        file = tmp_path / "experiment.yaml"
        file.write_text(text if text is not None else yaml.safe_dump(GOOD | replaced))
        return read_experiment(file)

    return call


@pytest.fixture
def refused(tmp_path, capsys):
    """Run something wrong from the command line; returns the one line that was answered."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(text=None, *, drop=(), **replaced):
        file = tmp_path / "experiment.yaml"
        content = {key: value for key, value in (GOOD | replaced).items() if key not in drop}
        written = yaml.safe_dump(content, sort_keys=False) if text is None else text
        file.write_bytes(written if isinstance(written, bytes) else written.encode())
        assert main(["run", str(file)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("permafrost: ") and printed.err.count("\n") == 1
        return printed.err

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def expand(read, head):
    read(heads=[head])
    return list(HeadSection(**head).expand())


def test_the_example_of_the_design_is_read(read):
    experiment = read(
        """
        images: photos/
        labels: folder                      # folder | filename:REGEX | csv:FILE
        split: {test: 0.3, seed: 0}
        cache: .permafrost
        backbones:
          - {name: vgg16, weights: imagenet, layers: [block2_pool, "block5_pool:avg"]}
        heads:
          - {kind: logreg, C: [0.01, 0.1, 1]}
          - {kind: mlp, hidden: [256], dropout: 0.6}
        cv: 5
        out: runs/photos
        """
    )
    dataset = experiment.dataset
    assert (dataset.images, dataset.labels) == ("photos/", "folder")
    assert (dataset.split, dataset.seed) == ("test=0.3", 0)
    ((view, features),) = experiment.backbones.items()
    assert view == Path("runs/photos/vgg16/features.h5")
    assert features.layers == experiment.sweep.layers == ("block2_pool", "block5_pool:avg")
    kinds = [one.kind for one in experiment.sweep.candidates]
    assert kinds == ["logreg", "logreg", "logreg", "mlp"]
    assert (experiment.sweep.data.cv, experiment.sweep.out) == (5, Path("runs/photos"))


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ({"kind": "logreg"}, [{}]),
        ({"kind": "logreg", "C": 0.1}, [{"C": 0.1}]),
        ({"kind": "logreg", "C": [0.01, 0.1, 1]}, [{"C": 0.01}, {"C": 0.1}, {"C": 1}]),
        ({"kind": "mlp", "hidden": [256]}, [{"hidden": [256]}]),
        ({"kind": "mlp", "hidden": [256, 128]}, [{"hidden": [256, 128]}]),
        ({"kind": "mlp", "hidden": []}, [{"hidden": []}]),
        ({"kind": "mlp", "hidden": [[16], [32, 16]]}, [{"hidden": [16]}, {"hidden": [32, 16]}]),
        ({"kind": "mlp", "hidden": [16, [32, 16]]}, [{"hidden": 16}, {"hidden": [32, 16]}]),
        ({"kind": "mlp", "hidden": "32,16"}, [{"hidden": "32,16"}]),
        (
            {"kind": "logreg", "C": [1, 2], "scale": ["l2", "none"]},
            [
                {"C": 1, "scale": "l2"},
                {"C": 1, "scale": "none"},
                {"C": 2, "scale": "l2"},
                {"C": 2, "scale": "none"},
            ],
        ),
    ],
)
def test_lists_are_grids(read, head, settings):
    assert expand(read, head) == settings


def test_the_seed_flows_into_the_split_unless_it_has_its_own(read):
    def seeds(split):
        experiment = read(split=split, seed=3)
        return experiment.dataset.seed, experiment.sweep.data.seed

    assert seeds({"test": 0.3}) == (3, 3)
    assert seeds("test=0.3") == (3, 3)
    assert seeds({"test": 0.3, "seed": 0}) == (0, 3)


def test_a_split_is_a_rule_or_shares(read):
    def rule(split):
        return read(split=split).dataset.split

    assert rule({"test": 0.3, "val": 0.1}) == "test=0.3,val=0.1"
    assert rule({"val": 0.1}) == "val=0.1"
    assert rule("predefined") == "predefined"
    assert rule(None) is None


@pytest.mark.parametrize(
    ("size", "expected"), [(None, None), (64, (64, 64)), ("64", (64, 64)), ("64x32", (64, 32))]
)
def test_sizes_are_written_as_on_the_command_line(read, size, expected):
    backbone = {"name": "vgg16", "layers": ["block1_pool"], "size": size}
    (features,) = read(backbones=[backbone]).backbones.values()
    assert features.size == expected


def test_misspelt_keys_name_the_nearest(refused):
    answer = refused(imagse="photos/", drop=["images"])
    assert "unknown key 'imagse'" in answer and "did you mean 'images'?" in answer
    assert "did you mean 'heads'?" in refused(head=GOOD["heads"], drop=["heads"])
    assert "did you mean 'images'?" in refused(Images="photos/")
    assert re.search("there are: .*backbones.*images", refused(zzz=1))
    answer = refused(split={"tset": 0.3})
    assert "(split.tset)" in answer and "did you mean 'test'?" in answer
    answer = refused(backbones=[{"name": "vgg16", "layer": ["block1_pool"]}])
    assert "(backbones.0.layer)" in answer and "did you mean 'layers'?" in answer
    assert "did you mean 'resize'?" in refused(
        backbones=[*GOOD["backbones"], {"name": "vgg16", "layers": ["x"], "risize": "bilinear"}]
    )
    assert "'knid' a misspelling" in refused(heads=[{"knid": "logreg"}])
    assert "did you mean 'max_iter'?" in refused(heads=[{"kind": "logreg", "maxiter": 5}])


@pytest.mark.parametrize("key", ["str", "int", "SplitSection"])
def test_keys_may_be_called_like_types(refused, key):
    assert f"unknown key '{key}'" in refused(**{key: 1})
    assert f"(split.{key})" in refused(split={"test": 0.3, key: 1})
    assert f"unknown key '{key}'" in refused(
        backbones=[{"name": "vgg16", "layers": ["block1_pool"], key: 1}]
    )


def test_names_that_do_not_exist_are_found_before_anything_runs(refused):
    def second(**keys):
        return [*GOOD["backbones"], {"name": "vgg16", "layers": ["block1_pool"]} | keys]

    assert "did you mean 'logreg'?" in refused(heads=[{"kind": "logerg"}])
    assert "'vgg16'" in refused(backbones=second(name="vgg61"))
    assert "absent.keras" in refused(backbones=second(name="absent.keras"))
    assert "'avg'" in refused(backbones=second(layers=["block1_pool:agv"]))
    assert "'bilinear'" in refused(backbones=second(resize="biliner"))
    assert "'caffe'" in refused(backbones=second(preprocess="cafe"))
    assert "'float16'" in refused(backbones=second(dtype="floot16"))
    assert "write it as 224" in refused(backbones=second(size="big"))
    assert "write it as 224" in refused(backbones=second(size=0))


@pytest.mark.parametrize("key", ["backbones", "heads", "out"])
def test_missing_keys_are_named(refused, key):
    assert f"{key} is missing" in refused(drop=[key])


def test_images_are_named_once(refused):
    assert "name the images" in refused(drop=["images"])
    assert "name the images" in refused(manifest="manifest.csv")


def test_missing_keys_of_a_section_are_named(refused):
    assert "backbones.0.name is missing" in refused(backbones=[{"layers": ["block1_pool"]}])
    assert "backbones.0.layers is missing" in refused(backbones=[{"name": "vgg16"}])
    assert "heads.1.kind is missing" in refused(heads=[{"kind": "logreg"}, {"C": 1}])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("images", 5, "images: input should be a valid string, not 5"),
        ("images", ["a"], "images: input should be a valid string"),
        ("cv", "five", "cv: input should be a valid integer, not 'five'"),
        ("cv", True, "cv: input should be a valid integer, not True"),
        ("cv", 1, "cannot cross-validate with 1 folds"),
        ("cv", 2.5, "cv: input should be a valid integer"),
        ("seed", -1, "cannot use seed -1; give one from 0"),
        ("seed", 2**32, "cannot use seed 4294967296"),
        ("backbones", [], "backbones: list should have at least 1 item"),
        ("backbones", {"name": "vgg16"}, "backbones: input should be a valid list"),
        ("backbones", ["vgg16"], "backbones.0: write it with its keys (name, layers"),
        ("backbones", [{"name": "vgg16", "layers": []}], "backbones.0.layers: list should have"),
        ("backbones", [{"name": "vgg16", "layers": "a"}], "backbones.0.layers: input should be"),
        (
            "backbones",
            [{"name": "vgg16", "layers": ["a"], "size": 2.5}],
            "backbones.0.size: input should be a valid integer, not 2.5",
        ),
        ("heads", [], "heads: list should have at least 1 item"),
        ("heads", ["logreg"], "heads.0: write it with its keys (kind, layers), not as 'logreg'"),
        ("heads", [{"kind": 5}], "heads.0.kind: input should be a valid string"),
        (
            "heads",
            [{"kind": "ridge"}, {"kind": "logreg", "C": -1}],
            "heads.1: logreg cannot",
        ),
        ("heads", [{"kind": "logreg", "C": [1, "much"]}], "C=much"),
        ("heads", [{"kind": "logreg", "C": []}], "C: [] stands for no head"),
        ("heads", [{"kind": "logreg", "C": {"from": 1}}], "C={'from': 1}"),
        ("heads", [{"kind": "mlp", "hidden": [[0]]}], "hidden=[0]"),
        ("split", 0.3, "split: write it with its keys (test, val, seed), not as 0.3"),
        ("split", {}, "split: name a share"),
        ("split", {"seed": 1}, "split: name a share"),
        ("split", {"test": 0}, "split.test: input should be greater than 0"),
        ("split", {"test": 1.5}, "split.test: input should be less than 1"),
        ("split", {"test": float("nan")}, "split.test: input should be"),
        ("split", {"test": "0.3"}, "split.test: input should be a valid number"),
        ("split", {"test": 0.3, "seed": "x"}, "split.seed: input should be a valid integer"),
    ],
)
def test_values_of_the_wrong_type_or_size_are_named(refused, key, value, says):
    assert says in refused(**{key: value})


@pytest.mark.parametrize(
    "text",
    ["", "# nothing yet\n", "[]", "images", "5", "---\n"],
    ids=["empty", "comment", "list", "text", "number", "document"],
)
def test_a_file_without_keys_names_them(refused, text):
    assert re.search("should hold keys: .*backbones.*images", refused(text))


@pytest.mark.parametrize(
    "text",
    [
        "images: [unclosed",
        "images: a\n\theads: b",
        "images: &a [*b]",
        b"images: caf\xe9\n",
        b"\x00\x01",
        "out: 2024-13-45",
        "{[a, b]: c}",
    ],
    ids=["bracket", "tab", "alias", "latin-1", "binary", "no date", "key"],
)
def test_what_is_not_yaml_is_one_line(refused, text):
    assert "is not YAML" in refused(text)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch CANARY']",
        "!!python/object:permafrost.pipeline.options.RunOptions {}",
        "!!python/name:os.system ''",
        "!custom 5",
    ],
)
def test_tags_that_would_run_code_are_refused(refused, tmp_path, tag):
    canary = tmp_path / "canary"
    assert "is not YAML" in refused(f"images: {tag.replace('CANARY', str(canary))}\n")
    assert not canary.exists()


def test_keys_that_are_no_text_are_one_line(refused):
    assert "experiment.yaml" in refused("1: a\nimages: b\n")
    assert "experiment.yaml" in refused("images: a\n2024-01-01: b\n")


def test_a_date_is_no_folder(refused):
    others = {key: value for key, value in GOOD.items() if key != "out"}
    assert "out: input should be a valid string" in refused(
        yaml.safe_dump(others) + "out: 2024-01-01"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x]\nb: *a", r"aliases \(\*name\) are not read"),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("cv: 3\ncv: 5", "the key 'cv' is there twice"),
        ("heads: [{C: 1, C: 2}]", "the key 'C' is there twice"),
        ("a: !!python/object/apply:os.system [touch it-ran]", "could not determine a constructor"),
        ("[" * 5000, "nested too deep"),
        ("x" * 200_000, "more than 100000 characters"),
        ("? {a: b}\n: c", "unhashable"),
        ("a: " + "9" * 5000, "integer"),
    ],
)
def test_yaml_that_says_more_than_it_shows_is_refused(text, reason, refused):
    assert re.search(reason, refused(text))


def test_an_experiment_that_cannot_be_opened_is_one_line(tmp_path, capsys):
    for file in (tmp_path / "absent.yaml", tmp_path):
        assert main(["run", str(file)]) == 2
        assert str(file) in capsys.readouterr().err
