"""A damaged file of step times is read, or refused in one line: the reader never traces back,
and neither does the fit."""

from __future__ import annotations

import pytest
from mutants import mutants, read_or_refused

from calibration import fit_step_times, read_step_times
from serving import WorkloadError

ROWS = [(n, per * n, 12 + 0.04 * n + 1e-4 * per * n)
        for n in (1, 2, 4, 8, 16) for per in (60, 300, 3000)]  # fmt: skip
EXAMPLES = tuple(
    text.encode()
    for text in (
        "decode_tokens,kv_tokens,step_time_ms\n"
        + "".join(f"{n},{kv},{t}\n" for n, kv, t in ROWS),
        "hardware,model,tp,prefill_tokens,batch_size,kv_tokens,prefill_kv_tokens,gap_steps,"
        "step_time_us\n"
        + "".join(f"H100,m,1,{k % 2 * 64},{n},{kv},{k},{k},{1e3 * t}\n"
                  for k, (n, kv, t) in enumerate(ROWS)),
        "num_context_tokens\tnum_decode_tokens\tlatency_ms\n"
        + "".join(f"0\t{n}\t{t}\n" for n, _, t in ROWS),
    )
)  # fmt: skip


def read_of_a_card(path):
    return read_step_times(path, hardware="H100")


def test_a_few_hundred_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    files = mutants(EXAMPLES, 200, 1)
    read, refused = read_or_refused(files, tmp_path / "s", read_step_times, read_of_a_card)
    assert read > 40 and refused > 40


def fit(path):
    return fit_step_times(read_step_times(path), law="linear", compare=False)


def test_the_files_themselves_are_fitted(tmp_path):
    assert read_or_refused(EXAMPLES[:1], tmp_path / "s", fit) == (1, 0)


def test_what_is_read_of_a_damaged_file_is_fitted_or_refused_in_one_line(tmp_path):
    fitted, refused = read_or_refused(mutants(EXAMPLES, 400, 3), tmp_path / "s", fit)
    assert fitted > 40 and refused > 40


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("decode_tokens", "-1"), ("decode_tokens", "1e308"), ("kv_tokens", "-1"),
        ("kv_tokens", "1e308"), ("step_time_ms", "-1"), ("step_time_ms", "1e308"),
        ("step_time_ms", "5e-324"),  # 0 in seconds
    ],
)  # fmt: skip
def test_a_value_that_no_server_has_is_refused_by_its_place(tmp_path, column, value):
    path = tmp_path / "s.csv"
    header, *rows = EXAMPLES[0].decode().split("\n")
    fields = rows[3].split(",")
    fields[header.split(",").index(column)] = value
    path.write_text("\n".join([header, *rows[:3], ",".join(fields), *rows[4:]]))
    with pytest.raises(WorkloadError, match=f"row 4, column '{column}', value .*: allowed"):
        fit(path)


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    read, refused = read_or_refused(mutants(EXAMPLES, 10_000, 2), tmp_path / "s", read_step_times)
    assert read > 1000 and refused > 1000
