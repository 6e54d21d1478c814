"""An experiment file's text as a plain document: YAML with no key given twice, and overrides `a.b=value`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from ukd_dist.errors import UsageError


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, strict about keys that are given twice: the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                line = node.value[index][0].start_mark.line + 1
                raise yaml.YAMLError(f"key '{key}' is given twice, the second time in line {line}")
        return super().construct_mapping(node, deep)


def read_document(text: str, where: str, overrides: list[str]) -> dict[str, Any]:
    """Parse the text and apply the overrides, `a.b=value` each, the value in YAML; numbers index lists.

    Raises:
        UsageError: The text is not YAML or no mapping, or an override cannot be applied.
    """
    try:
        document = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a date that there is not
        raise UsageError(
            f"{where} is not YAML: {' '.join(str(error).split())}",
            expected="YAML in which no key is given twice",
            action="correct the file",
        ) from error
    if not isinstance(document, dict):
        raise UsageError(
            f"{where} holds no experiment",
            expected="a mapping with name, root, data, teachers, ...",
            action="see launch/experiments for some",
        )
    for override in overrides:
        _override(document, override)
    return document


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise UsageError(
            f"override '{override}'", expected="a.b=value", action="for example data.clip.frames=32"
        )
    node: Any = document
    *parents, last = key.split(".")
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(
            f"override '{override}' names no setting: {' '.join(str(error).split())}",
            expected="a.b=value",
            action="name the setting as the file does, an entry of a list by its number",
        ) from error
