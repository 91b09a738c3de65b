"""Whatever is handed to a public function of Python: an answer, or an error of one line."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fluidserve as fs

NODE = fs.DecodeNode()
TABLE = fs.RequestTable.validated([0.0, 1.0, 5.0], [20, 30, 10], [5, 8, 40])
MIX, PROFILE = TABLE.mix(), TABLE.rate_profile()
STREAM = fs.Workload(MIX, 0.05)
QUESTION = fs.Question(STREAM, NODE, num_requests=3)
PATH = fs.Trajectory(np.array([0.0, 1.0]), {"waiting": np.zeros(2), "completed": np.zeros(2)})

BAD = (
    None, True, "x", "", b"x", 0, -1, 0.5, -0.5, float("nan"), float("inf"), -float("inf"), 1e308,
    10**30, 10**400, [], [1.0], [float("nan")], ["a"], {}, {"a": 1}, (), object(), 1j,
    np.zeros(0), np.array([np.nan]), np.zeros((2, 2)), np.array([-1.0]), np.array(["a"]),
    np.float64("nan"), MIX, PROFILE, NODE, NODE.batch_time, TABLE, STREAM, QUESTION, fs, len,
)  # fmt: skip

POINT = {"mix": MIX, "instance": NODE, "arrival_rate": 0.05}
LISTS = {"prefill": [1, 2], "decode": [2, 3], "weight": [1.0, 1.0], "request_class": [0, 1]}
CALLS = {
    "law.scaled": (NODE.batch_time.scaled, {"n": 2}),
    "law.in_unit": (NODE.batch_time.in_unit, {"factor": 2.0}),
    "law.per_token": (fs.BatchTimeLaw.per_token, {"d_0": 1.0, "d_1": 1e-3, "d_swap": 0.0}),
    "node": (fs.DecodeNode, {"mode": "swapping", "M_total": 9, "B": 5, "admission_threshold": 1.0}),
    "node.scaled": (NODE.scaled, {"n": 2}),
    "mix": (fs.RequestMix.from_lengths, LISTS),
    "profile": (fs.RateProfile, {"time": np.arange(2.0), "cumulative": np.arange(2.0)}),
    "profile.constant": (fs.RateProfile.constant, {"rate": 1.0, "horizon": 2.0}),
    "profile.steps": (fs.RateProfile.steps, {"start": [0.0], "rate": [1.0], "horizon": 5.0}),
    "profile.sine": (
        fs.RateProfile.sine, {"mean": 1.0, "amplitude": 0.5, "period": 3.0, "horizon": 9.0},
    ),
    "profile.from_arrivals": (fs.RateProfile.from_arrivals, {"arrival_time": [0.0, 1.0]}),
    "profile.stretched": (PROFILE.stretched, {"factor": 2.0}),
    "table": (
        fs.RequestTable.validated,
        {"arrival_time": [0.0, 1.0], "prefill_length": [1, 2], "decode_length": [1, 2]},
    ),
    "table.stretched": (TABLE.stretched, {"factor": 2.0}),
    "table.take": (TABLE.take, {"rows": [0, 1]}),
    "path": (PATH, {"name": "waiting", "t": 0.5}),
    "path.rate": (PATH.rate, {"name": "completed", "start": 0.0, "end": 1.0}),
    "workload": (fs.Workload, {"mix": MIX, "rate": 0.1, "burstiness": 1.0}),
    "workload.profile": (STREAM.profile, {"horizon": 5.0}),
    "workload.filtered": (STREAM.filtered, {"L_filter": 500}),
    "question": (fs.Question, {"source": STREAM, "instance": NODE, "num_requests": 9, "seed": 1}),
    "question.at_load": (QUESTION.at_load, {"load": 0.5}),
    "question.replication": (QUESTION.replication, {"number": 1}),
    "replications": (fs.Replications, {"count": 2, "workers": 1, "points": 10}),
    "describe": (fs.describe, {"scenario": "normal", "arrival_rate": 0.1, "scale": 1.0}),
    "generate": (fs.generate, {"scenario": "normal", "seed": 1}),
    "read_trace": (fs.read_trace, {"path": "none.csv", "limit": 3, "L_filter": 5}),
    "read_server_log": (fs.read_server_log, {"path": "none.csv", "interval": 1.0}),
    "write_requests": (fs.write_requests, {"requests": TABLE, "path": "/dev/null"}),
    "capacity": (fs.capacity, {"mix": MIX, "instance": NODE}),
    "equilibrium": (fs.equilibrium, POINT),
    "regime": (fs.regime, POINT),
    "simulate": (fs.simulate, {"requests": TABLE, "instance": NODE, "seed": 1, "until": 5.0}),
    "solve": (
        fs.solve,
        {"profile": PROFILE, "mix": MIX, "instance": NODE, "method": "lagrangian", "horizon": 9.0},
    ),
    "profiles.find": (fs.profiles.find, {"model": "llama", "hardware": "H100", "tp": 1}),
}  # fmt: skip
"""Public functions and arguments that are good. The duration of a law is not among them: it takes
whatever NumPy multiplies, in loops that a check would slow down."""


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_argument_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, good = CALLS[name]
    refused = 0
    for key in good:
        for value in BAD:
            if isinstance(value, int | float) and abs(value) in (1e308, 1e30) and name == "solve":
                continue  # a horizon without an end is work, not a mistake
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    function(**{**good, key: value})
            except fs.FluidServeError as error:
                refused += 1
                assert str(error) and len(str(error)) < 2000, (key, value)
            except Exception as error:
                pytest.fail(f"{name}({key}={value!r:.80}): {type(error).__name__}: {error}")
    assert refused >= 15 * len(good)


def test_a_whole_number_may_be_written_as_a_float():
    """As users do: 1e6. A number with a fraction is none, and neither is one that is not finite."""
    asked = fs.Question(STREAM, NODE, num_requests=1e3, seed=np.float64(7))
    assert (asked.num_requests, asked.seed) == (1000, 7)
    assert {type(asked.num_requests), type(asked.seed)} == {int}
    assert fs.Replications(4.0, workers=1.0) == fs.Replications(4, workers=1)
    assert (
        asked.replication(2.0).arrival_time.tolist() == asked.replication(2).arrival_time.tolist()
    )
    drawn = [fs.generate("normal", num_requests=n, seed=3) for n in (20, 2e1, np.int32(20))]
    for each in drawn:
        assert each.arrival_time.tolist() == drawn[0].arrival_time.tolist()
    assert fs.profiles.find("llama-3.1-8b", "H100", 2.0) == fs.profiles.find(
        "llama-3.1-8b", "H100", 2
    )
    for wrong in (1000.5, 1e19, float("inf"), float("nan"), True):
        with pytest.raises(fs.FluidServeError, match=r"num_requests.*a whole number"):
            fs.Question(STREAM, NODE, num_requests=wrong)


def test_swapped_arguments_are_refused_by_name():
    for call in (
        lambda: fs.solve(MIX, PROFILE, NODE),
        lambda: fs.capacity(NODE, MIX),
        lambda: fs.simulate(NODE, TABLE),
        lambda: fs.analyze(STREAM),
        lambda: fs.compare(NODE),
    ):
        with pytest.raises(
            fs.FluidServeError, match=r"allowed: a R|allowed: a Q|instance|DecodeNode"
        ):
            call()


def test_a_wrong_number_of_arguments_is_python_s_own_error():
    with pytest.raises(TypeError):
        fs.capacity(MIX)
    with pytest.raises(TypeError):
        NODE.scaled(2, 3)
