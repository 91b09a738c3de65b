"""Every format in every form that a file can have; clocks, units, sessions and names of columns."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import ConfigError, DecodeNode, WorkloadError
from workload import TRACE_FORMATS, read_lengths, read_trace
from workload._formats import FORMATS

TIMED = [each for each in TRACE_FORMATS if each != "offline"]
TICKS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9, "": 1}


def rows_of(each, times=(2, 2, 5, 60)):
    """Return a few rows of a format, the last of them dropped."""
    ticks = TICKS[each.unit]
    rows = []
    for k, time in enumerate(times):
        row = {each.arrival: time * ticks, each.prefill: 10 + k, each.decode: 3 + k, "note": "x"}
        rows.append(row | ({each.marker: 0} if each.marker else {}))
    rows.append({**rows[-1], each.prefill: 0})
    return rows


def table(rows, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def columns_of(rows):
    """Return rows as one object with a list per column."""
    return {key: [row[key] for row in rows] for key in rows[0]} | {"rows": len(rows)}


FORMS = {
    "csv": table,
    "tsv": lambda rows: table(rows, "\t"),
    "quoted": lambda rows: table(rows).replace("note", '"note"').replace(",x", ',"x, y"'),
    "JSON lines": lambda rows: "\n".join(json.dumps(each) for each in rows) + "\n",
    "JSON lines, blank ones among them": lambda rows: "\n\n \n".join(map(json.dumps, rows)),
    "JSON lines, keys in another order": lambda rows: "\n".join(
        json.dumps(dict(reversed(each.items())) if k % 2 else each) for k, each in enumerate(rows)
    ),
    "JSON array": lambda rows: json.dumps(rows, indent=1),
    "JSON array on one line": json.dumps,
    "JSON object of lists": lambda rows: json.dumps(columns_of(rows)),
    "JSON object of lists, indented": lambda rows: "\n" + json.dumps(columns_of(rows), indent=1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TIMED)
def test_every_format_reads_from_every_form(tmp_path, name, form):
    each = next(each for each in FORMATS if each.name == name)
    (tmp_path / "t").write_text(FORMS[form](rows_of(each)))
    for asked in (None, name):
        reading = read_trace(tmp_path / "t", asked)
        assert reading.format == name and reading.dropped == {"zero tokens": 1}
        assert reading.requests.arrival_time.tolist() == [0, 0, 3, 58]
        assert reading.requests.prefill_length.tolist() == [10, 11, 12, 13]
        assert reading.unit == ("" if name == "own" else "s") and reading.notes == ()
    assert read_lengths(tmp_path / "t").decode.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("name", TIMED)
def test_every_format_takes_dates_for_times(tmp_path, name):
    each = next(each for each in FORMATS if each.name == name)
    rows = rows_of(each)
    for k, row in enumerate(rows):
        row[each.arrival] = f"2024-05-09T23:59:5{k}.5+08:00"
    for form in ("csv", "JSON lines"):
        (tmp_path / "t").write_text(FORMS[form](rows))
        reading = read_trace(tmp_path / "t")
        assert reading.requests.arrival_time.tolist() == [0, 1, 2, 3] and reading.unit == "s"
        with pytest.raises(WorkloadError, match="holds dates, which have no unit"):
            read_trace(tmp_path / "t", trace_time_unit="s")


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["own", "mooncake", "burstgpt", "vidur", "azure"]),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    start=st.integers(1_210_000_000, 2_200_000_000),
    gaps=st.lists(st.integers(0, 300), min_size=1, max_size=30),
)
def test_a_clock_that_counts_from_1970_shows_its_unit(tmp_path_factory, name, unit, start, gaps):
    each = next(each for each in FORMATS if each.name == name)
    seconds = np.concatenate(([0], np.cumsum(gaps)))
    rows = [
        {each.arrival: (start + int(t)) * TICKS[unit], each.prefill: 5, each.decode: 6}
        for t in seconds
    ]
    path = tmp_path_factory.mktemp("clock") / "t"
    path.write_text(table(rows))
    reading = read_trace(path)
    assert reading.requests.arrival_time == pytest.approx(seconds, abs=1e-6)
    assert reading.unit == "s"
    assert len(reading.notes) == (unit != each.unit)  # the usual unit is not worth a word
    assert all(f"read as {unit}" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("gap", "unit", "noted"),
    [
        (300.0, "ms", False),  # 3.3 requests/s
        (10.0, "ms", False),  # 100/s is a busy service, and milliseconds
        (9.5, "s", True),  # 105/s is not, and fractions of a millisecond are rare
        (300.25, "ms", True),  # plausible, yet it has fractions
        (2e6, "ms", True),  # one in 33 minutes
        (5.0, None, False),  # 200/s, or one in 5 s: nobody knows
    ],
)
def test_a_unit_taken_for_granted_must_be_plausible(tmp_path, gap, unit, noted):
    path = tmp_path / "t.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"timestamp": gap * k, "input_length": 9, "output_length": 9})
            for k in range(41)
        )
    )
    if unit is None:
        with pytest.raises(WorkloadError, match=r"--trace-time-unit ms or --trace-time-unit s"):
            read_trace(path)
    else:
        reading = read_trace(path)
        assert reading.requests.horizon == pytest.approx(40 * gap / TICKS[unit])
        assert bool(reading.notes) == noted
        assert all(f"read in {unit}" in note for note in reading.notes)
    for said in ("s", "ms", "us", "ns"):
        reading = read_trace(path, trace_time_unit=said)
        assert reading.requests.horizon == pytest.approx(40 * gap / TICKS[said])
        assert reading.notes == ()


def test_a_bad_line_is_named_whatever_stands_before_it(tmp_path):
    good = '{"timestamp": 1000, "input_length": 9, "output_length": 9}'
    wrong = {
        '{"timestamp": 1000, "input_length": 9 "output_length": 9}': ":4, row 2: not JSON",
        '{"timestamp": 1000, "input_length": 9.5, "output_length": 9}':
            ":4, row 2, column 'input_length', value 9.5",
        '{"timestamp": 1000, "output_length": 9}': ":4, row 2, column 'input_length': is missing",
    }  # fmt: skip
    for line, words in wrong.items():
        (tmp_path / "t").write_text(f"{good}\n\n \n{line}\n{good}\n")
        with pytest.raises(WorkloadError) as caught:
            read_trace(tmp_path / "t")
        assert f"{tmp_path / 't'}{words}" in str(caught.value)
    (tmp_path / "t").write_text(f"[\n{good},\n\n{good.replace('9', '-9')}\n]")
    with pytest.raises(WorkloadError, match=r"t:4, row 2, column 'input_length', value -9"):
        read_trace(tmp_path / "t")
    (tmp_path / "t").write_text("\narrival_time,prefill_length,decode_length\n\n0,1,1\n \n1,x,1\n")
    with pytest.raises(WorkloadError, match=r"t:6, row 2, column 'prefill_length', value 'x'"):
        read_trace(tmp_path / "t")
    text = 'arrival_time,prefill_length,decode_length,a\n0,1,1,"1\n2"\n\n1,1,1,b\n0,9,x,c\n'
    (tmp_path / "t").write_text(text)
    with pytest.raises(WorkloadError, match=r"t:6, row 3, column 'decode_length', value 'x'"):
        read_trace(tmp_path / "t")


def test_rows_that_were_sorted_and_dropped_keep_their_line_in_errors(tmp_path):
    rows = "9,5,5\n3,0,5\n\n7,500,5\n5,600,5\n"
    (tmp_path / "t").write_text("arrival_time,prefill_length,decode_length\n" + rows)
    with pytest.raises(WorkloadError, match=r"t:5, row 3, .* value 505: .*2 of 3 requests"):
        read_trace(tmp_path / "t").check_fits(DecodeNode(M_total=100))


@pytest.mark.parametrize("separator", [";", "|", " "])
def test_separators_of_others_are_named(tmp_path, separator):
    rows = [{"arrival_time": "0,5", "prefill_length": 5, "decode_length": 6}] * 3
    (tmp_path / "t").write_text(table(rows, separator))
    words = {";": "semicolons", "|": "bars", " ": "spaces"}[separator]
    with pytest.raises(WorkloadError, match=f"is separated by {words}; allowed: commas"):
        read_trace(tmp_path / "t")


def test_later_turns_follow_the_turn_before_and_are_counted(tmp_path):
    lines = [
        {"session_id": "a", "timestamp": 0, "input_length": 300, "output_length": 40},
        {"session_id": "a", "delay": 5000, "input_length": 500, "output_length": 30},
        {"session_id": "b", "timestamp": 1500, "input_length": 100, "output_length": 20},
        {"session_id": "a", "delay": 250.5, "input_length": 600, "output_length": 10},
        {"session_id": "b", "input_length": 700, "output_length": 15},
    ]
    path = tmp_path / "t"
    path.write_text("\n".join(map(json.dumps, lines)))
    reading = read_trace(path, trace_time_unit="ms")
    assert reading.requests.arrival_time.tolist() == [0, 1.5, 1.5, 5, 5.2505]
    assert reading.requests.prefill_length.tolist() == [300, 100, 700, 500, 600]
    assert len(reading.notes) == 1 and "3 later turns" in reading.notes[0]
    for wrong, words in (
        ({"session_id": "c", "delay": 1}, "row 6, column 'timestamp': .*first turn of session 'c'"),
        ({"session_id": "a", "delay": -1}, "row 6, column 'delay', value -1"),
        ({"session_id": "a", "delay": "1"}, "row 6, column 'delay', value '1'"),
        ({"input_length": 1}, "row 6, column 'timestamp': is missing"),
    ):
        bad = [*lines, {"input_length": 1, "output_length": 1} | wrong]
        path.write_text("\n".join(map(json.dumps, bad)))
        with pytest.raises(WorkloadError, match=words):
            read_trace(path)


@pytest.mark.parametrize(
    ("name", "horizon"),
    [("sent_ms", 0.04), ("sent (us)", 4e-5), ("sent_ns", 4e-8), ("sent_s", 40), ("sent", 40),
     ("messages", 40)],
)  # fmt: skip
def test_named_columns_have_the_unit_that_their_name_says(tmp_path, name, horizon):
    rows = [{name: k, "in": 7, "out": 8} for k in range(41)]
    columns = {"arrival": name, "prompt": "in", "output": "out"}
    for form in ("csv", "JSON lines"):
        (tmp_path / "t").write_text(FORMS[form](rows))
        for given_as in (columns, ",".join(f"{role}={each}" for role, each in columns.items())):
            reading = read_trace(tmp_path / "t", columns=given_as)
            assert reading.format == "columns"
            assert reading.requests.horizon == pytest.approx(horizon)
        assert read_lengths(tmp_path / "t", columns="prompt=in,output=out").decode.tolist() == [8]


@pytest.mark.parametrize(
    "columns", ["", "arrival=a", "arrival=a,prompt=b", "arrival=a,prompt=b,output=", "x=a",
                "arrival=a,prompt=b,output=c,prompt=d", "prompt=b,output=c"],
)  # fmt: skip
def test_a_mapping_that_says_too_little_is_refused(tmp_path, columns):
    with pytest.raises(ConfigError, match="'columns'"):
        read_trace(tmp_path / "none", columns=columns)
    with pytest.raises(ConfigError, match="'trace_time_unit'"):
        read_trace(tmp_path / "none", trace_time_unit="min")


RESULTS = [
    ({"info": {"input_tokens": 3}, "start_time": 1.0}, "inference-perf", "calibrate run"),
    ({"metadata": {}, "metrics": {}}, "aiperf", "calibrate run"),
    ({"input_toks": 1, "output_toks": 2, "last_token_ts": 3.0, "arrival_time": 4.0},
     "LLMServingSim", "calibrate run"),
    ({"metadata": {}, "benchmarks": [{"requests": {}}]}, "guidellm", "calibrate run"),
    ({"request_throughput": 3.0, "total_input_tokens": 5}, "vllm bench serve", "--save-detailed"),
]  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(("record", "name", "advice"), RESULTS)
def test_a_result_that_is_no_trace_is_called_what_it_is(tmp_path, record, name, advice, indent):
    path = tmp_path / "r.json"
    for content in (record, [record]):
        path.write_text(json.dumps(content, indent=indent))
        with pytest.raises(WorkloadError, match=f"a result of {name}.*{advice}"):
            read_trace(path)


WRONG_LISTS = [
    ({"start_times": [0, 1], "input_lens": [3, 4], "output_lens": [5]},
     "column .output_lens.: has 1 values, and start_times has 2"),
    ({"start_times": [], "input_lens": [], "output_lens": []}, "no request"),
    ({"start_times": [0, "a"], "input_lens": [3, 4], "output_lens": [5, 6]},
     r"row 2, column 'start_times', value 'a'"),
    ({"start_times": 0, "input_lens": [3, 4], "output_lens": [5, 6]}, "column 'input_lens'"),
    ({"input_lens": [3], "output_lens": [5]}, "lengths only"),
    ({"input_lens": [3], "output_lens": [5], "request_throughput": 1, "total_input_tokens": 3},
     "start_times since vLLM"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), WRONG_LISTS)
def test_lists_that_are_no_columns_are_refused(tmp_path, content, words):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(WorkloadError, match=words):
        read_trace(tmp_path / "r.json")


def test_requests_that_failed_in_a_benchmark_are_left_out_and_counted(tmp_path):
    (tmp_path / "r.json").write_text(
        json.dumps({"input_lens": [3, 4, 5], "output_lens": [7, 0, 9], "start_times": [5.5, 3, 4]})
    )
    reading = read_trace(tmp_path / "r.json")
    assert reading.dropped == {"zero tokens": 1} and reading.row.tolist() == [3, 1]
    assert reading.requests.arrival_time.tolist() == [0.0, 1.5]
    assert read_lengths(tmp_path / "r.json").decode.tolist() == [7, 9]
