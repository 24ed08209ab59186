"""The keys of recipes, pinned."""

from __future__ import annotations

import hashlib

from permafrost.cache.store.recipe import recipe_key
from tests.helpers.conv_layer import RECIPE


def test_the_key_of_a_recipe_never_changes() -> None:
    assert (
        recipe_key({"b": 1, "a": "é", "c": [224, 224]})
        == hashlib.sha256(b'{"a":"\\u00e9","b":1,"c":[224,224]}').hexdigest()
    )
    assert recipe_key(RECIPE) == "0af801abb011adf3341a04bf5c7d7c2435d66bf5a5b2d224dba168dd0ab79968"
