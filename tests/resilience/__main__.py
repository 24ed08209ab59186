"""Everything that is promised to survive, put to the test with real processes and files.

python -m tests.resilience [--only kills,signals] [--seed N] [--kills N]

Each subject is a module of this package with ``run(seed) -> Result``. Prints a table, what failed,
and one JSON object as the last line; exit status 1 on any failure.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from importlib import import_module

from tests.resilience.report import NotHereError, Report, Result

# In this order; each a module beside this one.
SUBJECTS = (
    "kills",
    "signals",
    "workers",
    "pauses",
    "disk",
    "tmpfs",
    "powercut",
    "environment",
    "together",
    "cluster",
    "upkeep",
    "garbage",
    "damage",
    "archives",
    "server",
    "hostile",
    "fuzz",
)


def main() -> int:
    own = _parse()
    results: dict[str, Result] = {}
    seconds: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for subject in own.only:
        print(f"{subject} …", file=sys.stderr, flush=True)
        started_s = time.monotonic()
        try:
            results[subject] = _run(subject, own)
        except NotHereError as reason:
            skipped[subject] = str(reason)
        seconds[subject] = time.monotonic() - started_s
    report = Report(seed=own.seed, results=results, seconds=seconds, skipped=skipped)
    print(report.describe())
    print(report.to_json())
    return 1 if report.failures else 0


def _run(subject: str, own: argparse.Namespace) -> Result:
    more = {"n_kills": own.kills} if subject == "kills" else {}
    try:
        result: Result = import_module(f"tests.resilience.{subject}").run(own.seed, **more)
    except NotHereError:
        raise
    except Exception as error:  # noqa: BLE001 - the other subjects have their turn all the same
        traceback.print_exc()
        return Result(what=subject, injected=1, survived=0, failures=[repr(error)])
    return result


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_read_subjects, default=SUBJECTS, metavar="SUBJECT,…")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")
    parser.add_argument(
        "--kills",
        type=int,
        default=220,
        help="SIGKILLs, some of which come too late (default: 220)",
    )
    return parser.parse_args()


def _read_subjects(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no subject {unknown[0]!r}; there are {', '.join(SUBJECTS)}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
