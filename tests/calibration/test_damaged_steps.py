"""A damaged file of step times is read, or refused in one line: the reader never traces back."""

from __future__ import annotations

import pytest
from mutants import mutants, read_or_refused

from calibration import read_step_times

ROWS = [(n, 300 * n, 12 + 0.04 * n) for n in (1, 2, 4, 8, 16)]
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


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    read, refused = read_or_refused(mutants(EXAMPLES, 10_000, 2), tmp_path / "s", read_step_times)
    assert read > 1000 and refused > 1000
