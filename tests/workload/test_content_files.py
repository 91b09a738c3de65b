"""What requests consist of and when clients give up, read from files and written to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import ConfigError, Contents, DecodeNode, RequestTable, WorkloadError
from workload import read_lengths, read_trace, write_requests

HEAD = "arrival_time,prefill_length,decode_length"
PLAIN = "arrival_time,prefill_length,decode_length\n0,9,3\n"


@pytest.fixture(params=["one by one", "in bulk"], autouse=True)
def reader(request, monkeypatch):
    """Read every file with the exact reader, and with the one of large files."""
    if request.param == "in bulk":
        monkeypatch.setattr("workload._bulk.BULK_BYTES", 0)
        monkeypatch.setattr("workload._json_rows.MANY", 0)
        monkeypatch.setattr("workload._json_rows.CHUNK", 60)


def same(one: RequestTable, other: RequestTable) -> bool:
    mine, others = one.arrays(), other.arrays()
    return mine.keys() == others.keys() and all(
        mine[name].tobytes() == others[name].tobytes() for name in mine
    )


def pieces(table: RequestTable) -> list[list[tuple[int, int]]]:
    held = table.contents
    assert held is not None
    pairs = list(zip(held.piece_id.tolist(), held.piece_length.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(held.first[:-1], held.first[1:], strict=True)]


ids = st.integers(1, 10**18)
rows = st.lists(
    st.tuples(
        st.floats(0, 1e6),
        st.floats(0, 1e6) | st.none(),
        st.lists(st.tuples(ids, st.integers(1, 10**6) | st.just(10**18)), max_size=3),
        st.just(0) | ids,
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, suffix=st.sampled_from(["csv", "csv.gz"]))
def test_what_is_written_reads_back_bit_for_bit(tmp_path, rows, suffix):
    flat = [piece for row in rows for piece in row[2]]
    contents = Contents.validated(
        np.cumsum([0, *(len(row[2]) for row in rows)]),
        [one for one, _ in flat],
        [length for _, length in flat],
        [row[3] for row in rows],
    )
    says_something = bool(flat) or any(row[3] for row in rows)
    table = RequestTable.validated(
        [row[0] for row in rows],
        [10] * len(rows),
        [5] * len(rows),
        abort_time=[np.inf if row[1] is None else row[0] + row[1] for row in rows],
        contents=contents if says_something else None,
    )
    path = tmp_path / f"requests.{suffix}"
    write_requests(table, path)
    back = read_trace(path, start=0.0)
    assert same(back.requests, table)
    later = read_trace(path).requests  # times from the first request on: clients wait as long
    first = table.arrival_time[0]
    assert later.abort_time == pytest.approx(table.abort_time - first, abs=1e-9)


def test_columns_stay_away_where_they_say_nothing(tmp_path):
    write_requests(
        RequestTable.validated([0.5], [9], [3], contents=Contents.none(1)), tmp_path / "r"
    )
    assert (tmp_path / "r").read_text() == HEAD + "\n0.5,9,3\n"


def test_each_column_alone_and_any_order_of_rows(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(HEAD + ",content\n2,9,3,7:400  8:1\n1,9,3,\n3,0,3,9:9\n")
    read = read_trace(path)
    assert pieces(read.requests) == [[], [(7, 400), (8, 1)]]  # the row of zero tokens is dropped
    assert read.requests.contents is not None and not read.requests.contents.answer.any()
    path.write_text(HEAD + ",answer_content\n1,9,3,\n2,9,3,12\n")
    held = read_trace(path).requests.contents
    assert held is not None and held.answer.tolist() == [0, 12] and held.piece_id.size == 0
    path.write_text(HEAD + ",abort_time\n1,9,3,1.5\n2,9,3,\n")
    table = read_trace(path, start=0.0, rate_scale=0.5).requests
    assert table.arrival_time.tolist() == [2, 4] and table.abort_time.tolist() == [2.5, np.inf]
    assert table.contents is None


def test_json_has_the_same_columns(tmp_path):
    path = tmp_path / "r.jsonl"
    row = {"arrival_time": 1, "prefill_length": 9, "decode_length": 3}
    lines = [
        row | {"content": "3:4 5:6", "answer_content": 8, "abort_time": 4},
        row | {"answer_content": None, "abort_time": 2.5},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    table = read_trace(path, start=0.0).requests
    assert pieces(table) == [[(3, 4), (5, 6)], []] and table.abort_time.tolist() == [4, 2.5]
    numbers = [row | {"answer_content": 8, "abort_time": 4}] * 2
    path.write_text("\n".join(map(json.dumps, numbers)))
    held = read_trace(path).requests.contents
    assert held is not None and held.answer.tolist() == [8, 8]


def test_a_clock_with_a_unit_counts_aborts_too(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(HEAD + ",abort_time\n1000,9,3,1500\n2000,9,3,\n")
    table = read_trace(path, trace_time_unit="ms").requests
    assert table.arrival_time.tolist() == [0, 1] and table.abort_time.tolist() == [0.5, np.inf]
    milliseconds = table.in_unit(1000)
    assert milliseconds.abort_time.tolist() == [500, np.inf]
    path.write_text(HEAD + ",abort_time\n2024-01-01 00:00:00,9,3,\n2024-01-01 00:00:01,9,3,2\n")
    with pytest.raises(WorkloadError, match=r"row 2, .*'abort_time', value '2': .*holds dates"):
        read_trace(path)


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [
        *(
            ("content", value, "id:length")
            for value in ("7", "7:", ":7", "7:5,8:6", "7:5;8:6", "a:5", "7:-5", "7:5.0", "0:5",
                          "7:0", "7:5 8", "\u0667:5", "9999999999999999999:5", "7:9" + 20 * "0")
        ),
        *(
            ("answer_content", value, "a whole number >= 1")
            for value in ("x", "-1", "1.5", "\u0667", "9999999999999999999", 30 * "9")
        ),
        *(
            ("abort_time", value, "a time >= arrival_time")
            for value in ("0.5", "nan", "inf", "x", "1_0", "\u0667")
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_named(tmp_path, column, value, allowed):
    path = tmp_path / "r.csv"
    path.write_text(f'{HEAD},{column}\n0,9,3,\n1,9,3,"{value}"\n')
    words = rf":3, row 2, column '{column}', value '.*': allowed: .*{allowed}"
    with pytest.raises(WorkloadError, match=words):
        read_trace(path)


def test_an_engine_without_a_rule_for_aborts_names_the_line(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(HEAD + ",abort_time\n\n5,9,3,\n1,9,3,4\n")
    with pytest.raises(WorkloadError, match=r":4, row 2, column 'abort_time', .* decode_node"):
        read_trace(path).check_fits(DecodeNode())


def hashed(*rows: dict) -> str:
    return "".join(
        json.dumps({"timestamp": 1000 * k, "input_length": 1, "output_length": 5} | row) + "\n"
        for k, row in enumerate(rows)
    )


FORMS = {
    "uniform lines": lambda text: text,
    "lines of two forms": lambda text: (
        text + '{"timestamp": 1e6, "input_length": 0, "output_length": 1}\n'
    ),
    "lists of an object": lambda text: json.dumps(
        {
            key: [json.loads(line)[key] for line in text.splitlines()]
            for key in json.loads(text.splitlines()[0])
        }
    ),
    "a table": lambda text: (
        "timestamp,input_length,output_length,hash_ids\n"
        + "".join(
            "{timestamp},{input_length},{output_length},".format(**row) + f'"{row["hash_ids"]}"\n'
            for row in map(json.loads, text.splitlines())
        )
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_hashed_blocks_become_contents(tmp_path, form):
    path = tmp_path / "t"
    text = hashed(
        {"input_length": 1300, "hash_ids": [0, 4, 5]},
        {"input_length": 1024, "hash_ids": [0, 7]},
        {"input_length": 80, "hash_ids": []},
        {"input_length": 600, "hash_ids": [9]},  # the part of a block at the end may be left out
    )
    path.write_text(FORMS[form](text))
    reading = read_trace(path)
    assert pieces(reading.requests) == [
        [(1, 512), (5, 512), (6, 276)], [(1, 512), (8, 512)], [], [(10, 512)],
    ]  # fmt: skip
    assert reading.notes == ()
    said = read_trace(path, hash_block_size=600)
    assert pieces(said.requests)[:2] == [[(1, 600), (5, 600), (6, 100)], [(1, 600), (8, 424)]]


@pytest.mark.parametrize("size", [16, 64, 512])
def test_the_size_of_a_hashed_block_is_told_by_their_number(tmp_path, size):
    path = tmp_path / "t"
    tokens = [1300, 40, 17]
    path.write_text(
        hashed(*({"input_length": n, "hash_ids": list(range(-(-n // size)))} for n in tokens))
    )
    reading = read_trace(path)
    assert reading.notes == ()
    assert pieces(reading.requests)[0][0] == (1, size)
    assert [sum(n for _, n in row) for row in pieces(reading.requests)] == tokens
    other = read_trace(path, hash_block_size=2 * size)
    assert f"an id per {2 * size} tokens, which does not give the prompt" in other.notes[0]
    assert "of 3 rows; --hash-block-size says another size" in other.notes[0]


def test_ids_beyond_64_bits_are_told_apart(tmp_path):
    path = tmp_path / "t"
    large = [2**64 + 1, 2**64, 3]
    path.write_text(hashed(*({"input_length": 20, "hash_ids": [each]} for each in large)))
    assert pieces(read_trace(path).requests) == [[(3, 20)], [(2, 20)], [(1, 20)]]


@pytest.mark.parametrize("wrong", ["x", [1.5], [-1], [True], {"a": 1}, 7])
def test_what_is_no_list_of_ids_is_named(tmp_path, wrong):
    path = tmp_path / "t"
    path.write_text(hashed({"hash_ids": [1]}, {"hash_ids": wrong}))
    with pytest.raises(WorkloadError, match=r":2, row 2, column 'hash_ids', .* whole numbers >= 0"):
        read_trace(path)


def test_a_size_is_refused_where_it_says_nothing(tmp_path):
    path = tmp_path / "t"
    for text in (PLAIN, hashed({})):
        path.write_text(text)
        with pytest.raises(WorkloadError, match=r"'hash_ids': --hash-block-size 16 .* has none"):
            read_trace(path, hash_block_size=16)
    with pytest.raises(ConfigError, match="'hash_block_size': 0 is not allowed"):
        read_trace(path, hash_block_size=0)


def test_a_trace_keeps_its_contents_when_it_is_converted(tmp_path):
    path, own = tmp_path / "t", tmp_path / "own.csv"
    path.write_text(hashed(*({"input_length": 700 + k, "hash_ids": [0, k]} for k in range(5))))
    reading = read_trace(path)
    write_requests(reading.requests, own)
    assert same(read_trace(own, start=0.0).requests, reading.requests)


def test_delays_in_ms_say_the_unit_of_the_arrivals(tmp_path):
    path = tmp_path / "t"
    lengths = {"input_length": 20, "output_length": 4}
    lines = [
        lengths | {"session_id": "a", "timestamp": 0},
        lengths | {"session_id": "a", "delay_ms": 500},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_trace(path).requests.horizon == 0.5
    assert read_trace(path, trace_time_unit="s").requests.horizon == 0.5


def test_requests_without_times_are_all_there_at_once(tmp_path):
    path = tmp_path / "t"
    row = {"request_id": "a", "type": "text", "input_length": 40, "output_length": 9,
           "duration": 812.5}  # fmt: skip
    lines = [row | {"hash_ids": [5, 6, 7]}, row | {"hash_ids": [5, 6, 8]}]
    path.write_text("\n".join(map(json.dumps, lines)))
    reading = read_trace(path)
    assert reading.format == "offline" and reading.requests.arrival_time.tolist() == [0, 0]
    assert pieces(reading.requests) == [[(6, 16), (7, 16), (8, 8)], [(6, 16), (7, 16), (9, 8)]]
    assert reading.notes == (
        f"{path}: there are no arrival times: all requests are there at time 0",
    )
    assert read_lengths(path).mean_prefill == 40
    with pytest.raises(WorkloadError, match="has no arrival times; leave out --trace-time-unit"):
        read_trace(path, trace_time_unit="ms")
    with pytest.raises(ConfigError, match=r"'rate_scale': 2\.0 .* all there at time 0"):
        read_trace(path, rate_scale=2.0)
    lines[1] |= {"session_id": "s", "delay": 5}  # not at once, and nobody knows when
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(WorkloadError, match="holds lengths only, no arrival times"):
        read_trace(path)
