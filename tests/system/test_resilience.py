"""Short versions of ``python -m tests.resilience``: real processes, disturbed at random moments."""

from __future__ import annotations

import errno
import random
import signal
from pathlib import Path

import pytest

from tests.resilience import disk, environment, kills, powercut, signals
from tests.resilience.jobs import Job, Scene, list_jobs, list_unfinished, set_scene
from tests.resilience.recording import File, Moment, Way, cut_everywhere
from tests.resilience.report import Report, Result, sum_up
from tests.resilience.trials import plan_trials, try_all

Jobs = dict[str, Job]
SEED = 5
# How often each is disturbed in each way; the command runs all of it many times.
COUNTS = {
    "extract": 4,
    "sweep": 2,
    "fit": 2,
    "predict": 1,
    "export": 1,
    "repair": 2,
    "compact": 2,
    "gc": 2,
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return set_scene(tmp_path_factory.mktemp("home") / "scene", n_images=48)


@pytest.fixture(scope="module")
def jobs(scene: Scene) -> Jobs:
    return list_jobs(scene)


@pytest.mark.parametrize("name", COUNTS)
def test_a_killed_command_run_again_ends_as_if_undisturbed(
    jobs: Jobs, name: str, tmp_path: Path
) -> None:
    numbers = [signal.SIGKILL] * COUNTS[name]
    trials = list(plan_trials(name, jobs[name], numbers, seed=SEED, scratch=tmp_path))
    outcomes = try_all(kills.kill, trials)
    assert outcomes
    assert list(filter(None, outcomes)) == []


@pytest.mark.slow
def test_a_signal_at_any_moment_is_one_line_and_costs_nothing_finished(
    jobs: Jobs, tmp_path: Path
) -> None:
    counts = {"extract": 6, "sweep": 1, "predict": 1, "repair": 1, "compact": 1}
    trials = signals.plan_all(jobs, counts, seed=SEED, scratch=tmp_path)
    outcomes = try_all(signals.interrupt, trials)
    assert len(outcomes) > len(trials) // 3  # repair is often done before its signal comes
    assert list(filter(None, outcomes)) == []


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_a_signal_while_python_imports_is_one_line(number: signal.Signals) -> None:
    assert not signals.interrupt_start(number, 0.0)


@pytest.mark.parametrize("name", [*COUNTS, "index"])
def test_a_full_disk_stops_with_one_line_and_costs_nothing_finished(
    jobs: Jobs, name: str, tmp_path: Path
) -> None:
    n = COUNTS.get(name, 2)
    failures = disk.plan_failures(name, jobs[name], n=n, seed=SEED, scratch=tmp_path)
    assert list(filter(None, try_all(disk.fail, list(failures)))) == []


@pytest.mark.parametrize("name", ["extract", "sweep", "fit", "repair", "compact", "index"])
def test_a_power_cut_leaves_whole_files_only(jobs: Jobs, name: str, tmp_path: Path) -> None:
    recorded = powercut.record_job(name, jobs[name], tmp_path)
    lefts = powercut.list_lefts(recorded, seed=SEED, n_random=2)
    assert len(lefts) > len(recorded.moments) // 2
    assert [wrong for left in lefts if (wrong := recorded.find_wrong(*left))] == []
    assert recorded.list_lost() == []
    for number, left in enumerate(random.Random(SEED).sample(lefts, 2)):
        assert recorded.run_again(*left, tmp_path / f"again-{number}") == ""


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("verify", (0, 1)),
        ("repair", (1, 3)),
        ("gc", (1,)),
        ("compact", (1,)),
        ("fit", (1,)),
        ("extract", (2,)),
    ],
)
def test_without_descriptors_a_command_says_so_and_nothing_is_damaged(
    jobs: Jobs, name: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    outcomes = environment.exhaust_all(name, jobs[name], tmp_path / "all", counts)
    assert list(filter(None, outcomes)) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_does_not_synchronize_folders_will_do(
    jobs: Jobs, number: int, tmp_path: Path
) -> None:
    assert environment.refuse_folders(jobs["repair"], tmp_path / "all", number) == ""


def test_with_its_images_away_repair_loses_no_intact_row(scene: Scene, tmp_path: Path) -> None:
    assert environment.unmount(scene, tmp_path / "unmounted", SEED) == ""


def make_moment(synced: str | None = None, **contents: bytes) -> Moment:
    files = {name: File(len(name), 0, content) for name, content in contents.items()}
    return Moment(files, frozenset({"."}), {}, synced)


@pytest.mark.parametrize(("synced", "is_whole"), [("tmp", True), (None, False)])
def test_the_model_of_power_cuts_tears_what_was_not_synchronized(
    synced: str | None, is_whole: bool
) -> None:
    # One inode: the same length of name.
    moments = [make_moment(), make_moment(synced, tmp=b"whole"), make_moment(end=b"whole")]
    chance = random.Random(SEED)
    ways = {str(number): Way(chance.choice, chance.choice) for number in range(50)}
    ends = [left["end"] for _, left in cut_everywhere(moments, ways) if "end" in left]
    assert ends
    assert all(end is not None and end.content == b"whole" for end in ends) == is_whole


def test_the_model_of_power_cuts_forgets_names_whose_folder_was_not_synchronized() -> None:
    first = Way(lambda known: known[0], lambda known: known[0])
    moments = [make_moment(), make_moment("end", end=b"whole"), make_moment(".", end=b"whole")]
    *_, (_, left) = cut_everywhere(moments, {"": first})
    assert "end" not in left
    *_, (_, left) = cut_everywhere([*moments, moments[-1]], {"": first})
    assert "end" in left


def test_what_is_there_only_while_something_is_written_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".tmp-host-7-0.h5").touch()
    assert list_unfinished(tmp_path) == ["cache/.tmp-host-7-0.h5"]


def test_a_subject_that_did_nothing_or_lost_count_has_failed() -> None:
    silent = Result(what="silent", injected=3, survived=2)
    results = {"none": sum_up("none", []), "silent": silent, "good": sum_up("good", ["", ""])}
    report = Report(seed=0, results=results, seconds=dict.fromkeys(results, 1.0), skipped={})
    assert [failure.split(":")[0] for failure in report.failures] == ["none", "silent"]
