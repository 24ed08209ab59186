"""Everything that reads what others wrote: a value or one line, whatever the input."""

from __future__ import annotations

import pytest

from tests.fuzz import TARGETS
from tests.fuzz.running import run_target


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_read_gives_a_value_or_an_error_of_our_own(name):
    assert run_target(TARGETS[name], n_inputs=25).total() >= 25
