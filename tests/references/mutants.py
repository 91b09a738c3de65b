"""Damage small valid files at random, to see what a reader does with files that nobody meant.

A mutant comes from one or two valid files by a few random edits: of bytes, of lines, of single
values, or of the whole file. The same seed gives the same mutants.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serving import FluidServeError

VALUES = (
    b"", b" ", b"0", b"-0", b"-1", b"1.5", b"1e5", b"1e308", b"1e999", b"-1e999", b"5e-324",
    b"nan", b"NaN", b"NaT", b"inf", b"-inf", b"Infinity", b"null", b"None", b"true", b"false",
    b"1_000", b"0x10", b"+5", b"1,5", b"1;5", b"1 5", b"9007199254740993", b"9223372036854775807",
    b"9223372036854775808", b"1" + b"0" * 400, b"1" * 5000, "\u0663".encode(), "\u00bd".encode(),
    b"2023-11-16 18:15:46", b"2023-13-45 99:99:99", b"99999-01-01 00:00:00",
    b"0001-01-01T00:00:00Z", b"2023-11-16T18:15:46+08:00", b"2023-11-16T18:15:46+99:99",
    b'"', b'""', b'"a', b"'", b"[]", b"{}", b"[1]", b'{"a": 1}', b"[" * 3000, b'{"a":' * 3000,
    b"#", b"\\", b"\\u0000", b'"\\ud800"', b"\xff", b"\xc3", b"\0", b"\r", b"\n", b"\t",
    b",", b";", b":", b"=1+1", b"../x", b"%s%n", b"\x1b[31m",
)  # fmt: skip
"""What a value is replaced by: numbers at the edges, other types, other notations, rubbish."""

_VALUE = re.compile(rb'"[^"\n]*"|[^\s,;:{}\[\]"]+')


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    edit = rng.randrange(4)
    if edit == 0:  # one bit
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if edit == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 4))) + data[at:]
    end = min(len(data), at + rng.randint(1, 40))
    return data[:at] + data[end:] if edit == 2 else data[:end] + data[at:]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    edit = rng.randrange(6)
    if edit == 0:
        del lines[at]
    elif edit == 1:
        lines.insert(at, lines[other])
    elif edit == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif edit == 3:
        lines.insert(at, rng.choice((b"", b"  ", b"\t", b"# note", b"null", b"[]", b"{}", b",,")))
    elif edit == 4:
        lines[at] += rng.choice((b",", b",7", b"\t", b";", b" ", b"}", b"]", b"\r"))
    else:
        lines[at] = lines[at] + lines[other]
    return b"\n".join(lines)


def _value(data: bytes, rng: random.Random) -> bytes:
    found = list(_VALUE.finditer(data))
    if not found:
        return data
    chosen = rng.choice(found)
    new = rng.choice(VALUES)
    if rng.random() < 0.3:
        new = rng.choice(found).group()  # a name for a number, a number for a name
    elif rng.random() < 0.2:
        new = b'"' + new + b'"'
    if rng.random() < 0.1:  # everywhere at once
        return data.replace(chosen.group(), new)
    return data[: chosen.start()] + new + data[chosen.end() :]


def _whole(data: bytes, rng: random.Random) -> bytes:
    edit = rng.randrange(10)
    if edit == 0:
        return data[: rng.randrange(len(data) + 1)]
    if edit == 1:
        return b"\xef\xbb\xbf" + data
    if edit == 2:
        return data.decode("latin-1").encode("utf-16")
    if edit == 3:
        return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x85", b"\x0b")))
    if edit == 4:
        return data.replace(b",", rng.choice((b";", b"\t", b"|", b" ", b", ", b",,")))
    if edit == 5:
        return gzip.compress(data, mtime=0)[: -rng.randint(1, 12)]
    if edit == 6:
        return b"[" + data.strip().replace(b"\n", b",") + b"]"
    if edit == 7:
        return data + data
    if edit == 8:
        return data.replace(b"{", b"[") if rng.random() < 0.5 else data.replace(b'"', b"'")
    return gzip.compress(data, mtime=0)


_EDITS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_bytes, _lines, _value, _whole)
_WEIGHTS = (3, 3, 6, 1)


def mutants(files: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` damaged files.

    Parameters
    ----------
    files
        Valid files, each at least one byte.
    count
        How many mutants.
    seed
        Equal files, count and seed give equal mutants.
    """
    rng = random.Random(seed)
    for _ in range(count):
        data = rng.choice(files)
        if rng.random() < 0.05:  # the head of one file on the tail of another
            tail = rng.choice(files)
            data = data[: rng.randrange(len(data))] + tail[rng.randrange(len(tail)) :]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = rng.choices(_EDITS, _WEIGHTS)[0](data, rng) or b"\n"
        yield data


def read_or_refused(
    files: Iterable[bytes], path: Path, *readers: Callable[[Path], Any]
) -> tuple[int, int]:
    """Give each file to each reader; return how many were read, and how many were refused.

    Parameters
    ----------
    files
        Contents of the files.
    path
        Where each of them is written in turn.
    *readers
        Functions of a path that return anything or raise a FluidServeError.

    Raises
    ------
    AssertionError
        If a reader raises anything else, or a refusal that is not one line which names the file.
    """
    read = refused = 0
    for content in files:
        path.unlink(missing_ok=True)  # a new file is written faster than an old one is emptied
        path.write_bytes(content)
        for reader in readers:
            try:
                reader(path)
            except FluidServeError as error:
                line = str(error)
                assert line.isprintable() and str(path) in line, (line, content[:2000])
                refused += 1
            except Exception as error:
                raise AssertionError(f"{reader} ends in {error!r} on {content[:2000]!r}") from error
            else:
                read += 1
    return read, refused
