"""What limits every answer to a question, whatever gives the answer.

A solver labels its own approximations. Here stands what lies in the question itself: work that the
kind of engine does not spend, batches larger than any that the batch-time law was measured on, a
prefix cache beside prompts of which nobody says what they consist of, and a KV capacity that nobody
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fluid import equilibrium, saturation
from serving import (
    FluidServeError,
    RequestTable,
    SolveError,
    UnsupportedError,
    kind_of,
    reading_of,
)
from studies.question import Question

PREFILL_KEYS = frozenset({"d_prefill", "d_prefill_table"})
"""Keys of the law one of which a kind spends that computes prompts."""


def caveats(
    question: Question,
    *,
    rate: float | None = None,
    largest: Mapping[str, float] | None = None,
    is_run: bool = False,
) -> tuple[str, ...]:
    """Return what to know before trusting any answer to a question, one line each.

    Parameters
    ----------
    question
        Who arrives and who serves.
    rate
        Arrival rate of the answer [requests/time]; the question's mean rate without it.
    largest
        Largest value of outputs in the answer, by name. Without ``batch_size`` the mean batch size
        of the equilibrium counts, or that of a node that always has a queue where there is none;
        without ``swapped`` nobody is swapped out.
    is_run
        Whether the answer is a run of the engine, beside which a fluid model tells no more than
        capacity and load.
    """
    rate, largest = question.mean_rate if rate is None else rate, largest or {}
    found = (
        _prefill_left_out(question, rate),
        _free_swapping(question, largest.get("swapped", 0.0)),
        _beyond_the_law(question, rate, largest.get("batch_size")),
        _history_is_a_mean(question, is_run=is_run),
        _nothing_to_find(question),
        _hits_are_a_share(question, is_run=is_run),
    )
    return tuple(line for line in found if line)


def _prefill_left_out(question: Question, rate: float) -> str:
    """Say how much time the prompts would take that nobody computes."""
    if PREFILL_KEYS & set(kind_of(question.instance).law_keys):
        return ""
    mix = question.mix
    each = float(mix.probability @ question.instance.batch_time.prefill_time(mix.prefill))
    if not each > 0:  # the law says nothing of prompts
        return ""
    unit = question.instance.time_unit
    per = "" if unit == "none" else f"/{unit}"
    alone = f"prefill alone allows {_short(1 / each)} requests{per}"
    prompts = f"prompts of {mix.mean_prefill:,.0f} tokens on average"
    if math.isfinite(rate):
        share = f"would take {_percent(rate * each)} of the time at {_short(rate)} requests{per}"
    else:
        share = f"would take {_short(each)} {unit if unit != 'none' else 'time'} each"
    return (
        f"prefill is left out: this engine takes prompts as computed elsewhere; computing "
        f"{prompts} on this node {share}, {alone}; a node that does both is slower by more than "
        "that"
    )


def _free_swapping(question: Question, swapped: float) -> str:
    """Say that requests move to the CPU and back in no time, on a node whose times are real."""
    instance = question.instance
    is_real = instance.time_unit != "none"
    if not (is_real and swapped >= 1 and instance.batch_time.swaps_for_free):
        return ""
    return (
        f"swapping is free: up to {swapped:,.0f} requests were swapped out, and the law has no "
        "d_swap, the time that moving takes"
    )


def _beyond_the_law(question: Question, rate: float, batch_size: float | None) -> str:
    """Say that batches are larger than any that the law was measured on."""
    law = question.instance.batch_time
    known = law.most_requests
    if math.isinf(known):
        return ""
    if batch_size is None:
        batch_size = _expected_batch(question, rate)
    if not batch_size > known:
        return ""
    goes_on = "its line goes on" if law.is_affine else "the last slope of its table goes on"
    return (
        f"extrapolated: {batch_size:,.0f} requests run in a batch, and the batch-time law was "
        f"measured up to {known:,.0f}; {goes_on}{_no_limit(question)}"
    )


def _told_beside_a_run(question: Question) -> str:
    """Return the values that a fluid model gives beside a run of the engine, in words."""
    return "the capacity told here is" if question.waits else "the capacity and load told here are"


def _history_is_a_mean(question: Question, *, is_run: bool) -> str:
    """Say what fluid models do not know of conversations, where one answers."""
    talk = None if question.is_file else question.stream.conversations
    if talk is None or talk.turns == 1:
        return ""
    try:
        reading_of(question.instance)
    except UnsupportedError:
        return ""
    if is_run:
        return (
            f"conversations: {_told_beside_a_run(question)} for prompts of the mean length of what "
            "was said before a turn; the run served each at its length"
        )
    return (
        "conversations: an engine serves each prompt at its length; fluid models, and the load and "
        "capacity that they tell, take the mean length of what was said before a turn"
    )


def _nothing_to_find(question: Question) -> str:
    """Say that a prefix cache stays empty because nobody knows what prompts consist of."""
    source, instance = question.source, question.instance
    said = source.contents if isinstance(source, RequestTable) else source.conversations
    caches = getattr(instance, "enable_prefix_caching", False)
    is_free = getattr(instance, "remote_prefill", False)  # prompts take no time here
    is_free = is_free or getattr(instance, "prefix_hit_share", 0) > 0  # or it was said
    if said is not None or not caches or is_free or not kind_of(instance).reads_contents:
        return ""
    return (
        "prefix cache: it finds nothing, as no request says what its prompt consists of; where "
        "prompts repeat each other, TTFT is an upper estimate: --sessions, --turns, "
        "--system-prompts or the columns content and answer_content of a request file say what "
        "repeats, --prefix-hit-share how much is found"
    )


def _hits_are_a_share(question: Question, *, is_run: bool) -> str:
    """Say what fluid models do not know of prompts that repeat each other, where one answers."""
    source, instance = question.source, question.instance
    said = source.contents if isinstance(source, RequestTable) else source.conversations
    caches = getattr(instance, "enable_prefix_caching", False)
    if said is None or not caches or not kind_of(instance).reads_contents:
        return ""
    try:
        reading_of(instance)
    except UnsupportedError:
        return ""
    share = _percent(getattr(instance, "prefix_hit_share", 0.0))
    if is_run:
        return (
            f"prefix hits: {_told_beside_a_run(question)} for a cache that finds prefix_hit_share, "
            f"{share}, of each prompt; the run found what prompts have in common"
        )
    return (
        "prefix hits: the engine finds what prompts have in common; fluid models, and the load and "
        f"capacity that they tell, take prefix_hit_share, {share}, of each prompt as found; "
        "prefix-cache predicts it"
    )


def _no_limit(question: Question) -> str:
    """Say that an engine runs as many requests as its memory holds, which few servers do."""
    if "batch_size" in kind_of(question.instance).limits(question.instance):
        return ""
    return (
        "; this engine has no limit of requests, such as max_num_seqs, beyond which a server makes "
        "them wait"
    )


def _expected_batch(question: Question, rate: float) -> float:
    mix, instance = question.mix, question.instance
    try:
        return equilibrium(mix, instance, rate).running
    except SolveError:  # a node with a queue fills its batches
        return saturation(mix, instance).batch_size
    except UnsupportedError:
        return math.nan


DECIDES = 0.01
"""Share of the mean TTFT by which an estimate must move it to be said."""


@dataclass(frozen=True, slots=True)
class CapacityEstimate:
    """The KV capacity of an instance is an estimate.

    Parameters
    ----------
    key
        Setting that holds it, such as ``num_gpu_blocks``.
    error
        Share by which it may be off.
    """

    key: str
    error: float

    def bounds(self, instance: Any) -> tuple[Any, Any]:
        """Return the instance with the smallest and with the largest capacity that it may have."""
        known = getattr(instance, self.key)
        less = max(math.floor(known * (1 - min(self.error, 0.99))), 2)
        more = math.ceil(known * (1 + self.error))
        return replace(instance, **{self.key: less}), replace(instance, **{self.key: more})


def capacity_doubt(
    question: Question,
    estimate: CapacityEstimate,
    *,
    mean_ttft: float,
    largest: Mapping[str, float],
    evicted: float = 0.0,
) -> str:
    """Say how much the mean TTFT of a run depends on a KV capacity that is an estimate.

    The run is repeated with the smallest and the largest capacity, where that can change it: where
    memory was full up to the error of the estimate, or cached blocks were evicted.

    Parameters
    ----------
    question
        What was run.
    estimate
        Of its KV capacity.
    mean_ttft
        Of the run [time].
    largest
        Largest value of outputs in the run, ``memory`` [tokens] among them.
    evicted
        Cached blocks that gave way in the run.

    Returns
    -------
    One line, or nothing where no end of the error moves the mean TTFT by :data:`DECIDES`.
    """
    limit = kind_of(question.instance).limits(question.instance)["memory"].value
    held = largest.get("memory", limit)
    if not evicted and held <= (1 - estimate.error) * limit:
        return ""
    known = getattr(question.instance, estimate.key)
    per = "" if question.instance.time_unit == "none" else f" {question.instance.time_unit}"
    said, decides = [], False
    for instance in estimate.bounds(question.instance):
        ttft = _mean_ttft(question, instance)
        decides |= ttft is None or abs(ttft - mean_ttft) > DECIDES * mean_ttft
        size = f"{getattr(instance, estimate.key):,}"
        said.append(
            f"with {size} some request never fits" if ttft is None
            else f"with {size} the mean TTFT is {_short(ttft)}{per}"
        )  # fmt: skip
    if not decides:
        return ""
    return (
        f"estimated: {estimate.key} = {known:,} is known to {_percent(estimate.error)} and decides "
        f"this answer: the mean TTFT is {_short(mean_ttft)}{per}, {', '.join(said)}"
    )


def _mean_ttft(question: Question, instance: Any) -> float | None:
    """Return the mean TTFT of a run [time]; None where a request can never finish."""
    import discrete

    try:
        asked = question.on(instance)
        run = discrete.simulate(asked.requests, instance, seed=asked.seed, record_batches=False)
    except FluidServeError:
        return None
    return run.metrics().latencies["ttft"].mean


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:,.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
