"""A damaged trace is read, or refused in one line: no reader ends in a traceback."""

from __future__ import annotations

import pytest
from mutants import mutants, read_or_refused

from workload import read_lengths, read_trace

EXAMPLES = tuple(
    text.encode()
    for text in (
        "arrival_time,prefill_length,decode_length,priority,predicted_decode_length\n"
        "0.5,10,3,0,3\n0.5,11,4,1,5\n\n2.25,12,5,0,5\n",
        "input_toks\toutput_toks\tarrival_time_ns\n10\t3\t500000000\n11\t4\t1500000000000000001\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        '5,ChatGPT,10,3,13,"Conversation log"\n5,GPT-4,11,4,15,API log\n6.75,GPT,0,5,17,API log\n',
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.2500000,10,3\n"
        "2023-11-17T00:00:01.000Z,12,5\n2023-11-17 00:00:02.1+00:00,12,5\n",
        "arrival_s,prompt_tokens,output_tokens,cached_prefix_tokens_inf\n0.0,10,3,0\n1.75,12,5,4\n",
        "prompt_tokens,output_tokens\n5,7\n6,8\n",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n1.31,396,109\n",
        '{"timestamp": 250, "input_length": 10, "output_length": 3, "hash_ids": [1, 2]}\n'
        '{"timestamp": 2000, "input_length": 12, "output_length": 5, "hash_ids": []}\n',
        '{"session_id": "a", "timestamp": 0.5, "input_length": 300, "output_length": 40}\n'
        '{"session_id": "a", "delay": 5000, "input_length": 500, "output_length": 30}\n',
        '{"input_toks": 100, "output_toks": 40, "arrival_time_ns": 0, "model": "m", "x": {}}\n'
        '{"input_toks": 101, "output_toks": 40, "arrival_time_ns": 250000000, "x": null}\n',
        '[\n {"TIMESTAMP": "2024-05-10T08:00:00+08:00", "ContextTokens": 5, "GeneratedTokens": 6},'
        '\n {"TIMESTAMP": "2024-05-10T08:00:01+08:00", "ContextTokens": 5, "GeneratedTokens": 6}]',
    )
)


@pytest.mark.parametrize(("seed", "in_bulk"), [(1, False), (2, True)])
def test_a_few_hundred_damaged_traces_are_read_or_refused(tmp_path, monkeypatch, seed, in_bulk):
    if in_bulk:
        monkeypatch.setattr("workload._bulk.BULK_BYTES", 0)
        monkeypatch.setattr("workload._json_rows.MANY", 0)
        monkeypatch.setattr("workload._json_rows.CHUNK", 60)
    read, refused = read_or_refused(
        mutants(EXAMPLES, 200, seed), tmp_path / "t", read_trace, read_lengths
    )
    assert read > 40 and refused > 40  # neither kind of answer is missing


@pytest.mark.slow
def test_ten_thousand_damaged_traces_are_read_or_refused_in_one_line(tmp_path):
    read, refused = read_or_refused(mutants(EXAMPLES, 10_000, 3), tmp_path / "t", read_trace)
    assert read > 1000 and refused > 1000
