"""The reader of large files gives what the exact reader gives, or leaves the file to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mutants import VALUES

import workload._bulk
import workload._json_rows
from serving import WorkloadError
from workload._bulk import bulk_of
from workload._columns import TextTable
from workload._json_rows import _lines, _uniform_lines, read_json_rows

PATH = Path("t.csv")
words = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.floats(0, 1e12).map(lambda x: f"{x:.3f}"),
    st.integers(-(2**70), 2**70).map(str),
    st.text(alphabet="0123456789.eE+-_ naif", max_size=8),
    st.sampled_from([v.decode("utf-8", "ignore") for v in VALUES if len(v) < 50]),
)
plain = words.filter(lambda word: not set(word) & set('",\n\r\t\0'))


def exactly(text):
    table = TextTable.parse(text, PATH)
    assert table.bulk is None
    return table


def outcome(ask, name):
    """Return what an answer is, or the words of its refusal."""
    try:
        found = ask(name)
    except WorkloadError as error:
        return str(error)
    return found.dtype.kind, found.tobytes()


@settings(deadline=None, max_examples=80)
@given(rows=st.lists(st.tuples(plain, plain), min_size=1, max_size=6), blank=st.integers(0, 6))
@example(rows=[("1", "1_0")], blank=0)
@example(rows=[("1", "nan")], blank=1)
@example(rows=[("9007199254740993", "0.1")], blank=2)
@example(rows=[("1.7976931348623157e308", "4.9406564584124654e-324")], blank=0)
@example(rows=[("0.30000000000000004", "8.41e21"), ("1e23", "9007199254740993.5")], blank=0)
@example(rows=[("", " ")], blank=0)
@example(rows=[("true", "1"), ("true", "True")], blank=0)
def test_columns_read_in_bulk_equal_columns_read_one_by_one(rows, blank):
    lines = ["a,b,c", *(f"{a},{b},x" for a, b in rows)]
    lines.insert(blank, "")
    text = "\n".join(lines)
    exact = exactly(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload._bulk, "BULK_BYTES", 0)
        fast = TextTable.parse(text, PATH)
    assert fast.bulk is not None
    assert fast.lines.tolist() == exact.lines.tolist() and len(fast) == len(exact)
    for name in "abc":
        assert fast.columns[name] == exact.columns[name]
        assert fast.first(name) == exact.first(name)
        assert outcome(fast.numbers, name) == outcome(exact.numbers, name)
        assert outcome(fast.integers_or_numbers, name) == outcome(exact.integers_or_numbers, name)


moments = st.datetimes().map(str)
dates = st.one_of(
    moments,
    st.builds(lambda day, mark, rest: f"{day}{mark}{rest}",
              st.sampled_from(["2024-02-29", "2023-02-29", "2023-04-31", "1700-01-01", "2250-12-31",
                               "1699-01-01", "2023-00-10", "2023-11-16"]),
              st.sampled_from(" T"),
              st.sampled_from(["18:15:46", "24:00:00", "18:60:00", "18:15", "18:15:46.",
                               "18:15:46.1234567891", f"18:15:46.{10**30}", "18:15:46.680",
                               "18:15:46.123456789"])),
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@example(rows=["1796-05-04 03:12:45", "2183-10-29 21:37:08", "2040-12-31 10:59:59"], zone="")
@given(rows=st.lists(dates, min_size=1, max_size=5),
       zone=st.sampled_from(["", "Z", "+08:00", "-0330", "+00:00", "+23:00", " +01"]))  # fmt: skip
def test_dates_read_in_bulk_equal_dates_read_one_by_one(rows, zone):
    text = "a,t\n" + "".join(f"1,{each}{zone}\n" for each in rows)
    exact = exactly(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload._bulk, "BULK_BYTES", 0)
        fast = TextTable.parse(text, PATH)
    assert outcome(fast.seconds_of_day, "t") == outcome(exact.seconds_of_day, "t")


def test_a_date_with_an_offset_is_moved_to_utc():
    text = "t,x\n2024-05-10T01:00:00+08:00,1\n2024-05-09T17:00:02.5Z,2\n"
    text += "2024-05-09 12:00:03-0500,3\n2024-05-09T22:30:04+05:30,4\n"
    seconds = exactly(text).seconds_of_day("t")
    assert seconds.tolist() == [17 * 3600, 17 * 3600 + 2.5, 17 * 3600 + 3, 17 * 3600 + 4]


@pytest.mark.parametrize(
    "text", ['a,b\n"1",2\n', "a,b\n1,\r2\n", "a,b\n1,2\n3\n", "a,b\n1,2\n \n", "a,b\n", "a\n\n"]
)
def test_what_is_not_plain_is_left_to_the_exact_reader(monkeypatch, text):
    monkeypatch.setattr(workload._bulk, "BULK_BYTES", 0)
    assert bulk_of(text, ",") is None


def test_windows_line_ends_and_blank_lines_keep_the_numbers_of_lines(monkeypatch):
    monkeypatch.setattr(workload._bulk, "BULK_BYTES", 0)
    table = TextTable.parse("\r\n\r\na,b\r\n1,2\r\n\r\n3,4", PATH)
    assert table.bulk is not None and table.lines.tolist() == [4, 6]
    assert table.numbers("b").tolist() == [2, 4]


entries = st.lists(
    st.fixed_dictionaries({"t": st.one_of(st.integers(0, 2**60), st.floats(0, 1e9)),
                           "p": st.integers(0, 10**6),
                           "x": st.lists(st.integers(0, 99), max_size=3),
                           "s": st.text(max_size=3)}),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(entries=entries, blank=st.integers(0, 8), compact=st.booleans(), ascii=st.booleans())
def test_json_lines_read_by_pattern_equal_json_lines_parsed(entries, blank, compact, ascii):
    form = {"separators": (",", ":")} if compact else {}
    lines = [json.dumps(each, ensure_ascii=ascii, **form) for each in entries]
    lines.insert(blank, "")
    text = "\n".join(lines) + "\n"
    parsed = list(_lines(text, PATH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload._json_rows, "CHUNK", 30)
        table = read_json_rows(text, PATH, {"t", "p"})
    assert table.lines.tolist() == [line for line, _ in parsed]
    for key in "tp":
        exact = np.array([float(entry[key]) for _, entry in parsed])
        assert table.numbers(key).tobytes() == exact.tobytes()
        if all(type(entry[key]) is int for _, entry in parsed):
            assert table.integers_or_numbers(key).tolist() == [entry[key] for _, entry in parsed]


@pytest.mark.parametrize(
    "wrong", ['{"t": 01, "p": 1}', '{"t": 1 "p": 1}', '{"t": 1, "p": 1,}', '{"t": 1, "p": .5}',
              '{"t": 1, "p": 1, "x": [1,,2]}', '{"t": 1, "p": 1}}', '{"p": 1, "t": 1}',
              '{"t": 1e999, "p": 1}', '{"t": +1, "p": 1}']
)  # fmt: skip
def test_a_line_of_another_form_is_left_to_the_parser(wrong):
    text = '{"t": 1, "p": 2}\n' * 3 + wrong + "\n"
    assert _uniform_lines(text, PATH, {"t", "p"}, print) is None
    listed = '{"t": 1, "p": 2, "x": [1, 2]}\n' * 3 + wrong + "\n"
    assert _uniform_lines(listed, PATH, {"t", "p"}, print) is None
    assert _uniform_lines(listed[: -len(wrong) - 1], PATH, {"t", "p"}, print) is not None


def test_whole_numbers_of_json_lines_beyond_a_float_lose_nothing():
    clock = [1_700_000_000_000_000_001 + step for step in (0, 1, 130)]
    text = "".join(json.dumps({"t": tick, "p": 1}) + "\n" for tick in clock)
    assert read_json_rows(text, PATH, {"t", "p"}).integers_or_numbers("t").tolist() == clock
