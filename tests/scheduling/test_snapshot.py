"""A predictor that is restored from arrays answers what the one before would have answered."""

from __future__ import annotations

import io

import numpy as np
import pytest

from scheduling import (
    BatchTrace,
    CorrectedPredictor,
    Predictor,
    RequestMeta,
    SeldomToldPredictor,
)
from scheduling.corrector_arrays import KEPT, corrector_from_arrays, corrector_to_arrays
from scheduling.snapshot import from_arrays, to_arrays
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RequestMix

MIX = RequestMix.from_lengths([20, 60, 120], [10, 25, 40])
NODE = DecodeNode(M_total=900, B=300, batch_time=BatchTimeLaw(d_0=0.01, d_kv=1e-5))


def made(kind=Predictor, **options):
    return kind([NODE] * 3, MIX, **options)


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


KINDS = {
    "reuse": {"level": "reuse"}, "lightweight": {"level": "lightweight"},
    "seldom": {"kind": SeldomToldPredictor},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batches", [0, 1, 7, 90])
def test_answers_after_a_restore_are_equal(kind, batches):
    old = driven(made(**KINDS[kind]), 0, batches)
    answers(old, 0.01 * batches + 0.1)  # so that forecasts are there to be shared, and beliefs
    assert kind != "seldom" or batches < 7 or old.beliefs[0] is not old.states[0]
    new = made(**KINDS[kind])
    from_arrays(new, through_a_file(to_arrays(old)))
    assert answers(new, 0.01 * batches + 0.103) == answers(old, 0.01 * batches + 0.103)
    assert [each.gaps for each in new.states] == [each.gaps for each in old.states]
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


def test_a_report_that_was_missing_may_come_late_after_a_restore():
    old = driven(made(), 0, 10)
    old.sync_batch_result(0, BatchTrace(12, 0.13, 0.01, 0, 5))
    new = made()
    from_arrays(new, through_a_file(to_arrays(old)))
    for each in (old, new):
        assert each.states[0].gaps == [10, 11] and each.states[0].counts.lost == 2
        each.sync_batch_result(0, BatchTrace(11, 0.12, 0.01, 0, 5))
        assert each.states[0].gaps == [10] and each.states[0].counts.lost == 1


def test_beliefs_that_are_damaged_or_of_another_kind_are_refused():
    old = driven(made(SeldomToldPredictor), 0, 20)
    answers(old, 0.4)
    arrays = to_arrays(old)
    assert arrays["is_believed"].any()
    wrong = [
        (arrays | {"is_believed": ~arrays["is_believed"]}, "damaged"),
        (arrays | {"left_unheard": np.array([], np.int64)}, "damaged"),
        ({key: each for key, each in arrays.items() if key != "belief_times"}, "belief_times"),
        (arrays | {"used_at": arrays["used_at"][:1]}, "3 instances"),
    ]
    for each, words in wrong:
        new = made(SeldomToldPredictor)
        with pytest.raises(FluidServeError, match=words):
            from_arrays(new, each)
        assert all(state.is_idle for state in new.beliefs)
    with pytest.raises(FluidServeError, match="report seldom"):
        from_arrays(made(), arrays)
    with pytest.raises(FluidServeError, match="with every batch"):
        from_arrays(made(SeldomToldPredictor), to_arrays(driven(made(), 0, 20)))


def test_what_a_corrector_had_learnt_is_refused_where_it_is_damaged():
    old = CorrectedPredictor(made())
    driven(old, 0, 60)
    arrays = corrector_to_arrays(old)
    assert arrays[KEPT].max() > 3 and len(arrays["corrector_open"])
    other = CorrectedPredictor(made())
    corrector_from_arrays(other, through_a_file(arrays))
    again = corrector_to_arrays(other)
    assert arrays.keys() == again.keys()
    for name, each in arrays.items():
        np.testing.assert_array_equal(again[name], each, err_msg=name)
    lost = arrays["corrector_open"].copy()
    lost[0, 1] = 3
    for wrong in (
        {KEPT: arrays[KEPT] + 1}, {"corrector_logs": arrays["corrector_logs"][1:]},
        {"corrector_about": arrays["corrector_about"] * 9}, {"corrector_open": lost},
        {KEPT: -arrays[KEPT]}, {"corrector_logs": arrays["corrector_logs"] * np.nan},
    ):  # fmt: skip
        new = CorrectedPredictor(made())
        with pytest.raises(FluidServeError, match="damaged"):
            corrector_from_arrays(new, arrays | wrong)
        assert new.corrections() == [] and not new._open
    with pytest.raises(FluidServeError, match="lacks corrector_logs"):
        corrector_from_arrays(new, {KEPT: arrays[KEPT]})


def test_an_instance_that_is_forgotten_is_empty_and_keeps_its_counts():
    predictor = driven(made(arrival_rate=1.0), 0, 20)
    predictor.forget_instance(0)
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
