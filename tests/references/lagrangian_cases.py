"""Small random instances under random arrivals, for tests of the iteration clock."""

from __future__ import annotations

from hypothesis import strategies as st

from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix


@st.composite
def cases(draw):
    atoms = draw(st.integers(1, 5))
    whole = lambda low, high: st.lists(st.integers(low, high), min_size=atoms, max_size=atoms)  # noqa: E731
    mix = RequestMix.from_lengths(draw(whole(1, 20)), draw(whole(1, 12)), draw(whole(1, 5)))
    longest = int((mix.prefill + mix.decode).max())
    extra = draw(st.sampled_from([0.0, 0.02]))
    instance = DecodeNode(
        mode=draw(st.sampled_from(["swapping", "sacrifice"])),
        M_total=longest * draw(st.integers(1, 30)),
        B=draw(st.sampled_from([None, longest, 5 * longest])),
        admission_threshold=draw(st.sampled_from([1.0, 0.7])),
        batch_time=BatchTimeLaw(
            d_0=1.0,
            d_decode=0.01 + extra,
            d_kv=0.01,
            d_swap=draw(st.sampled_from([0.0, 0.001])),
            d_decode_table=draw(st.sampled_from([None, ((1, 0.2), (4, 1.0), (8, 1.1))])),
        ),
    )
    rates = draw(st.lists(st.floats(0.3, 8.0), min_size=3, max_size=3))
    return mix, instance, RateProfile.steps([0.0, 15.0, 30.0], rates, 45.0)
