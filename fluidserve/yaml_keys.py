"""Read the keys of a YAML file: bounded in size, depth and repetition, each key given once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from serving import FileAccessError

LARGEST = 16_000_000
"""Bytes of a file."""

MOST_VALUES = 1_000_000
"""Values that a file may hold, those of an alias counted each time it is used."""

_NO_KEYS = "holds no keys; a configuration is lines of 'key: value'"


def read_keys(path: Path) -> dict[str, Any]:
    """Return what a YAML file says by its uppermost keys, each given once.

    Raises
    ------
    FileAccessError
        If the file cannot be read, is not YAML, or is no list of keys.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise FileAccessError(f"{path} {_NO_KEYS}")
        if _size(node, {}) > MOST_VALUES:
            raise FileAccessError(f"{path} holds more than {MOST_VALUES} values")
        content = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise FileAccessError(f"{path}, line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise FileAccessError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FileAccessError(f"{path} is nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:  # of a date, of a very long number
        raise FileAccessError(f"{path} holds a value that cannot be read: {error}") from None
    return {str(key): value for key, value in content.items()}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise FileAccessError(f"{path} is larger than the {LARGEST} bytes of a configuration")
        return content.decode()
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FileAccessError(f"cannot read {path}: it is not UTF-8 text") from None


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node stands for; infinitely many where it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1.0
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = [each if isinstance(each, tuple) else (each,) for each in node.value]
        known[id(node)] = 1.0 + sum(_size(part, known) for some in parts for part in some)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """Safe YAML of plain keys, in which one that is given twice is no silent last word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise _wrong("a key is a word, not a list or keys of its own", name)
            if name.value in seen:
                raise _wrong(f"key {name.value!r} is given twice", name)
            seen.add(name.value)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode) and not _is_text(node.value):
            raise _wrong("a character that no text has", node)
        return super().construct_scalar(node)


def _is_text(value: str) -> bool:
    """Return whether a value can be written and named a file; escapes can make it neither."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def _wrong(reason: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, node.start_mark)
