"""Claims are whole batches, in order, half a minute of a worker's time, shorter at the end."""

from __future__ import annotations

import pytest

from permafrost.pipeline.cluster.queue import CLAIM_S, Claim, ClaimQueue

BATCH = 32


def open_queue(*runs: tuple[int, int], most_batches: int = 10_000) -> ClaimQueue:
    claims = [Claim(start=start, stop=stop) for start, stop in runs]
    return ClaimQueue(claims, batch_size=BATCH, most_batches=most_batches)


def take_all(queue: ClaimQueue, *, n_workers: int = 2, rate: float = 100.0) -> list[Claim]:
    claims = []
    while claim := queue.next(n_workers=n_workers, now_s=0.0):
        queue.note_rate(len(claim), len(claim) / rate)
        claims.append(claim)
    return claims


@pytest.mark.parametrize("runs", [[(0, 100_003)], [(5, 37), (40, 41), (64, 5000)]])
def test_all_rows_are_given_once_in_order_and_in_whole_batches(runs: list[tuple[int, int]]) -> None:
    claims = take_all(open_queue(*runs))
    rows = [row for claim in claims for row in range(claim.start, claim.stop)]
    assert rows == [row for start, stop in runs for row in range(start, stop)]
    ends = {stop for _, stop in runs}
    assert all(len(claim) % BATCH == 0 for claim in claims if claim.stop not in ends)


def test_claims_last_half_a_minute_once_the_rate_is_known_and_get_shorter_at_the_end() -> None:
    sizes = [len(claim) for claim in take_all(open_queue((0, 50_000)), rate=100.0)]
    assert sizes[0] == 4 * BATCH
    assert max(sizes) == CLAIM_S * 100 // BATCH * BATCH
    assert sizes[-2] == 320  # the least: three seconds
    assert sizes[1:] == sorted(sizes[1:], reverse=True)


def test_a_claim_is_no_larger_than_a_shard() -> None:
    sizes = [len(claim) for claim in take_all(open_queue((0, 50_000), most_batches=3))]
    assert max(sizes) == 3 * BATCH


def test_a_slow_network_has_claims_of_one_batch() -> None:
    sizes = {len(claim) for claim in take_all(open_queue((0, 1024)), rate=0.1)[1:]}
    assert sizes == {BATCH}


def test_halves_of_a_claim_come_first_down_to_one_row() -> None:
    queue = open_queue((0, 96), (96, 200))
    claim = Claim(start=0, stop=96)
    given = []
    while queue.halve(claim):
        claim = queue.next(n_workers=1, now_s=0.0)
        given.append((claim.start, claim.stop))
    assert given == [(0, 32), (0, 16), (0, 8), (0, 4), (0, 2), (0, 1)]
    rest = [queue.next(n_workers=1, now_s=0.0) for _ in range(6)]
    assert [(one.start, one.stop) for one in rest if one] == [
        *((1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 96))
    ]


def test_rows_of_others_are_asked_for_later_and_after_ten_minutes_computed_all_the_same() -> None:
    queue, claim = open_queue(), Claim(start=0, stop=5)
    queue.postpone(claim, now_s=10.0)
    assert queue
    assert queue.next(n_workers=1, now_s=12.0) is None
    assert queue.next(n_workers=1, now_s=15.0) is claim
    assert claim.others == "leave"
    queue.postpone(claim, now_s=700.0)
    assert claim.others == "ignore"
    assert not open_queue()


def test_a_claim_is_late_by_the_measured_rate_and_never_before_a_lease_runs_out() -> None:
    queue = open_queue((0, 1))
    assert queue.count_seconds(1000) == 300.0
    queue.note_rate(100, 10.0)
    assert queue.count_seconds(1000) == 400.0
    assert queue.count_seconds(1) == 90.0
