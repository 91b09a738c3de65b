"""What the command refuses before it listens, each in one line, and the file of its state."""

from __future__ import annotations

import io
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from toy_service import batch, client_of, request, sent, service_of

from fluidserve.jobs import serve as job
from fluidserve.serve import extra
from fluidserve.serve.keeper import Keeper
from serving import FluidServeError

TOKEN = "a-token-of-some-length"


def full():
    """Return a service that has something of everything to keep."""
    service = service_of(has_corrector=True)
    client = client_of(service)
    for k in range(6):
        client.post("/v1/predict", json={"request_meta": request(k), "ts": 0.1 * k})
        client.post("/v1/enqueue_request", json=sent(k, k % 2, 0.1 * k))
    reports = [batch(0, i, end=0.8, started=[i, i + 2]) for i in (0, 1)]
    client.post("/v1/sync_batch_result", json=[*reports, batch(2, end=0.9, preempted=[2])])
    return service


FULL = full()


def refused(run, *line):
    done = run("serve", *line)
    assert done.exit_code == 2 and not done.stdout, (done.stdout, done.exception)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


REFUSED = [
    (("--host", "0.0.0.0"), "--allow-no-token"),
    (("--host", "example.org"), "--allow-no-token"),
    (("--host", "256.1.1.1", "--allow-no-token"), "--host 256.1.1.1"),
    (("--port", 70000), "0 to 65535"),
    (("--max-in-flight", 0), "--max-in-flight"),
    (("--patience", 0), "--patience"),
    (("--snapshot-every", 5), "needs --state"),
    (("--snapshot-every", 0, "--state", "x"), "--snapshot-every"),
    (("--signal-delay", -1), "--signal-delay"),
    (("--stale-after", 0), "--stale-after"),
    (("--arrival-rate", "nan"), "--arrival-rate"),
    (("--reports", "seldom", "--level", "lightweight"), "--level lightweight"),
    (("--replicas", 0), "--replicas"),
    (("--fleet", "nope.yaml:2"), "nope.yaml"),
    (("--replicas", 2, "--fleet", "nope.yaml:2"), "give one"),
    (("--token-file", "nope"), "--token-file nope"),
    (("--token-file", "short"), "at least 16"),
    (("--token-file", "blank"), "no blanks"),
    (("--token-file", "binary"), "ASCII"),
    (("--state", "folder"), "--state folder"),
    (("--state", "nowhere/x"), "--state nowhere/x"),
    (("--state", "binary"), "no state"),
    (("--state", "other.npz"), "no state"),
    (("--state", "pickle.npy"), "no state"),
]


@pytest.mark.parametrize(
    ("line", "words"), REFUSED, ids=[" ".join(map(str, x)) for x, _ in REFUSED]
)
def test_what_cannot_be_served_is_refused(run, tmp_path, line, words, monkeypatch):
    monkeypatch.setattr(job, "_warm", lambda _: None)
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "blank").write_text("abc def ghi jkl mno pqr\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object))
    if words.startswith("--host 2"):
        monkeypatch.setattr(job, "_take_signals", lambda _: pytest.fail("it listens"))
    assert words in refused(run, *line)


def test_a_server_whose_model_makes_no_forecasts_is_refused_in_words(run):
    line = ("--model", "Llama-3.1-8B", "--hardware", "RTX4090", "--engine", "vllm_v1")
    done = run("serve", *line, "--port", 70000)  # never listens, whoever forecasts it
    assert done.exit_code == 2 and len(done.stderr.splitlines()) <= 2


def test_a_port_that_is_taken_is_told(run, monkeypatch):
    monkeypatch.setattr(job, "_warm", lambda _: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in refused(run, "--port", taken.getsockname()[1])


def test_without_the_extra_it_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "fastapi" else name)
    said = refused(run)
    assert "fastapi" in said and "fluidserve[serve]" in said and "uvicorn" not in said


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(job.TOKEN, raising=False)
    assert job._token(None) is None
    monkeypatch.setenv(job.TOKEN, TOKEN)
    assert job._token(None) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-of-a-file\n")
    assert job._token(str(tmp_path / "token")) == f"{TOKEN}-of-a-file"
    assert job._where({"host": "0.0.0.0", "port": 1, "allow_no_token": False}, TOKEN)
    for host in ("127.0.0.1", "::1", "localhost", "127.3.4.5"):
        assert job._where({"host": host, "port": 1, "allow_no_token": False}, None)


def test_the_state_is_written_whole_read_again_and_of_one_fleet(tmp_path):
    keeper, service = Keeper(tmp_path / "state.npz", 5.0), service_of()
    keeper.read(service)
    assert not service.restored  # no file yet
    client_of(service).post("/v1/enqueue_request", json=[sent(k, ts=7.0) for k in range(3)])
    keeper.write(keeper.packed(service))
    assert [each.name for each in tmp_path.iterdir()] == ["state.npz"]
    other = service_of()
    keeper.read(other)
    assert other.restored and other.latest == 7.0
    assert list(other.predictor.states[0].waiting) == [0, 1, 2]
    for wrong in (service_of(size=3), service_of(unit="ms"), service_of(level="lightweight")):
        with pytest.raises(FluidServeError, match="another fleet"):
            keeper.read(wrong)
        assert not wrong.restored
    content = keeper.path.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 30):
        keeper.path.write_bytes(content[:cut])
        with pytest.raises(FluidServeError, match="no state, or damaged"):
            keeper.read(service_of())


def test_a_state_is_written_when_it_has_changed_and_at_the_end(tmp_path):
    service = service_of()
    keeper = Keeper(tmp_path / "state.npz", 3600.0)
    with client_of(service, keeper=keeper) as client:
        client.post("/v1/enqueue_request", json=sent(5))
        assert not keeper.path.exists()
    assert keeper.writes == 1
    other, next_one = service_of(), Keeper(keeper.path, 3600.0)
    next_one.read(other)
    assert list(other.predictor.states[0].waiting) == [5]
    with client_of(other, keeper=next_one):
        pass
    assert next_one.writes == 0  # nothing had changed


@pytest.mark.parametrize("name", sorted(np.load(io.BytesIO(Keeper(Path(), 1).packed(FULL)))))
def test_a_state_in_which_anything_was_changed_is_refused(tmp_path, name):
    keeper = Keeper(tmp_path / "state.npz", 5.0)
    with np.load(io.BytesIO(keeper.packed(FULL))) as file:
        arrays = dict(file)
    changed = arrays[name].copy()
    if changed.dtype.kind == "U":
        changed = np.array("another")
    elif changed.size:
        changed.flat[-1] = not changed.flat[-1] if changed.dtype == bool else changed.flat[-1] + 1
    else:
        changed = np.zeros((1, *changed.shape[1:]), changed.dtype)
    np.savez(keeper.path, **(arrays | {name: changed}))
    service = service_of(has_corrector=True)
    with pytest.raises(FluidServeError, match=r"begin anew|format"):
        keeper.read(service)
    assert not service.restored and not service.predictor.states[0].waiting


def test_two_writes_do_not_spoil_each_other(tmp_path, monkeypatch, caplog):
    """The service ends while its state is being written."""
    service, write = service_of(), Keeper.write
    at_a_time, most = [0], [0]

    def slow(self, content):
        at_a_time[0] += 1
        most[0] = max(most[0], at_a_time[0])
        time.sleep(0.3)
        write(self, content)
        at_a_time[0] -= 1

    monkeypatch.setattr(Keeper, "write", slow)
    keeper = Keeper(tmp_path / "state.npz", 0.05)
    with client_of(service, keeper=keeper) as client:
        client.post("/v1/enqueue_request", json=sent(5))
        time.sleep(0.2)  # a write goes on
        client.post("/v1/enqueue_request", json=sent(6))
    assert most == [1] and keeper.writes == 2 and not caplog.records
    other = service_of()
    keeper.read(other)
    assert list(other.predictor.states[0].waiting) == [5, 6]


def test_a_state_that_cannot_be_written_stops_no_answers(tmp_path, caplog):
    folder = tmp_path / "gone"
    folder.mkdir()
    keeper, service = Keeper(folder / "state.npz", 3600.0), service_of()
    with client_of(service, keeper=keeper) as client:
        folder.rmdir()
        assert client.post("/v1/enqueue_request", json=sent(5)).status_code == 200
    assert keeper.failures == 1 and "the state is not kept" in caplog.text
