"""Give everything that reads what others wrote more than it can take, for minutes.

python -m tests.fuzz [--minutes M] [--only TARGET,TARGET] [--seed N]

The only outcomes are a value and one line of our own. Exit status 1, with the smallest input that
does otherwise, if there is any.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
import traceback
from collections import Counter

from tests.fuzz import TARGETS
from tests.fuzz.running import run_target

_INPUTS_AT_ONCE = 100


def main() -> int:
    own = _parse()
    logging.disable(logging.WARNING)
    deadline_s = time.monotonic() + 60 * own.minutes
    outcomes = {name: Counter[str]() for name in own.only}
    failed: set[str] = set()
    for number in itertools.count(own.seed):
        for name in own.only:
            if time.monotonic() >= deadline_s:
                _report(outcomes, failed)
                return 1 if failed else 0
            if name not in failed:
                try:
                    outcomes[name] += run_target(
                        TARGETS[name], n_inputs=_INPUTS_AT_ONCE, number=number
                    )
                except Exception:  # noqa: BLE001 - the others have their turn all the same
                    print(f"{name}, seed {number}:", file=sys.stderr)
                    traceback.print_exc()
                    failed.add(name)
    raise AssertionError("time does not end")


def _report(outcomes: dict[str, Counter[str]], failed: set[str]) -> None:
    print(f"{'target':20} {'read':>10} {'refused':>10}")
    for name, counts in outcomes.items():
        note = "  FAILED" if name in failed else ""
        print(f"{name:20} {counts['read']:10,} {counts['refused']:10,}{note}")
    print(f"{sum(map(Counter.total, outcomes.values())):,} inputs, {len(failed)} targets failed")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", type=_read_names, default=list(TARGETS), metavar="TARGET,…")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _read_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
