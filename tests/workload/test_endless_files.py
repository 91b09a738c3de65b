"""What has no end, or too much, is refused and not read into memory."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest

from serving import FileAccessError, WorkloadError, check_fits
from serving.kinds.decode_node import DecodeNode
from workload import _text, describe, read_text, read_trace


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_device_is_no_file(name):
    if not Path(name).is_char_device():
        pytest.skip("no such device here")
    with pytest.raises(FileAccessError, match=f"{name}: is a device; give a file or a pipe"):
        read_text(Path(name))


def test_a_pipe_is_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(_text, "LARGEST", 100)
    for size in (100, 101):
        pipe = tmp_path / f"pipe{size}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(b"x" * size,))
        writer.start()
        if size == 100:
            assert read_text(pipe) == "x" * 100
        else:
            with pytest.raises(FileAccessError, match="more than 100 bytes"):
                read_text(pipe)
        writer.join()


def test_what_is_packed_is_bounded_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(_text, "LARGEST", 10_000)
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"x" * 10_000))
    assert len(read_text(file)) == 10_000
    file.write_bytes(gzip.compress(b"x" * 10_001))
    with pytest.raises(FileAccessError, match="more than 10000 bytes"):
        read_text(file)


def test_a_name_with_a_zero_byte_is_refused():
    with pytest.raises(FileAccessError, match="cannot be read"):
        read_trace("a\0b")


def test_arrivals_beside_which_a_batch_is_lost_are_refused():
    node = DecodeNode()
    batch = node.batch_time.duration(1, 1)
    table = describe("normal").sample(1, num_requests=20)
    for share, fits in ((0.4, True), (4.0, False)):  # of the allowed rounding, 1e-4 of a batch
        late = table.stretched(share * 1e-4 * batch / 2**-52 / table.arrival_time[-1])
        assert ((late.arrival_time[-1] + batch) != late.arrival_time[-1]) or not fits
        if fits:
            check_fits(late, node)
        else:
            with pytest.raises(WorkloadError, match="too late to time batches"):
                check_fits(late, node)


def test_all_requests_may_come_at_once():
    table = describe("normal").sample(1, num_requests=5)
    assert table.stretched(0.0).arrival_time.tolist() == [0.0] * 5
