"""A predictor that is restored from arrays answers what the one before would have answered."""

from __future__ import annotations

import io

import numpy as np
import pytest

from scheduling import BatchTrace, Predictor, RequestMeta
from scheduling.snapshot import forget, from_arrays, to_arrays
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RequestMix

MIX = RequestMix.from_lengths([20, 60, 120], [10, 25, 40])
NODE = DecodeNode(M_total=900, B=300, batch_time=BatchTimeLaw(d_0=0.01, d_kv=1e-5))


def made(**options):
    return Predictor([NODE] * 3, MIX, **options)


def driven(predictor, first, last, seed=1):
    """Let batches ``first`` to ``last`` happen on instances 0 and 1; 2 stays empty."""
    draw = np.random.default_rng(seed)
    for k in range(last):
        ids = [(i, 10 * k + i, int(draw.integers(10, 130))) for i in (0, 1) if k % 3 < 2]
        ends = int(draw.integers(0, 10))
        if k < first:
            continue
        now = 0.01 * k
        for i, number, prompt in ids:
            predictor.predict(None, RequestMeta(number, prompt), now)
            predictor.enqueue_request(i, RequestMeta(number, prompt), now)
        for i in (0, 1):
            started = (10 * (k - 1) + i,) if k % 3 else ()
            old = 10 * (k - 12) + i
            trace = BatchTrace(
                k, now + 0.01, 0.01, 0, 5, started=started,
                finished=(old,) if ends > 2 else (),
                preempted=(10 * (k - 4) + i,) if k % 5 == 0 else (),
                resumed=(10 * (k - 7) + i,) if k % 10 == 3 else (),
            )  # fmt: skip
            predictor.sync_batch_result(i, trace)
    return predictor


def answers(predictor, now):
    found = []
    for prompt in (5, 60, 200):
        for each in predictor.predict(None, RequestMeta(10**6, prompt), now):
            found.append(each)
    return found


def through_a_file(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


@pytest.mark.parametrize("level", ["reuse", "lightweight"])
@pytest.mark.parametrize("batches", [0, 1, 7, 90])
def test_answers_after_a_restore_are_equal(level, batches):
    old = driven(made(level=level), 0, batches)
    answers(old, 0.01 * batches)  # so that forecasts are there to be shared
    new = made(level=level)
    from_arrays(new, through_a_file(to_arrays(old)))
    assert answers(new, 0.01 * batches + 0.003) == answers(old, 0.01 * batches + 0.003)
    assert [each.counts for each in new.states] == [each.counts for each in old.states]
    driven(old, batches, batches + 9)
    driven(new, batches, batches + 9)  # and so are those after both have gone on
    assert answers(new, 0.01 * batches + 0.1) == answers(old, 0.01 * batches + 0.1)
    assert new.marches == old.marches


def test_the_drive_has_everything_in_it():
    predictor = driven(made(), 0, 40)
    state = predictor.states[0]
    assert state.running.total > 3 and state.waiting and state.stopped
    assert state.counts.applied == 40
    assert predictor._inflow.of(0) > 0 and predictor.record._open
    known = driven(made(), 0, 90).predict(0, RequestMeta(10**6, 60), 0.9)[0]
    assert known.ttft_bounds is not None and known.e2el_bounds is not None


def test_arrays_of_another_fleet_version_or_kind_are_refused():
    predictor = driven(made(), 0, 20)
    answers(predictor, 0.2)
    arrays = to_arrays(predictor)
    wrong = [
        (arrays | {"version": np.array([1])}, "version"),
        ({name: each for name, each in arrays.items() if name != "fresh"}, "fresh"),
        (arrays | {"about": arrays["about"].astype(np.float32)}, "about"),
        (arrays | {"batch_id": arrays["batch_id"][:2]}, "3 instances"),
        (arrays | {"waiting_at": arrays["waiting_at"][1:]}, "damaged"),
        (arrays | {"curves": arrays["curves"][:, :, :0]}, "damaged"),
    ]
    for name, place in (("waiting", 0), ("waiting", 3), ("running_groups", 4)):
        other = arrays[name].copy()
        other[0, place] = 99
        wrong.append((arrays | {name: other}, "damaged"))
    other = arrays["running_groups"].copy()
    other[0, 1] = np.nan
    wrong.append((arrays | {"running_groups": other}, "damaged"))
    for each, words in wrong:
        new = made()
        with pytest.raises(FluidServeError, match=words):
            from_arrays(new, each)
        assert all(state.is_idle for state in new.states)
    with pytest.raises(FluidServeError, match="1 instances"):
        from_arrays(Predictor([NODE], MIX), arrays)


def test_an_instance_that_is_forgotten_is_empty_and_keeps_its_counts():
    predictor = driven(made(arrival_rate=1.0), 0, 20)
    forget(predictor, 0)
    state = predictor.states[0]
    assert state.is_idle and state.batch_id == -1 and state.counts.applied == 20
    empty, there = (predictor.predict(i, RequestMeta(1, 60), 0.2)[0].e2el for i in (0, 1))
    assert empty == pytest.approx(predictor.predict(2, RequestMeta(1, 60), 0.2)[0].e2el)
    assert empty < there


@pytest.mark.parametrize("rate", [None, 0.0])
def test_where_nobody_is_and_nobody_comes_a_request_is_alone(rate):
    found = made(arrival_rate=rate).predict(0, RequestMeta(1, 60), 5.0)[0]
    alone = NODE.batch_time.duration(61, 1)
    assert found.ttft == pytest.approx(alone, rel=1e-6)
    mean = MIX.mean_decode
    assert mean * alone * 0.5 < found.e2el < mean * alone * 2
