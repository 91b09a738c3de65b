"""Read JSON (lines, an array of objects, an object of lists) as columns; name what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError
from workload._bulk import parsed
from workload._calendar import calendar_seconds
from workload._table import Ragged

MISSING = object()
"""Stands in a column for a row whose object lacks the key."""

CHUNK = 4_000_000
"""Characters that are converted at once."""

MANY = 5_000
"""Rows from which on it pays to load pandas."""

SPACE = re.compile(r"[ \t\r\n]*")
"""What may stand between the parts of a JSON document."""

_NUMBER = r"-?(?:0|[1-9]\d*+)(?:\.\d++)?+(?:[eE][+-]?\d++)?+"
_WHOLE = r"(?:0|[1-9]\d*+)"
_WHOLES = rf"\[(?:{_WHOLE}(?:, ?{_WHOLE})*+)?+\]"
_LIST = rf"\[(?:{_NUMBER}(?:, ?{_NUMBER})*+)?+\]"
_IDS = r"\[(?:\d{1,18}(?:, ?\d{1,18})*+)?+\]"
_STRING = r'"[^"\\\x00-\x1f]*+"'


@dataclass(frozen=True, slots=True)
class JsonTable:
    """Columns of the objects of a file, one value per object.

    Parameters
    ----------
    path
        File they came from, for messages.
    columns
        Key to values, where :data:`MISSING` stands for none.
    lines : shape (R,)
        Line of the file that each object starts on, from 1.
    """

    path: Path
    columns: Mapping[str, Any]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.lines.size

    def first(self, name: str) -> Any:
        """Return the first value of a column that is there."""
        return next((each for each in self.columns[name] if each is not MISSING), None)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as finite numbers, shape (R,).

        Raises
        ------
        WorkloadError
            Naming the first row without one.
        """
        values = self.columns[name]
        if isinstance(values, np.ndarray):
            return values
        for row, value in enumerate(values, start=1):
            # abs(value) < 1e300 is False for NaN and infinities, and exact for huge integers.
            if value is MISSING:
                raise WorkloadError("is missing", path=self.path, row=row, column=name)
            if type(value) not in (int, float) or not abs(value) < 1e300:
                raise WorkloadError(
                    "allowed: a finite number", path=self.path, row=row, column=name, value=value
                )
        return np.array(values, dtype=np.float64)

    def integers_or_numbers(self, name: str) -> NDArray:
        """Return a column as int64 where every value is whole, else as finite numbers."""
        floats, values = self.numbers(name), self.columns[name]
        whole = not isinstance(values, np.ndarray) and all(type(each) is int for each in values)
        if whole and np.abs(floats).max() < 2**62:
            return np.array(values, dtype=np.int64)
        return floats

    def texts(self, name: str) -> list[str]:
        """Return a column as text, empty where there is none.

        Raises
        ------
        WorkloadError
            Naming the first value that is neither text nor a number.
        """
        values = self.columns[name]
        if isinstance(values, np.ndarray):
            values = [int(each) if each.is_integer() else each for each in values.tolist()]
        out = []
        for row, value in enumerate(values, start=1):
            none = value is MISSING or value is None
            if not none and type(value) not in (str, int, float):
                raise WorkloadError(
                    "allowed: text or a number", path=self.path, row=row, column=name, value=value
                )
            out.append("" if none else str(value))
        return out

    def id_lists(self, name: str) -> Ragged:
        """Return a column of lists of whole numbers; a list that is missing is empty.

        Raises
        ------
        WorkloadError
            Naming the first value that is none.
        """
        values = self.columns[name]
        if isinstance(values, Ragged):
            return values
        lists = [[] if each is MISSING or each is None else each for each in values]
        for row, each in enumerate(lists, start=1):
            if type(each) is not list or not all(type(x) is int and x >= 0 for x in each):
                raise WorkloadError(
                    "allowed: a list of whole numbers >= 0",
                    path=self.path, row=row, column=name, value=each,
                )  # fmt: skip
        return Ragged.of_ids(lists)

    def seconds_of_day(self, name: str) -> NDArray[np.float64]:
        """Return a column of calendar times as seconds after midnight of the earliest's day."""
        for row, value in enumerate(self.columns[name], start=1):
            if value is MISSING:
                raise WorkloadError("is missing", path=self.path, row=row, column=name)
        return calendar_seconds(self.columns[name], name, self.path)


def is_json(text: str) -> bool:
    """Return whether the first thing in a file is a JSON object or array."""
    return text.lstrip()[0] in "{["


def read_json_rows(
    text: str, path: Path, keys: Collection[str], say: Callable[[str], None] = lambda text: None
) -> JsonTable:
    """Return the values of some keys in every object of a file.

    Parameters
    ----------
    text
        One object a line, where blank lines are skipped; one array of objects; or one object with
        a list under each of its keys that matter.
    path
        The file, for messages.
    keys
        Keys that matter; a column is made of those that an object has.
    say
        Called now and then with what is being done.

    Raises
    ------
    WorkloadError
        Naming the first line that is no object.
    """
    if text.lstrip().startswith("["):
        return _assembled(_array(text, path), path, keys)
    table = _only_object(text, path, keys)
    if table is None:
        table = _uniform_lines(text, path, keys, say)
    return _assembled(_lines(text, path), path, keys) if table is None else table


def _only_object(text: str, path: Path, keys: Collection[str]) -> JsonTable | None:
    """Return the columns of a file that is one object; None for any other file.

    Raises
    ------
    WorkloadError
        If it has lists, and they are empty or of different lengths.
    """
    start = text.index("{")
    try:
        entry, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    if SPACE.fullmatch(text, end) is None:
        return None
    line = text.count("\n", 0, start) + 1
    lists = {key: value for key, value in entry.items() if key in keys}
    if not lists or not all(isinstance(values, list) for values in lists.values()):
        return _assembled(iter([(line, entry)]), path, keys)
    (first, rows), *others = lists.items()
    for key, values in others:
        if len(values) != len(rows):
            raise WorkloadError(
                f"has {len(values)} values, and {first} has {len(rows)}", path=path, column=key
            )
    if not rows:
        raise WorkloadError("holds no request", path=path, column=first)
    unread = dict.fromkeys((key for key in entry if key not in lists), ())
    return JsonTable(path, {**lists, **unread}, np.full(len(rows), line))


def _lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of every line that is not blank."""
    row = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        row += 1
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _not_json(error, path, row, number) from error
        yield number, _object(entry, path, row, number)


def _not_json(error: Exception, path: Path, row: int, line: int) -> WorkloadError:
    """Return the error about text that no JSON parser takes."""
    said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return WorkloadError(f"not JSON: {said}", path=path, row=row, line=line)


def _array(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of every entry of one JSON array."""
    decode = json.JSONDecoder().raw_decode

    def after_space(at: int) -> int:
        found = SPACE.match(text, at)
        return at if found is None else found.end()

    at = after_space(text.index("[") + 1)
    line, counted, row = 1 + text.count("\n", 0, at), at, 0
    wanted = "a JSON array holds objects between [ and ]"
    while text[at : at + 1] != "]" or row:
        row += 1
        line, counted = line + text.count("\n", counted, at), at
        try:
            entry, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _not_json(error, path, row, line) from error
        yield line, _object(entry, path, row, line)
        at = after_space(at)
        mark = text[at : at + 1]
        if mark == "]":
            break
        if mark != ",":
            reason = f"not JSON: {wanted}, with commas between them"
            raise WorkloadError(reason, path=path, row=row, line=line)
        at = after_space(at + 1)
    if text[at + 1 :].strip():
        raise WorkloadError(f"not JSON: {wanted}, and nothing after it", path=path)
    if not row:
        raise WorkloadError("the JSON array is empty", path=path)


def _object(entry: Any, path: Path, row: int, line: int) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise WorkloadError("not a JSON object", path=path, row=row, line=line)
    return entry


def _assembled(
    entries: Iterator[tuple[int, dict[str, Any]]], path: Path, keys: Collection[str]
) -> JsonTable:
    """Return the columns of objects one after another."""
    columns: dict[str, list[Any]] = {key: [] for key in keys}
    lines: list[int] = []
    seen: set[str] = set()
    others: list[str] = []
    for number, entry in entries:
        lines.append(number)
        for key, column in columns.items():
            column.append(entry.get(key, MISSING))
        seen.update(entry)
        if len(lines) == 1:
            others = [key for key in entry if key not in columns]
    known = {key: column for key, column in columns.items() if key in seen}
    unread = dict.fromkeys(others, ())
    return JsonTable(path, {**known, **unread}, np.array(lines, dtype=np.int64))


def _uniform_lines(
    text: str, path: Path, keys: Collection[str], say: Callable[[str], None]
) -> JsonTable | None:
    """Return the columns of lines that all have the form of the first; None where one has not.

    A pattern made of the first line reads a line several times as fast as a JSON parser, and
    fits only lines that are JSON.
    """
    head = text.find("{")
    made = _pattern(text[head : text.find("\n", head) + 1 or None].rstrip("\r\n"), keys)
    if made is None:
        return None
    pattern, groups, lists, others = made
    names = [name for name in groups if name not in lists]
    values: list[NDArray[np.float64]] = []
    ragged: dict[str, list[Ragged]] = {name: [] for name in lists}
    lines: list[NDArray[np.int64]] = []
    start, above = 0, 0
    while start < len(text):
        end = text.find("\n", start + CHUNK) + 1 or len(text)
        chunk = text[start:end]
        found = pattern.findall(chunk)
        newlines = chunk.count("\n")
        at = np.arange(newlines + (not chunk.endswith("\n")))
        if at.size != len(found):  # blank lines, or lines of another form
            at = np.flatnonzero([line and not line.isspace() for line in chunk.split("\n")])
        if at.size != len(found):
            return None
        lines.append(at + above + 1)
        for name, parts in ragged.items():
            k = groups.index(name)
            parts.append(Ragged.of_texts([each[k] for each in found]))
        if lists:
            found = list(map(itemgetter(*map(groups.index, names)), found))
        part = _floats(found, len(names))
        if not (np.abs(part) < 2.0**53).all():  # not every whole number above it is a float64
            return None
        values.append(part)
        say(f"reading {path}: {end / 1e6:,.0f} of {len(text) / 1e6:,.0f} MB")
        start, above = end, above + newlines
    together = np.concatenate(values)
    columns = {name: np.ascontiguousarray(together[:, at]) for at, name in enumerate(names)}
    joined = {name: Ragged.joined(parts) for name, parts in ragged.items()}
    unread = dict.fromkeys(others, ())
    return JsonTable(path, {**columns, **joined, **unread}, np.concatenate(lines))


def _floats(found: list[tuple[str, ...]], width: int) -> NDArray[np.float64]:
    """Return rows of numbers that are written out, shape (R, width)."""
    if len(found) > MANY:
        fast = parsed("\n".join(map(",".join, found)).encode(), ",")
        if fast is not None:
            return fast
    return np.array([tuple(map(float, each)) for each in found]).reshape(-1, width)


def _pattern(
    line: str, keys: Collection[str]
) -> tuple[re.Pattern[str], list[str], list[str], list[str]] | None:
    """Return a pattern for lines of the form of ``line`` with a group for each key that matters.

    Also the keys in the order of the groups, those of them that hold lists, and the other keys.
    None where a value is of no simple form.
    """
    try:
        pairs = json.loads(line, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not line.startswith("{") or len(dict(pairs)) != len(pairs):
        return None
    groups, lists, others, fields = [], [], [], []
    for key, value in pairs:
        if not key.isascii() or not key.isprintable() or '"' in key or "\\" in key:
            return None
        form = _form(value)
        if form is None or (key in keys and form not in (_NUMBER, _WHOLES)):
            return None
        if key not in keys:
            others.append(key)
        else:
            groups.append(key)
            if form == _WHOLES:
                lists.append(key)
                form = _IDS
            form = f"({form})"
        fields.append(f'"{re.escape(key)}": ?{form}')
    if len(groups) - len(lists) < 2:
        return None
    pattern = re.compile(r"^\{" + ", ?".join(fields) + r"\}\r?$", re.M | re.A)
    return pattern, groups, lists, others


def _form(value: Any) -> str | None:
    """Return the pattern of values of a simple form; None for any other."""
    if type(value) in (int, float):
        return _NUMBER
    if isinstance(value, str):
        return _STRING
    if isinstance(value, list) and all(type(x) is int and x >= 0 for x in value):
        return _WHOLES
    if isinstance(value, list) and all(type(x) in (int, float) for x in value):
        return _LIST
    return None
