"""YAML that says only what it shows: no tags, no aliases, no key twice."""

from __future__ import annotations

import re
from typing import Any, TextIO

import yaml

# Far more than an experiment takes; PyYAML reads about as many in a second.
MOST_CHARACTERS = 100_000


# To YAML, 1_0 is ten, 010 is eight and 1:30 is ninety.
_PLAIN_NUMBER = re.compile(
    r"[+-]?(?:0|[1-9][0-9]*|[0-9]*\.[0-9]*(?:[eE][+-]?[0-9]+)?|\.(?:inf|nan))"
)


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few lines of them stand for billions of values, and merging is done while reading.
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            keys = [self.construct_object(key) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"the key {twice!r} is there twice; drop one")
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if not _PLAIN_NUMBER.fullmatch(text.lower()):
            raise yaml.YAMLError(f"{text} is another number in YAML; write 10, 0.5 or '{text}'")
        is_float = node.tag.endswith("float")
        construct = self.construct_yaml_float if is_float else self.construct_yaml_int
        return construct(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def read_yaml(stream: TextIO) -> object:
    """Read one YAML document.

    Raises
    ------
    ValueError
        It is none, or says more than it shows; the text says why.
    """
    text = stream.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS} characters")
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
