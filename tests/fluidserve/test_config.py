from __future__ import annotations

from dataclasses import fields

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calibration.profiles import find
from fluidserve.config import flat, instance_of, load_config, resolved_yaml, schema
from fluidserve.settings import all_settings, settings_of
from serving import (
    KINDS,
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    FileAccessError,
    FluidServeError,
    VllmV1,
)


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_dataclasses():
    assert instance_of(load_config()) == DecodeNode()


def test_the_committed_default_file_says_the_defaults(root):
    assert load_config(root / "config" / "config.yaml") == load_config()


def test_every_committed_file_loads(root):
    """All but the grid of a sweep, which is no configuration."""
    files = sorted(set((root / "config").glob("*.yaml")) - {root / "config" / "grid.yaml"})
    assert len(files) >= 3
    for file in files:
        assert instance_of(load_config(file)).M_total > 0


def test_the_realistic_node(root):
    node = instance_of(load_config(root / "config" / "llama8b_decode_node.yaml"))
    assert node.time_unit == "s" and node.M_total == node.B == 520_000
    assert node.batch_time == BatchTimeLaw.per_token(0.0111, 9.1e-8)


def test_every_field_of_the_instance_is_a_key():
    kind = KINDS["decode_node"]
    own = {item.name for item in fields(DecodeNode)} - {"batch_time"}
    assert {*own, *kind.law_keys} <= set(settings_of(kind)) <= set(all_settings())
    assert set(kind.law_keys) < {item.name for item in fields(BatchTimeLaw)}
    assert set(schema(kind).model_fields) == set(settings_of(kind))


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    path = written(tmp_path, "M_total: 500\nB: 300\nd_1: 0.5\n")
    config = load_config(path, {"B": None, "d_kv": "0.25"})
    node = instance_of(config)
    assert (node.M_total, node.B) == (500, None)
    assert (node.batch_time.d_decode, node.batch_time.d_kv) == (0.5, 0.25)


def test_a_number_that_yaml_reads_as_text_is_still_a_number(tmp_path):
    config = load_config(written(tmp_path, "d_1: 1e-3\nd_0: 2e0\n"))
    assert (config.d_kv, config.d_0) == (0.001, 2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("M_totl: 5", ["M_totl", "5", "did you mean 'M_total'"]),
        ("m-total: 5", ["did you mean 'M_total'"]),
        ("zzz: 1", ["zzz", "known keys", "M_total", "d_1"]),
        ("block_size: 16", ["block_size", "decode_node has no such key, vllm_v1 and vllm_v0 have"]),
        ("d_prefill: -0.1", ["d_prefill", "-0.1", ">= 0"]),
        ("engine: vllm_v1\ntime_unit: s", ["d_prefill", "--num-gpu-blocks", "toy"]),
        ("engine: vllm", ["engine", "vllm", "decode_node"]),
        ("M_total: 1.5", ["M_total", "1.5", "a whole number >= 1"]),
        ("M_total: 0", ["M_total", "0", ">= 1"]),
        ("M_total: true", ["M_total", "True", "a whole number"]),
        ("B: lots", ["B", "lots", "or null"]),
        ("d_0: .nan", ["d_0", "nan", "finite"]),
        ("d_1: .inf", ["d_1", "inf", "finite"]),
        ("d_1: -1", ["d_1", "-1", ">= 0"]),
        ("d_1: 1\nd_kv: 1", ["d_kv", "d_1", "not both"]),
        ("mode: swap", ["mode", "swap", "swapping | sacrifice"]),
        ("queue_policy: LIFO", ["queue_policy", "FCFS | priority | SJF | path.py:function"]),
        ("admission_threshold: 0", ["admission_threshold", "0", "> 0 and <= 1"]),
        ("time_unit: us", ["time_unit", "us", "none | s | ms"]),
        ("seed: -1", ["seed", "-1", ">= 0"]),
        ("L_filter: 0", ["L_filter", "0", ">= 1"]),
        ("verbose: 7", ["verbose", "7", "true | false"]),
    ],
)  # fmt: skip
def test_an_error_names_key_value_and_what_is_allowed(tmp_path, text, words):
    with pytest.raises(FluidServeError) as error:
        load_config(written(tmp_path, text))
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


BOMB = b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
    f"{name}: &{name} [{','.join(9 * [f'*{before}'])}]\n".encode()
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
"""Some 200 bytes that stand for 3 thousand million values."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- 1\n- 2\n", "holds no keys"),
        (b"a: 1\nb: [1", "line 2"),
        (b"M_total: 5\nM_total: 6\n", "given twice"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"? [a, b]\n: 1\n", "line 1: a key is a word"),
        (b"? {a: b}\n: 1\n", "line 1: a key is a word"),
        (b"[" * 20_000, "nested too deeply"),
        (b"a: " + b"{b: " * 2000, "nested too deeply"),
        (BOMB, "more than 1000000 values"),
        (b"a: &a [*a]\n", "more than 1000000 values"),
        (b"M_total: " + b"9" * 5000, "cannot be read: Exceeds the limit"),
        (b"M_total: 2026-13-01", "cannot be read: month must be"),
        (b"M_total: !!python/object/apply:os.abort []", "line 1: could not determine"),
        (b'request_file: "a\\0b"', "line 1: a character that no text has"),
        (b'output_dir: "\\ud800"', "line 1: a character that no text has"),
        (b"a: b\n\tc: d\n", "line 2"),
        (b"a: \0", "is not YAML"),
        (b"--- {a: 1}\n--- {b: 2}\n", "line 2"),
        (b"#" * 16_000_001, "larger than the 16000000 bytes"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, words):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(FileAccessError, match=words) as error:
        load_config(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_file_without_an_end_is_not_read_to_it():
    with pytest.raises(FileAccessError, match="larger"):
        load_config("/dev/zero")


@pytest.mark.parametrize("content", ["", "\ufeff", "# nothing\n", "\ufeffM_total: 77\n"])
def test_a_byte_order_mark_and_comments_are_no_keys(tmp_path, content):
    assert load_config(written(tmp_path, content)).M_total == (77 if "77" in content else 10_000)


def test_aliases_within_reason_are_yaml(tmp_path):
    assert load_config(written(tmp_path, "M_total: &m 700\nB: *m\n")).B == 700


def test_a_long_value_is_shown_by_its_beginning():
    for value in ("x" * 10**6, [1] * 10**6, 10**5000):
        with pytest.raises(FluidServeError) as error:
            load_config(None, {"M_total": value})
        assert len(str(error.value)) < 500


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileAccessError, match=r"nope\.yaml: No such file"):
        load_config(tmp_path / "nope.yaml")


def test_a_request_file_lies_beside_its_configuration_a_flag_s_where_one_stands(tmp_path):
    path = written(tmp_path, "request_file: r.csv\n")
    assert load_config(path).request_file == str(tmp_path / "r.csv")
    assert load_config(path, {"request_file": "r.csv"}).request_file == "r.csv"
    assert load_config(written(tmp_path, "request_file: /r.csv\n")).request_file == "/r.csv"


def test_a_users_policy_is_let_through():
    assert load_config(None, {"queue_policy": "mine.py:order"}).queue_policy == "mine.py:order"


def test_an_error_of_a_flag_is_an_error_of_the_key():
    with pytest.raises(ConfigError) as error:
        load_config(None, {"d_swap": "fast"})
    assert (error.value.key, error.value.value) == ("d_swap", "fast")


@given(
    M_total=st.integers(1, 10**9),
    B=st.none() | st.integers(1, 10**9),
    d_decode=st.floats(0, 1e3),
    d_kv=st.floats(0, 1e3),
    same=st.booleans(),
    mode=st.sampled_from(["swapping", "sacrifice"]),
    threshold=st.floats(1e-6, 1),
)
def test_what_is_written_runs_the_same_again(M_total, B, d_decode, d_kv, same, mode, threshold):
    law = BatchTimeLaw(d_decode=d_decode, d_kv=d_decode if same else d_kv)
    node = DecodeNode(law, M_total=M_total, B=B, mode=mode, admission_threshold=threshold)
    config = load_config(None, {"seed": 7})
    again = load_config(None, yaml.safe_load(resolved_yaml(config, node)))
    assert instance_of(again) == node and again.seed == 7
    assert ("d_1" in flat(node)) == (law.d_decode == law.d_kv)


SERVER = {"time_unit": "s", "d_0": 0.01, "d_1": 1e-7, "M_total": 50_000, "B": None}


@pytest.mark.parametrize("unit", ["s", "ms"])
@pytest.mark.parametrize(
    ("left_out", "named"),
    [("M_total", ["M_total"]), ("B", ["B"]), ("d_0", ["d_0"]), ("d_1", ["d_decode", "d_kv"])],
)
def test_a_file_in_real_time_does_not_fall_back_to_the_toy(tmp_path, unit, left_out, named):
    path = tmp_path / "server.yaml"
    keys = {**SERVER, "time_unit": unit}
    path.write_text(yaml.safe_dump(keys))
    assert load_config(path).M_total == 50_000
    del keys[left_out]
    path.write_text(yaml.safe_dump(keys))
    with pytest.raises(FluidServeError) as wrong:
        load_config(path)
    for word in (str(path), f"times are in {unit}", ", ".join(named), "--model"):
        assert word in str(wrong.value), str(wrong.value)
    flags = {left_out: SERVER[left_out]}
    assert load_config(path, flags).B is None
    path.write_text(yaml.safe_dump({**keys, "time_unit": "none"}))
    load_config(path)


def test_a_table_says_the_whole_law_and_a_profile_the_whole_node(tmp_path):
    path = tmp_path / "server.yaml"
    table = {"d_decode_table": [[1, 0.01], [8, 0.02]]}
    path.write_text(yaml.safe_dump({"time_unit": "s", "M_total": 9000, "B": 9000} | table))
    assert load_config(path).d_0 == 0
    path.write_text("time_unit: s\n")
    profile = find("llama-3.1-8b", "H100")
    assert load_config(path, None, profile).M_total == profile.kv_capacity


ACCEPT = "engine: vllm_v1\ntime_unit: none\nspeculative_accept: "


@pytest.mark.parametrize("value", ["[0, 3, 1]", "'0,3,1'", "0, 3, 1", '"0, 3, 1"'])
def test_whole_numbers_are_a_list_or_a_text(tmp_path, value):
    config = load_config(written(tmp_path, ACCEPT + value))
    node = instance_of(config)
    for same in ([0, 3, 1], "0,3,1"):
        assert node == VllmV1(time_unit="none", speculative_accept=same)
    again = load_config(None, yaml.safe_load(resolved_yaml(config, node)))
    assert instance_of(again) == node


def test_one_whole_number_is_a_list_of_one_and_null_is_none(tmp_path):
    assert load_config(written(tmp_path, ACCEPT + "3")).speculative_accept == "3"
    assert load_config(written(tmp_path, ACCEPT + "null")).speculative_accept is None


@pytest.mark.parametrize("value", ["[]", "[0, -1]", "[0, x]", "1.5", "0;1", "true", "{0: 1}"])
def test_what_is_no_list_of_whole_numbers_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=r"speculative_accept.*such as \[0, 3, 1\] or 0,3,1"):
        load_config(written(tmp_path, ACCEPT + value))
