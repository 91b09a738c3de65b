"""One step of the compiled march is the step map that the symbols of a server give."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fluid import render, server_equations
from ode.lagrangian import layout as rows_of
from ode.prompt_server import layout
from ode.prompt_server.kernel import advance
from ode.prompt_server.layout import Answer
from ode.prompt_server.workspace import Workspace
from serving import BatchTimeLaw, RateProfile, RequestMix, VllmV0, VllmV1, reading_of

LAW = BatchTimeLaw(
    d_0=1.0, d_decode=0.01, d_kv=1e-4, d_prefill=0.003, d_prefill_attention=1e-5,
    d_prefill_context=2e-4, d_mixed_decode=0.02,
)  # fmt: skip
RATES = st.sampled_from([1.0, 8.0])
PLACES = 4096
"""Steps and parcels that a march has room for from the start."""
REQUESTS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 15)), min_size=1, max_size=4, unique=True
)


@cache
def step_map(prompts_apart):
    """Return the step that the rendered source of the symbols is."""
    scope: dict = {}
    exec(render(server_equations(prompts_apart), "python"), scope)
    return scope["server_step"]


def state_of(workspace, mix, node):
    """Return the state of a march as the symbols know it."""
    s, late = workspace.record[0], int(node.is_ahead)
    clock, later = int(s["clock"]), 0 if node.prompts_apart else 1
    running = []  # entry, slots after those that start again, mass, tokens
    for slot, mass in enumerate(workspace._tables["masses"][: clock + 2, 0]):
        running.append((slot - later, 1, mass, clock + 1 - slot))
    queue = workspace.queues[layout.RESUMED]
    for each in workspace._parcels[layout.RESUMED, queue["head"] : queue["tail"]]:
        tokens = clock + 1 - int(each[layout.BIRTH])
        running.append((each[layout.ENTRY], 0, each[layout.MASS], tokens))
    running = sorted(running, key=lambda x: x[:2])
    queue = workspace.queues[layout.PREEMPTED]
    stopped = workspace._parcels[layout.PREEMPTED, queue["head"] : queue["tail"]][::-1]
    pi, decode = mix.probability[:, None], mix.decode[:, None]
    mass, tokens = (np.array([each[k] for each in running], float) for k in (2, 3))
    y = stopped[:, layout.AGE]
    state = {
        "X": pi * mass * (tokens < decode + late), "g": tokens,
        "R": pi * stopped[:, layout.MASS] * (y < decode), "y": y,
        "mark": stopped[:, layout.FREED] + stopped[:, layout.AHEAD],
        "taken": float(s["taken"]), "t": float(s["now"]), "free_at": float(s["device_free"]),
    }  # fmt: skip
    return state | ({"credit": float(s["credit"])} if node.prompts_apart else {})


def parameters_of(mix, node, rate, epsilon):
    law = node.batch_time
    return {
        "arrival_rate": rate, "pi": mix.probability, "p": mix.prefill, "D": mix.decode,
        "hit": np.full(len(mix), node.hit_share[0]), "kv_tokens": node.kv_tokens,
        "reserve": node.reserve, "block_size": node.block_size,
        "max_num_seqs": node.most_running, "max_num_batched_tokens": node.step_tokens,
        "gap": node.gap, "ahead": int(node.is_ahead),
        "unknown": int(node.is_ahead and node.ends_unknown), "cache": int(node.keeps_prefixes),
        "d_0": law.d_0, "d_decode": law.d_decode, "d_kv": law.d_kv, "e_0": law.d_0,
        "e_n": law.d_decode + law.d_mixed_decode, "e_k": law.d_kv, "e_p": law.d_prefill,
        "e_a": law.d_prefill_attention, "e_h": law.d_prefill_context, "epsilon": epsilon,
    }  # fmt: skip


def nobody(states):
    """Return less than any row holds, and more than the rows that roundings leave."""
    held = np.concatenate([each[name].sum(axis=0) for each in states for name in ("X", "R")])
    for least in (1e-7, 3e-7, 1e-6, 3e-6, 1e-5):
        if not (np.abs(held - least) < 0.1 * least).any():
            return least
    raise AssertionError("rows of all sizes")


def without_nobody(state, least):
    """Return a state without rows that hold less."""
    out = dict(state)
    for name, marks in {"X": ["g"], "R": ["y", "mark"]}.items():
        kept = state[name].sum(axis=0) > least
        out[name] = state[name][:, kept]
        out |= {mark: state[mark][kept] for mark in marks}
    return out


def together(state):
    """Return RUNNING by tokens: the march keeps prompts of the same decode step in one slot."""
    tokens, which = np.unique(state["g"], return_inverse=True)
    return state | {"X": state["X"] @ np.eye(tokens.size)[which], "g": tokens}


def check_steps(mix, node, rate, skipped, steps=12):
    """March, and compare each of some steps with the step map; return the regimes that were met."""
    profile = RateProfile.constant(rate, 1e6)
    work = Workspace(mix, node, profile, horizon=1e6, end=1e6, most_steps=skipped)
    work._enlarge(PLACES, PLACES)
    s, met = work.record[0], set()
    if Answer(advance(work.record)) != Answer.STEP_LIMIT:
        return met
    for k in range(skipped, skipped + steps):
        before = state_of(work, mix, node)
        evicted, wasted, admitted = (float(s[x]) for x in ("evicted", "wasted", "admitted"))
        waiting = max(profile.count(before["t"]) - admitted, 0.0)
        if waiting + before["X"].sum() < 1e-6:
            break  # the march goes to the next arrival
        s["most_steps"] = k + 1
        assert Answer(advance(work.record)) == Answer.STEP_LIMIT
        row = work._tables["rows"][k]
        after, made = step_map(node.prompts_apart)(
            Q=waiting, **before, **parameters_of(mix, node, rate, float(s["negligible"]))
        )
        is_prompts = made.get("prompts", 0.0)
        decodes = made["decodes"] * (1 - is_prompts)
        prefill = made["prefill"] * (is_prompts if node.prompts_apart else 1.0)
        near = {"rel": 1e-8, "abs": 1e-6}
        assert row[rows_of.R_START] == pytest.approx(made["begin"], **near)
        assert row[rows_of.R_DURATION] == pytest.approx(made["tau"], **near)
        assert row[rows_of.R_TOKENS] == pytest.approx(decodes + prefill, **near)
        assert s["evicted"] - evicted == pytest.approx(made["evicted"], **near)
        assert s["wasted"] - wasted == pytest.approx(made["wasted"], **near)
        assert s["admitted"] - admitted == pytest.approx(made["started"], **near)
        assert waiting - made["started"] + rate * (after["t"] - before["t"]) == pytest.approx(
            after["Q"], **near
        )
        both = (after, state_of(work, mix, node))
        mine, theirs = (without_nobody(each, nobody(both)) for each in both)
        if node.prompts_apart:
            mine, theirs = together(mine), together(theirs)
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-7, atol=1e-6, err_msg=name)
        met |= _regimes(made, before, waiting)
    return met


def _regimes(made, before, waiting):
    """Return what a step was like, in words."""
    met = set()
    if made["evicted"] > 1e-6:
        met.add("preempts")
    if made["entering"] > made["started"] + 1e-9:
        met.add("starts again")
    if made.get("prompts", 1.0) == 0:
        met.add("decodes alone")
    somebody = waiting - made["started"] > 1e-9 or before["R"].sum() > 1e-9
    if not somebody:
        return met | {"nobody waits"}
    taken = {"left": made["prefill"], "free": made["entering"], "room": made["new_kv"]}
    taken["room"] -= made["decodes"] * (1 - made.get("prompts", 0.0))
    full = {name for name, used in taken.items() if used > 1e-6 and used > made[name] * (1 - 1e-6)}
    return met | {f"bound by {name}" for name in full}


@given(
    requests=REQUESTS, is_ahead=st.booleans(), ignore_eos=st.booleans(), cache=st.booleans(),
    blocks=st.integers(25, 120), seats=st.integers(3, 60), tokens=st.integers(60, 400),
    gap=st.sampled_from([0.0, 0.3]), hits=st.sampled_from([0.0, 0.4]),
    skipped=st.integers(1, 60), rate=RATES,
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_step_of_v1(
    requests, is_ahead, ignore_eos, cache, blocks, seats, tokens, gap, hits, skipped, rate
):
    server = VllmV1(
        batch_time=LAW, num_gpu_blocks=blocks, block_size=8, max_num_seqs=seats,
        max_num_batched_tokens=max(tokens, seats), async_scheduling=is_ahead,
        ignore_eos=ignore_eos, enable_prefix_caching=cache, cpu_gap=gap,
    )  # fmt: skip
    node = replace(reading_of(server).node, hit_share=(hits,))
    mix = RequestMix.from_lengths(*np.array(requests).T)
    for regime in check_steps(mix, node, rate, skipped):
        event(regime)


@given(
    requests=REQUESTS, blocks=st.integers(30, 120), seats=st.integers(3, 60),
    tokens=st.integers(60, 400), gap=st.sampled_from([0.0, 0.3]), chunked=st.booleans(),
    skipped=st.integers(1, 60), rate=RATES,
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_step_of_v0(requests, blocks, seats, tokens, gap, chunked, skipped, rate):
    server = VllmV0(
        batch_time=LAW, num_gpu_blocks=blocks, block_size=8, max_num_seqs=seats,
        max_num_batched_tokens=max(tokens, seats), cpu_gap=gap, enable_chunked_prefill=chunked,
    )  # fmt: skip
    mix = RequestMix.from_lengths(*np.array(requests).T)
    for regime in check_steps(mix, reading_of(server).node, rate, skipped):
        event(regime)


MIX = RequestMix.from_lengths([40, 12], [12, 5])
REGIMES = {
    "bound by left": {"num_gpu_blocks": 500, "max_num_seqs": 200, "max_num_batched_tokens": 200},
    "bound by free": {"num_gpu_blocks": 500, "max_num_seqs": 20, "max_num_batched_tokens": 800},
    "bound by room": {"num_gpu_blocks": 60, "max_num_seqs": 200, "max_num_batched_tokens": 800},
    "preempts": {"num_gpu_blocks": 60, "max_num_seqs": 200, "max_num_batched_tokens": 800},
    "starts again": {"num_gpu_blocks": 60, "max_num_seqs": 200, "max_num_batched_tokens": 800},
    "nobody waits": {"num_gpu_blocks": 5000, "max_num_seqs": 500, "max_num_batched_tokens": 4000},
}
SERVERS = {
    "asynchronous": VllmV1(batch_time=LAW, block_size=8),
    "synchronous": VllmV1(batch_time=LAW, block_size=8, async_scheduling=False),
    "prompts apart": VllmV0(batch_time=LAW, block_size=8),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_is_met(server, regime):
    rate = 4.0 if regime == "nobody waits" else 20.0
    node = reading_of(replace(SERVERS[server], **REGIMES[regime])).node
    met = check_steps(MIX, node, rate, skipped=5, steps=60)
    assert regime in met
    assert node.prompts_apart or "decodes alone" not in met
