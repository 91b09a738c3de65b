"""Every trace format, every option, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import ConfigError, DecodeNode, FileAccessError, RequestTable, WorkloadError
from workload import TRACE_FORMATS, read_lengths, read_trace, write_requests

OWN = "arrival_time,prefill_length,decode_length\n"
FILES = {
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,3\n0.5,11,4\n2.25,12,5\n",
    "own": OWN + "0.5,10,3\n0.5,11,4\n2.25,12,5\n",
    "sharegpt": "input_toks\toutput_toks\tarrival_time_ns\n10\t3\t500000000\n11\t4\t500000000\n"
    "12\t5\t2250000000\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,10,3,13,Conversation log\n5,GPT-4,11,4,15,API log\n6.75,ChatGPT,12,5,17,API log\n",
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.2500000,10,3\n"
    "2023-11-16 23:59:59.2500000,11,4\n2023-11-17 00:00:01.0000000,12,5\n",
    "azure_tidy": "arrival_s,prompt_tokens,output_tokens\n0.0,10,3\n0.0,11,4\n1.75,12,5\n",
    "mooncake_tidy": "arrival_s,prompt_tokens,output_tokens,cached_prefix_tokens_inf\n"
    "0.0,10,3,0\n0.0,11,4,5\n1.75,12,5,10\n",
    "vllm_bench": '{"date": "20260101", "request_throughput": 2.0,\n"input_lens": [10, 11, 12], '
    '"output_lens": [3, 4, 5],\n"start_times": [7.25, 7.25, 9.0], "errors": ["", "", ""]}\n',
    "mooncake": '{"timestamp": 250, "input_length": 10, "output_length": 3, "hash_ids": [1, 2]}\n'
    '{"timestamp": 250, "input_length": 11, "output_length": 4, "hash_ids": []}\n'
    '{"timestamp": 2000.0, "input_length": 12, "output_length": 5}\n',
}


@pytest.fixture(params=["one by one", "in bulk"], autouse=True)
def reader(request, monkeypatch):
    """Read every file with the exact reader, and with the one of large files."""
    if request.param == "in bulk":
        monkeypatch.setattr("workload._bulk.BULK_BYTES", 0)
        monkeypatch.setattr("workload._json_rows.MANY", 0)
        monkeypatch.setattr("workload._json_rows.CHUNK", 40)


def written(folder: Path, text: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_format_has_an_example():
    assert {*FILES, "offline"} == set(TRACE_FORMATS)  # which has no times: test_content_files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("asked", [False, True])
def test_each_format_is_told_by_its_content(tmp_path, name, pack, newline, asked):
    # The name says nothing and lies about the compression.
    content = FILES[name].replace("\n", newline).encode()
    reading = read_trace(written(tmp_path, pack(content), "x.txt"), name if asked else None)
    assert reading.format == name and not reading.dropped
    assert reading.requests.arrival_time.tolist() == [0.0, 0.0, 1.75]
    assert reading.requests.prefill_length.tolist() == [10, 11, 12]
    assert reading.requests.decode_length.tolist() == [3, 4, 5]
    assert reading.row.tolist() == [1, 2, 3]


def test_byte_order_mark_spaces_and_trailing_blank_lines_do_no_harm(tmp_path):
    text = "\ufeffarrival_time, prefill_length ,decode_length\n0, 10 ,3\n\n\n"
    assert len(read_trace(written(tmp_path, text)).requests) == 1


def test_further_columns_and_any_order_of_columns(tmp_path):
    text = "note,decode_length,priority,arrival_time,predicted_decode_length,prefill_length\n"
    text += '"a, b",3,2,1.5,9,10\nc,4,-1,0.5,8,11\n'
    table = read_trace(written(tmp_path, text)).requests
    assert table.arrival_time.tolist() == [0.0, 1.0]
    assert table.priority.tolist() == [-1, 2]
    assert table.predicted_decode_length.tolist() == [8, 9]


def test_unsorted_times_are_sorted_keeping_the_order_of_ties(tmp_path):
    text = OWN + "3,1,1\n1,2,2\n3,3,3\n1,4,4\n"
    reading = read_trace(written(tmp_path, text))
    assert reading.requests.prefill_length.tolist() == [2, 4, 1, 3]
    assert reading.row.tolist() == [2, 4, 1, 3]


def test_rows_with_zero_tokens_are_dropped_and_counted(tmp_path):
    text = OWN + "0,0,5\n1,5,0\n2,0,0\n3,5,5\n4,5,9\n"
    reading = read_trace(written(tmp_path, text), L_filter=8)
    assert reading.dropped == {"zero tokens": 3, "decode length above L_filter": 1}
    assert reading.row.tolist() == [4]
    with pytest.raises(WorkloadError, match=r"left of 5 rows \(3 with zero tokens, 2"):
        read_trace(written(tmp_path, text), L_filter=2)


def test_a_request_that_cannot_fit_is_named_by_its_row_in_the_file(tmp_path):
    text = "arrival_s,prompt_tokens,output_tokens\n5,0,1\n9,60,60\n7,90,11\n6,50,50\n"
    reading = read_trace(written(tmp_path, text))
    reading.check_fits(DecodeNode(M_total=120))
    with pytest.raises(WorkloadError, match=r"row 2, column .* value 120: can never finish"):
        reading.check_fits(DecodeNode(M_total=100))


def test_limit_start_and_rate_scale(tmp_path):
    tidy = written(tmp_path, "arrival_s,prompt_tokens,output_tokens\n"
                   + "".join(f"{10 + t},{t + 1},1\n" for t in range(10)))  # fmt: skip
    assert read_trace(tidy, limit=3).requests.arrival_time.tolist() == [0, 1, 2]
    late = read_trace(tidy, start=4.5, limit=2, rate_scale=2.0).requests
    assert late.prefill_length.tolist() == [6, 7] and late.arrival_time.tolist() == [0, 0.5]
    own = written(tmp_path, OWN + "10,1,1\n20,2,2\n", "own")
    assert read_trace(own, start=15).requests.arrival_time.tolist() == [5.0]
    with pytest.raises(WorkloadError, match="from start = 99 on"):
        read_trace(tidy, start=99)


@pytest.mark.parametrize(
    ("option", "value"),
    [("format", "csv"), ("limit", 0), ("limit", 1.5), ("start", -1.0), ("start", float("nan")),
     ("rate_scale", 0.0), ("rate_scale", float("inf")), ("L_filter", 0)],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(tmp_path, option, value):
    with pytest.raises(ConfigError, match=f"config key '{option}'"):
        read_trace(written(tmp_path, FILES["own"]), **{option: value})
    if option == "L_filter":
        with pytest.raises(ConfigError, match="config key 'L_filter'"):
            read_lengths(written(tmp_path, FILES["own"]), **{option: value})


WRONG = {
    "unparsable time": (OWN + "0,1,1\nx,1,1\n", 2, "arrival_time", "x"),
    "unparsable length": (OWN + "0,1,1\n1,1.5e,1\n", 2, "prefill_length", "1.5e"),
    "empty field": (OWN + "0,1,\n", 1, "decode_length", ""),
    "underscore": (OWN + "0,1_0,1\n", 1, "prefill_length", "1_0"),
    "foreign digits": (OWN + "0,٣,1\n", 1, "prefill_length", "٣"),
    "NaN": (OWN + "0,1,1\n0,nan,1\n", 2, "prefill_length", "nan"),
    "infinite": (OWN + "inf,1,1\n", 1, "arrival_time", "inf"),
    "negative length": (OWN + "0,0,1\n0,1,1\n0,1,-3\n", 3, "decode_length", -3),
    "prompt beyond 2^53": (OWN + "0,9007199254740994,1\n", 1, "prefill_length", 2**53 + 2),
    "negative time": (OWN + "0,0,1\n-1,1,1\n", 2, "arrival_time", -1),
    "fraction": (OWN + "0,1.5,1\n", 1, "prefill_length", 1.5),
    "wrong in a row that is dropped": (OWN + "x,0,1\n1,1,1\n", 1, "arrival_time", "x"),
    "priority": ("priority," + OWN + "1.5,0,1,1\n", 1, "priority", 1.5),
    "prediction": (
        "predicted_decode_length," + OWN + "0,0,1,1\n",
        1,
        "predicted_decode_length",
        0,
    ),
    "ragged, short": (OWN + "0,1,1\n0,1\n", 2, None, None),
    "ragged, long": (OWN + "0,1,1,1\n", 1, None, None),
    "bad date": (
        FILES["azure"] + "2023-13-16 00:00:00.0,1,1\n",
        4,
        "TIMESTAMP",
        "2023-13-16 00:00:00.0",
    ),
    "number for a date": (FILES["azure"] + "17,1,1\n", 4, "TIMESTAMP", "17"),
    "one date with a zone": (
        FILES["azure"] + "2023-11-16 00:00:00+02:00,1,1\n",
        4,
        "TIMESTAMP",
        "2023-11-16 00:00:00+02:00",
    ),
    "no such zone": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 00:00:00+25:00,1,1\n",
        1,
        "TIMESTAMP",
        "2023-11-16 00:00:00+25:00",
    ),
    "a date beyond any clock": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n9999-11-16 00:00:00,1,1\n",
        1,
        "TIMESTAMP",
        "9999-11-16 00:00:00",
    ),
    "decode longer than any, not in the first row": (
        OWN + "9,1,1\n0,0,1\n1,1,100000001\n",
        3,
        "decode_length",
        100000001,
    ),
    "not a date": (FILES["azure"] + "NaT,1,1\n", 4, "TIMESTAMP", "NaT"),
    "bad nanoseconds": (FILES["sharegpt"] + "1\t1\t1e\n", 4, "arrival_time_ns", "1e"),
    "bad JSON": (FILES["mooncake"] + '{"timestamp": 1,\n', 4, None, None),
    "JSON list": (FILES["mooncake"] + "[1]\n", 4, None, None),
    "JSON key missing": (FILES["mooncake"] + '{"timestamp": 1}\n', 4, "input_length", None),
    "JSON string": (
        '{"timestamp": 1, "input_length": "7", "output_length": 1}\n',
        1,
        "input_length",
        "7",
    ),
    "JSON true": (
        '{"timestamp": 1, "input_length": true, "output_length": 1}\n',
        1,
        "input_length",
        True,
    ),
    "JSON NaN": (
        '{"timestamp": NaN, "input_length": 1, "output_length": 1}\n',
        1,
        "timestamp",
        ...,
    ),
    "JSON fraction": (
        '{"timestamp": 0, "input_length": 1.5, "output_length": 1}\n',
        1,
        "input_length",
        1.5,
    ),
    "column missing": ("arrival_time,prefill_length\n0,1\n", None, "decode_length", None),
    "column twice": ("arrival_time," + OWN + "0,0,1,1\n", None, "arrival_time", None),
    "no header": ("0,1,1\n2,3,4\n", None, None, None),
    "no rows": (OWN, None, None, None),
    "empty": ("", None, None, None),
    "blank": (" \n\n", None, None, None),
    "quote left open": (OWN + '0,"1,1\n1,1,1\n', None, None, None),
    "lengths only": ("prompt_tokens,output_tokens\n1,2\n", None, None, None),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", None, None, None),
    "zero bytes": (OWN + "0,1,1\0\n", None, None, None),
    "other encoding": (OWN.encode("utf-16"), None, None, None),
    "damaged gzip": (gzip.compress(OWN.encode() * 50)[:-12], None, None, None),
    "gzip in name only of its first bytes": (b"\x1f\x8bhello", None, None, None),
}


@pytest.mark.parametrize("what", WRONG)
def test_whatever_is_wrong_is_one_line_naming_file_row_column_and_value(tmp_path, what):
    content, row, column, value = WRONG[what]
    path = written(tmp_path, content)
    with pytest.raises(WorkloadError) as caught:
        read_trace(path)
    error, line = caught.value, str(caught.value)
    assert str(path) in line and "\n" not in line
    assert (error.row, error.column) == (row, column)
    if value is not ...:
        assert error.value == value and type(error.value) in (type(value), float)
    for part in (row and f"row {row}", column and f"column {column!r}"):
        assert not part or part in line


def test_a_format_asked_for_by_name_must_be_that_format(tmp_path):
    with pytest.raises(WorkloadError, match=r"column 'TIMESTAMP': is missing; the azure format"):
        read_trace(written(tmp_path, FILES["own"]), "azure")
    with pytest.raises(WorkloadError, match=r"column 'timestamp': is missing; the mooncake format"):
        read_trace(written(tmp_path, FILES["own"]), "mooncake")


def test_files_that_cannot_be_opened_say_why(tmp_path):
    with pytest.raises(FileAccessError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(FileAccessError, match="directory"):
        read_trace(tmp_path)


def test_nanosecond_clocks_since_1970_lose_nothing(tmp_path):
    epoch = 1_700_000_000_000_000_001
    rows = "".join(f"1\t1\t{epoch + step}\n" for step in (0, 1, 130))
    path = written(tmp_path, "input_toks\toutput_toks\tarrival_time_ns\n" + rows)
    assert read_trace(path).requests.arrival_time == pytest.approx([0, 1e-9, 130e-9], rel=1e-12)


def test_utc_marks_are_understood(tmp_path):
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    text = head + "2024-05-10 00:00:00.009930+00:00,1,1\n2024-05-10T00:00:01Z,2,2\n"
    times = read_trace(written(tmp_path, text)).requests.arrival_time
    assert times == pytest.approx([0, 0.99007])


tables = st.lists(
    st.tuples(
        st.floats(0, 1e12),
        st.integers(1, 2**40),
        st.integers(1, 10**8),
        st.integers(-5, 5),
        st.integers(1, 2**40),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=tables, optional=st.booleans(), suffix=st.sampled_from(["csv", "csv.gz"]))
def test_what_is_written_reads_back_bit_for_bit(tmp_path, rows, optional, suffix):
    arrival, prefill, decode, priority, predicted = zip(*rows, strict=True)
    extra = {"priority": priority, "predicted_decode_length": predicted} if optional else {}
    table = RequestTable.validated(arrival, prefill, decode, **extra)
    path = tmp_path / f"requests.{suffix}"
    write_requests(table, path)
    back = read_trace(path, start=0.0)
    assert back.format == "own"
    read, written = back.requests.arrays(), table.arrays()
    assert read.keys() == written.keys()
    for name, column in written.items():
        assert read[name].tobytes() == column.tobytes()
    first = path.read_bytes()
    write_requests(back.requests, path)
    assert path.read_bytes() == first
    assert list(tmp_path.glob(".*")) == []


def test_a_plain_table_is_written_with_the_three_columns(tmp_path):
    write_requests(RequestTable.validated([0.1, 2], [3, 4], [5, 6]), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == OWN + "0.1,3,5\n2.0,4,6\n"


def test_unwritable_places_are_refused_and_nothing_is_left(tmp_path):
    table = RequestTable.validated([0], [1], [1])
    with pytest.raises(FileAccessError, match="cannot be written: No such file"):
        write_requests(table, tmp_path / "none" / "out.csv")
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileAccessError, match="cannot be written"):
        write_requests(table, tmp_path / "taken")
    assert sorted(os.listdir(tmp_path)) == ["taken"]


def test_lengths_come_from_lengths_only_files_and_from_traces(tmp_path):
    only = written(tmp_path, "prompt_tokens,output_tokens\n5,7\n5,7\n6,8\n0,3\n9,90\n")
    mix = read_lengths(only, L_filter=10)
    assert mix.prefill.tolist() == [5, 6] and mix.probability == pytest.approx([2 / 3, 1 / 3])
    for name, text in FILES.items():
        mix = read_lengths(written(tmp_path, text, name))
        assert mix.prefill.tolist() == [10, 11, 12] and mix.decode.tolist() == [3, 4, 5]
    with pytest.raises(WorkloadError, match="row 2, column 'output_tokens', value 'x'"):
        read_lengths(written(tmp_path, "prompt_tokens,output_tokens\n5,7\n5,x\n"))
    with pytest.raises(WorkloadError, match="no length is left"):
        read_lengths(written(tmp_path, "prompt_tokens,output_tokens\n0,7\n"))


def test_reading_keeps_up_with_a_hundred_thousand_rows_a_second(tmp_path):
    rng = np.random.default_rng(1)
    rows = 50_000
    table = RequestTable.validated(
        np.sort(rng.random(rows) * 1e4), rng.integers(1, 4000, rows), rng.integers(1, 900, rows)
    )
    path = tmp_path / "requests.csv"
    write_requests(table, path)
    best = np.inf
    for _ in range(3):
        began = time.process_time()  # other work on the machine is not its fault
        read_trace(path)
        best = min(best, time.process_time() - began)
    assert rows / best > 1e5


SHARED = Path(os.environ.get("FLUIDSERVE_SHARED", Path(__file__).parents[3] / "shared"))
REAL = {
    "azure_2023_conv.csv": ("azure_tidy", 19_366, {}),
    "burstgpt_1_head400.csv": ("burstgpt", 383, {"zero tokens": 17}),
    "mooncake_conversation.csv": ("mooncake_tidy", 12_031, {}),
    "mooncake_synthetic.csv": ("mooncake_tidy", 3_993, {}),
    "sharegpt_req100_rate10.tsv": ("sharegpt", 100, {}),
    "sharegpt_llama-3.1-8b_300_sps10.tsv": ("sharegpt", 300, {}),
}


@pytest.mark.parametrize("name", REAL)
def test_published_traces_are_read(name):
    path = SHARED / "data" / "traces" / name
    if not path.exists():
        pytest.skip("the published traces are not on this machine (FLUIDSERVE_SHARED)")
    reading = read_trace(path)
    assert (reading.format, len(reading.requests), dict(reading.dropped)) == REAL[name]
    assert reading.requests.arrival_time[0] == 0.0
    assert read_lengths(path).mean_decode == pytest.approx(reading.requests.decode_length.mean())


def test_a_length_that_no_float_counts_is_refused_of_a_file_of_lengths_too(tmp_path):
    path = written(tmp_path, "prompt_tokens,output_tokens\n1,1\n9007199254740994,1\n")
    with pytest.raises(WorkloadError, match=r"row 2, column .*: allowed: <= 9007199254740992"):
        read_lengths(path)
