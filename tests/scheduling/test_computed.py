"""What batches have computed is attributed to those whose prompts it was, evictions included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling import RequestMeta, route
from scheduling.computed import left_of_begun, without
from scheduling.instance_state import InstanceState
from scheduling.messages import BatchTrace
from serving import BatchTimeLaw, RequestTable, VllmV1

SERVER = VllmV1(
    batch_time=BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-7, d_prefill=5e-5),
    num_gpu_blocks=400,
    max_num_batched_tokens=512,
)


class Followed:
    """A state that hears all, and what it believes after each batch."""

    def __init__(self) -> None:
        self.state, self.preempted, self.seen = InstanceState(), 0, []

    def enqueue_request(self, instance_id, request_meta, ts):
        self.state.enqueue(request_meta, 1, ts)

    def sync_batch_result(self, instance_id, batch_trace, ts=None):
        state, tokens = self.state, batch_trace.prefill_len + batch_trace.decode_len
        assert state.sync(batch_trace, batch_trace.end)
        self.preempted += len(batch_trace.preempted)
        self.seen.append((tokens, state.computed_ahead, state.computed_again, len(state.running)))


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_only_a_full_batch_leaves_a_prompt_that_was_begun(ahead, seed):
    from dataclasses import replace

    rng = np.random.default_rng(seed)
    prompts = np.where(rng.random(150) < 0.1, 900, rng.integers(5, 200, 150))
    requests = RequestTable.validated(
        np.cumsum(rng.exponential(0.05, 150)), prompts, rng.integers(5, 200, 150)
    )
    heard = Followed()
    node = replace(SERVER, async_scheduling=ahead)
    route(requests, [node], lambda view, request: 0, listeners=[heard])
    assert heard.preempted > 20
    begun = 0
    for tokens, ahead_of, again, _ in heard.seen:
        if tokens < 512:
            assert (ahead_of, again) == (0.0, 0.0)
        begun += ahead_of > 0.0
    assert begun > 5
    assert heard.state.is_idle


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=8),
    st.data(),
)
def test_a_begun_prompt_is_the_one_in_which_what_was_computed_ends(prompts, data):
    computed = data.draw(st.integers(0, sum(prompts)))
    ends = np.cumsum(prompts)
    left = left_of_begun(prompts, computed)
    assert left == (0 if computed in (0, *ends) else ends[ends > computed][0] - computed)
    loser = data.draw(st.integers(0, len(prompts) - 1))
    kept = without(enumerate(prompts), computed, loser)
    assert kept == min(computed, ends[loser] - prompts[loser])


def test_who_comes_back_computes_prompt_and_answer_again():
    state = InstanceState()
    for i, prompt in enumerate((100, 40, 60)):
        state.enqueue(RequestMeta(i, prompt), 1, 0.0)
    state.sync(BatchTrace(0, 1.0, 1.0, 140, 0, started=(0, 1)), 1.0)
    state.sync(BatchTrace(1, 2.0, 1.0, 0, 1, preempted=(1,)), 2.0)
    assert state.again_tokens().tolist() == [41.0]
    # 30 of 41 are computed again, and none of those of who waits
    state.sync(BatchTrace(2, 3.0, 1.0, 30, 1), 3.0)
    assert state.again_tokens().tolist() == [11.0]
    assert state.waiting_size(1.0) == 60.0
    # who loses its memory once more begins anew
    state.sync(BatchTrace(3, 4.0, 1.0, 0, 1, preempted=(1,)), 4.0)
    assert state.again_tokens().tolist() == [41.0]
    state.sync(BatchTrace(4, 5.0, 1.0, 41 + 25, 2, resumed=(1,)), 5.0)
    assert state.again_tokens().size == 0 and state.waiting_size(1.0) == 35.0
    # so does a prompt that was begun
    state.sync(BatchTrace(5, 6.0, 1.0, 0, 2, preempted=(2,)), 6.0)
    assert state.waiting_size(1.0) == 60.0
