"""What the iteration clock refuses before the work, against marches that were made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import capacity
from ode import InitialState, solve
from serving import BatchTimeLaw, ConfigError, DecodeNode, RateProfile, RequestMix

MIX = RequestMix.from_lengths([30, 60, 5], [40, 10, 90], [0.5, 0.3, 0.2])
LAWS = {
    "line": BatchTimeLaw.per_token(1.0, 1e-3, d_swap=1e-3),
    "tokens only": BatchTimeLaw(d_0=0.5, d_decode=0.0, d_kv=2e-3),
    "table": BatchTimeLaw.tabulated([[1, 0.5], [4, 2.0], [20, 2.1], [60, 6.0]], d_kv=1e-4),
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(LAWS)),
    st.sampled_from(["swapping", "sacrifice"]),
    st.sampled_from([None, 900, 2500]),
    st.sampled_from([1.0, 0.5]),
    st.floats(0.05, 3.0),
    st.floats(0.0, 60.0),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
)
def test_what_was_marched_is_within_reach(
    law, mode, budget, threshold, load, waiting, batches, drain
):
    """A march may take as many steps as it takes: the bound is below all that happens."""
    node = DecodeNode(LAWS[law], M_total=2000, B=budget, mode=mode, admission_threshold=threshold)
    rate = load * capacity(MIX, node)
    # bursts with gaps between them: idle time takes no steps
    time = np.array([0.0, 50.0, 400.0, 430.0, 430.0])
    profile = RateProfile(time, np.array([0.0, 50, 50, 80, 90]) * rate)
    state = InitialState(waiting=waiting)
    asked = {"initial": state, "drain": drain, "batches_per_step": batches}
    steps = int(solve(profile, MIX, node, **asked).stats["steps"])
    again = solve(profile, MIX, node, **asked, max_steps=steps + 1)
    assert again.stats["steps"] == steps


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("load", [0.9, 1.5])
def test_of_a_busy_node_a_third_of_the_steps_is_refused_before_the_work(monkeypatch, law, load):
    node = DecodeNode(LAWS[law], M_total=2000, B=None)
    profile = RateProfile.constant(load * capacity(MIX, node), 2000.0)
    steps = int(solve(profile, MIX, node).stats["steps"])
    monkeypatch.setattr("ode.lagrangian.solve.Workspace", None)
    with pytest.raises(
        ConfigError, match=r"'horizon': 2000.0 is not allowed; allowed: <= "
    ) as error:
        solve(profile, MIX, node, max_steps=steps // 3)
    allowed = float(error.value.allowed.split()[1])
    assert 2000 / 3 < allowed * 1.01 and allowed < 2000


@pytest.mark.parametrize(
    ("profile", "node", "initial", "key"),
    [
        (RateProfile.constant(0.1, 1e20), DecodeNode(), InitialState(), "horizon"),
        (RateProfile.constant(1e-240, 1e20), DecodeNode(), InitialState(), "horizon"),
        (RateProfile.constant(1e200, 1.0), DecodeNode(), InitialState(), "horizon"),
        (
            RateProfile.constant(0.1, 9.0),
            DecodeNode(),
            InitialState(waiting=1e30),
            "initial_waiting",
        ),
        (
            RateProfile.constant(0.1, 9.0),
            DecodeNode(admission_threshold=1e-308),
            InitialState(),
            "admission_threshold",
        ),
    ],
)
def test_what_no_march_reaches_names_the_setting_and_its_bound(
    monkeypatch, profile, node, initial, key
):
    monkeypatch.setattr("ode.lagrangian.solve.Workspace", None)
    with pytest.raises(ConfigError, match=f"'{key}': .* allowed: ") as error:
        solve(profile, MIX, node, initial=initial)
    assert error.value.key == key
