"""Reproduce published theory of LLM serving with FluidServe's own engines and certificates.

    python benchmarks/theory.py [table] [cycles] [pairs] [servers] [regions] [prefix] [--quick]

Prints the tables of docs/theory.md: all of them, or those that are named.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import discrete
import fluid
from fluidserve.config import instance_of, load_config
from fluidserve.profiled import profile_of
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable, VllmV0, VllmV1
from studies import WaitingTurns
from workload import Conversations, LengthDistribution, RequestClass, Workload, mix_of

KV_TOKENS, CHUNK = 131_000, 512
"""Of the measurements by Nie, Si and Zhou: KV memory and tokens of a step."""

PUBLISHED = {
    "prompts and answers alike": ((10, 1600), (10, 1600), 3.387, 3.263),
    "long prompts": ((10, 2133), (10, 1066), 3.650, 3.956),
    "long answers": ((10, 1066), (10, 2133), 2.969, 2.902),
}
"""Uniform prompts and answers [tokens], capacity measured and by their formula [requests/s]."""

MIXED = (3.137, 3.385)
"""The same where both kinds of lengths are mixed; read as half of each of the last two."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SECTIONS])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    options = parser.parse_args()
    for name in options.names or SECTIONS:
        SECTIONS[name](options.quick)
        print()


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def heading(*cells: str) -> None:
    row(*cells)
    print("|---|" + "---:|" * (len(cells) - 1))


# --- Nie, Si, Zhou: capacity = M / (b E[g]) -------------------------------------------------------


def lifetime_memory(prompt: NDArray, answer: NDArray) -> float:
    """Return E[g], the KV of a request summed over its steps [token-steps]."""
    chunks = np.ceil(prompt / CHUNK)
    growing = CHUNK * chunks * (chunks - 1) / 2 + prompt
    return float(np.mean(growing + (answer - 1) * prompt + answer * (answer - 1) / 2))


def full_server(node: VllmV0 | VllmV1, prompt: NDArray, answer: NDArray) -> float:
    """Return what a server completes that always has somebody waiting [requests/time]."""
    requests = RequestTable.validated(np.zeros(prompt.size), prompt, answer)
    run = discrete.simulate(requests, node, record_batches=False)
    return steady_rate(run.requests["completion_time"])


def steady_rate(completed: NDArray) -> float:
    """Return the rate of completions in the middle of a run, smoothly cut off."""
    times = np.sort(np.asarray(completed))
    low, high = 0.3 * times[-1], 0.85 * times[-1]
    inside = times[(times > low) & (times < high)]
    weight = 1 - np.cos(2 * math.pi * (inside - low) / (high - low))
    return float(weight.sum() / (high - low))


def table(quick: bool) -> None:
    """Print capacity by the engine beside what was measured and what their formula says."""
    rng = np.random.default_rng(1)
    number = 3000 if quick else 16_000
    profile = {"model": "Llama-3-8B", "hardware": "A100", "engine": "vllm_v1"}
    law = instance_of(load_config(None, {"engine": "vllm_v1"}, profile_of(profile))).batch_time
    node = VllmV1(
        num_gpu_blocks=KV_TOKENS // 16 + 1, max_num_seqs=1024, max_num_batched_tokens=CHUNK,
        enable_prefix_caching=False, async_scheduling=False,
    )  # fmt: skip
    lengths: dict[str, tuple[NDArray, NDArray, float, float]] = {}
    for name, (prompts, answers, *known) in PUBLISHED.items():
        drawn = (rng.integers(low, high + 1, number) for low, high in (prompts, answers))
        lengths[name] = (*drawn, *known)
    half = rng.random(number) < 0.5
    pairs = zip(lengths["long prompts"][:2], lengths["long answers"][:2], strict=True)
    lengths["mixed"] = (*(np.where(half, a, b) for a, b in pairs), *MIXED)
    heading("lengths", "measured", "their formula", "off", "engine, their step", "off",
            "engine, profile", "off")  # fmt: skip
    for name, (prompt, answer, measured, formula) in lengths.items():
        step = KV_TOKENS / (formula * lifetime_memory(prompt, answer))
        cells = [
            name,
            f"{measured:.3f}",
            f"{formula:.3f}",
            f"{100 * (formula / measured - 1):+.1f} %",
        ]
        for each in (BatchTimeLaw(d_0=step, d_decode=0, d_kv=0), law):
            found = full_server(replace(node, batch_time=each), prompt, answer)
            cells += [f"{found:.3f}", f"{100 * (found / measured - 1):+.1f} %"]
        row(*cells)


# --- Ao et al.: limit cycles and the coprime rule -------------------------------------------------

RUNNING = 400
"""Requests that run in a full memory."""


def lengths_of(prompt: int, answers: Sequence[int]) -> RequestMix:
    """Return requests of one prompt length and of answers that are equally likely."""
    size = len(answers)
    return RequestMix.from_lengths(
        np.full(size, float(prompt)), np.array(answers), np.full(size, 1 / size), np.arange(size)
    )


def full_node(prompt: int, answers: Sequence[int], steps: float) -> tuple[float, fluid.Certificate]:
    """Return the share of its capacity that a full node completes, and its certificate."""
    mix = lengths_of(prompt, answers)
    memory = int(RUNNING * mix.work / mix.mean_decode)
    law = BatchTimeLaw(d_0=1.0, d_decode=0, d_kv=0)
    node = DecodeNode(law, M_total=memory, B=None, mode="sacrifice")
    number = int(RUNNING / mix.mean_decode * steps)
    rng = np.random.default_rng(3)
    decode = rng.permutation(np.resize(answers, number))
    requests = RequestTable.validated(np.zeros(number), np.full(number, prompt), decode)
    run = discrete.simulate(requests, node, record_batches=False)
    share = steady_rate(run.requests["completion_time"]) / fluid.capacity(mix, node)
    return share, fluid.certificate(mix, node)


def steps_to_grow(prompt: int, answers: Sequence[int], *, quick: bool) -> float:
    """Return steps in which a deviation has grown e^30-fold, or decayed."""
    root = abs(fluid.largest_root(fluid.survival_polynomial(lengths_of(prompt, answers))))
    return float(np.clip(30 / abs(math.log(max(root, 1e-9))), 3000, 9000 if quick else 200_000))


def cycles(quick: bool) -> None:
    """Print the worst cycle of one length of answers, by closed form and engine."""
    heading("prompt, answer", "largest root", "loss by the closed form", "loss of the engine")
    for prompt, answer in ((20, 20), (1, 100), (100, 40), (10, 20)):
        share, seen = full_node(prompt, (answer,), 3000 if quick else 12_000)
        loss = math.nan if seen.cycle_loss is None else seen.cycle_loss
        row(f"{prompt}, {answer}", f"{seen.max_root:.4f}", f"{100 * loss:.1f} %",
            f"{100 * (1 - share):.1f} %")  # fmt: skip


PAIRS = (
    (10, (2, 3)), (200, (5, 7)), (300, (10, 11)), (10, (2, 4)), (200, (5, 10)), (300, (10, 20)),
    (10, (40, 41)), (4000, (40, 41)), (10, (40, 80)),
)  # fmt: skip
"""A prompt and two answers, each of half of the requests."""


def pairs(quick: bool) -> None:
    """Print whether two lengths of answers stabilise a full node, by certificate and engine."""
    heading("prompt, answers", "coprime", "largest root", "certificate", "loss of the engine")
    for prompt, answers in PAIRS:
        share, seen = full_node(prompt, answers, steps_to_grow(prompt, answers, quick=quick))
        coprime = "yes" if math.gcd(*answers) == 1 else "no"
        verdict = "stable" if seen.stable else "cycles"
        row(f"{prompt}, {answers[0]} and {answers[1]}", coprime, f"{seen.max_root:.5f}", verdict,
            f"{100 * (1 - share):.1f} %")  # fmt: skip
    print()
    heading("coprime answers", "stable from prompts of")
    for answers in ((2, 3), (3, 4), (5, 7), (5, 6), (10, 11), (20, 21), (40, 41)):
        row(f"{answers[0]} and {answers[1]}", f"{least_stable_prompt(answers):,} tokens")


def least_stable_prompt(answers: Sequence[int]) -> int:
    """Return the shortest prompt from which the certificate says stable."""

    def is_stable(prompt: int) -> bool:
        return abs(fluid.largest_root(fluid.survival_polynomial(lengths_of(prompt, answers)))) < 1

    high = 1
    while not is_stable(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_stable(middle) else (middle, high)
    return high


# --- The same for a server that decides like vLLM -------------------------------------------------

SERVERS = (
    (10, (2, 3)), (10, (2, 4)), (10, (2, 5)), (200, (5, 7)), (200, (5, 10)), (300, (10, 11)),
    (10, (40, 41)), (4000, (40, 41)), (20, (20,)), (100, (100,)),
)  # fmt: skip
"""A prompt and answers that are equally frequent."""


def servers(quick: bool) -> None:
    """Print whether vLLM's scheduler swings with a full KV cache, by certificate and engine."""
    heading("prompt, answers", "scheduling", "lives coprime", "largest root", "certificate",
            "swing of the engine", "preemptions per completion")  # fmt: skip
    for prompt, answers in SERVERS:
        for is_ahead in (False, True):
            lives = [each + is_ahead for each in answers]
            found, swing, preempted = full_of_kv(prompt, answers, is_ahead, quick=quick)
            row(
                f"{prompt}, {' and '.join(map(str, answers))}",
                "a step ahead" if is_ahead else "step by step",
                "yes" if math.gcd(*lives) == 1 else "no",
                f"{found.max_root:.5f}",
                "stable" if found.stable else "cycles",
                f"{swing:.2f}",
                f"{preempted:.2f}",
            )


def full_of_kv(
    prompt: int, answers: Sequence[int], is_ahead: bool, *, quick: bool
) -> tuple[fluid.Certificate, float, float]:
    """Return certificate, swing, and preemptions per completion.

    The swing is the standard deviation of the completions of a step over their mean, late in a run
    in which all requests wait at the start.
    """
    mix = lengths_of(prompt, answers)
    node = VllmV1(
        batch_time=BatchTimeLaw(d_0=1.0, d_decode=0, d_kv=0), block_size=1, ignore_eos=True,
        max_num_seqs=100_000, max_num_batched_tokens=10**8, async_scheduling=is_ahead,
        enable_prefix_caching=False,
    )  # fmt: skip
    held = [np.mean([prompt + k if k < each + is_ahead else 0 for each in answers])
            for k in range(max(answers) + is_ahead)]  # fmt: skip
    stay = float(np.mean(answers)) + is_ahead
    node = replace(node, num_gpu_blocks=int(RUNNING * sum(held) / stay))
    found = fluid.certificate(mix, node)
    steps = float(np.clip(25 / abs(math.log(found.max_root)), 600, 3000 if quick else 30_000))
    number = int(RUNNING / stay * steps)
    requests = RequestTable.validated(
        np.zeros(number), np.full(number, prompt), np.resize(answers, number)
    )
    rows = discrete.simulate(requests, node).batches
    done = np.asarray(rows["completed_count"], float)
    late = slice(int(0.55 * done.size), int(0.85 * done.size))
    each = np.diff(done[late])
    preempted = float(np.ptp(np.asarray(rows["evicted_count"])[late]))
    return found, float(each.std() / each.mean()), preempted / float(each.sum())


# --- Dai et al.: throughput of chunked and of prefill-first scheduling ---------------------------


def regions(quick: bool) -> None:
    """Print the rates up to which servers keep up, by bisection over the same requests."""
    profile = {"model": "Llama-3-8B", "hardware": "A100", "engine": "vllm_v1"}
    law = instance_of(load_config(None, {"engine": "vllm_v1"}, profile_of(profile))).batch_time
    number = 5000 if quick else 20_000
    rng = np.random.default_rng(0)
    gaps = np.cumsum(rng.exponential(1, number))
    gaps *= number / gaps[-1]
    heading("prompt, answer", "KV blocks", "max_num_seqs", "closed form", "chunked",
            "prefill first", "prefill first / chunked")  # fmt: skip
    for mean_prompt, mean_answer, blocks, seats in (
        (100, 20, 28_780, 256), (500, 20, 28_780, 256), (200, 10, 28_780, 64),
        (500, 200, 28_780, 256), (1000, 50, 28_780, 256), (500, 200, 5000, 256),
    ):  # fmt: skip
        prompt = np.minimum(rng.geometric(1 / mean_prompt, number), 1800)
        answer = np.minimum(rng.geometric(1 / mean_answer, number), 2047 - prompt)
        common = {
            "batch_time": law, "num_gpu_blocks": blocks, "max_num_seqs": seats,
            "max_num_batched_tokens": 2048,
        }  # fmt: skip
        chunked = VllmV1(**common, enable_prefix_caching=False, async_scheduling=False)
        first = VllmV0(**common, enable_chunked_prefill=False, max_model_len=2048)
        mix = RequestTable.validated(gaps, prompt, answer).mix()
        bound = fluid.capacity(mix, chunked)
        found = [keeps_up_to(node, gaps, prompt, answer, bound) for node in (chunked, first)]
        row(f"{mean_prompt}, {mean_answer}", f"{blocks:,}", seats, f"{bound:.1f}/s",
            *(f"{rate:.1f}/s" for rate in found), f"{found[1] / found[0]:.3f}")  # fmt: skip


def keeps_up_to(
    node: VllmV0 | VllmV1, gaps: NDArray, prompt: NDArray, answer: NDArray, near: float
) -> float:
    """Return the rate beyond which a backlog grows.

    At 1/0.95 of that rate the backlog grows by 5 % of the arrivals, which is what is looked for:
    chance alone makes it go up and down by 1 to 2 %.
    """

    def keeps_up(rate: float) -> bool:
        requests = RequestTable.validated(gaps / rate, prompt, answer)
        done = np.sort(discrete.simulate(requests, node, record_batches=False)
                       .requests["completion_time"])  # fmt: skip
        half = gaps.size // 2
        there = [k - np.searchsorted(done, requests.arrival_time[k - 1]) for k in (half, gaps.size)]
        return bool(there[1] - there[0] < 0.05 * (gaps.size - half))

    low, high = near / 2, near * 1.5
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_up(middle) else (low, middle)
    return 0.95 * (low + high) / 2


# --- Bistability of a prefix cache ----------------------------------------------------------------


def talking(rate: float, number: int, at_once: int = 0) -> RequestTable:
    """Return conversations of four turns that begin at a rate, the last ones of them at time 0."""
    turn = RequestClass(
        "turn", 1.0, LengthDistribution.uniform(1000, 5000), LengthDistribution.uniform(200, 400)
    )
    talks = Conversations(mix_of([turn]), turns=4, think_time=30.0, waits=True)
    drawn = Workload(talks.mix(), rate, conversations=talks).sample(
        np.random.SeedSequence(3), num_requests=number
    )
    burst = drawn.session > drawn.session.max() - at_once
    moved = replace(drawn, arrival_time=np.where(burst, 0.0, drawn.arrival_time))
    return moved.take(np.arange(number))


def later_turns_first(requests: RequestTable) -> RequestTable:
    """Return the requests with priority to later turns."""
    turn, following = np.zeros(len(requests), int), requests.next_turns()
    before = np.flatnonzero(following >= 0)
    for _ in range(8):
        turn[following[before]] = turn[before] + 1
    return replace(requests, priority=-turn)


def prefix(quick: bool) -> None:
    """Print the two states of a server whose clients wait, and what removes the bad one."""
    law = BatchTimeLaw(d_0=0.00665, d_decode=1.51e-5, d_kv=4.65e-8, d_prefill=2.40e-5)
    node = VllmV1(
        batch_time=law, num_gpu_blocks=120_000, max_num_seqs=1024, max_num_batched_tokens=8192
    )
    number = 6000 if quick else 16_000
    states = WaitingTurns(talking(3.6, number), node)
    low, high = states.band()
    print(f"Both states last between {low:.2f} and {high:.2f} requests/s.\n")
    heading("requests/s", "start", "hits predicted", "hits of the engine", "completed predicted",
            "completed by the engine", "wait")  # fmt: skip
    for rate in (3.0, 3.4, 3.8, 4.6) if not quick else (2.8, 3.6):
        for burst in (0, 500):
            is_bad = burst or rate > high
            state = states.at(states.longest_wait(rate) / 2 if is_bad else 0.0, rate)
            share, done, wait = late(talking(rate, number + 4 * burst, burst), node)
            expected = rate / state.load if is_bad else rate
            row(f"{rate:g}", f"{burst} at once" if burst else "empty",
                f"{100 * state.hit_share:.0f} %", f"{100 * share:.0f} %", f"{expected:.2f}/s",
                f"{done:.2f}/s", f"{wait:.1f} s")  # fmt: skip
    print()
    heading("at 3.8 requests/s, 500 at once", "hits", "completed", "wait")
    few = replace(node, max_num_seqs=64)
    for name, each, change in (
        ("as it is", node, None),
        ("max_num_seqs 64", few, None),
        ("twice the memory", replace(node, num_gpu_blocks=240_000), None),
        ("later turns first", replace(node, scheduling_policy="priority"), later_turns_first),
        ("both: 64 seats, later turns first", replace(few, scheduling_policy="priority"),
         later_turns_first),
    ):  # fmt: skip
        requests = talking(3.8, number + 2000, 500)
        share, done, wait = late(requests if change is None else change(requests), each)
        row(name, f"{100 * share:.0f} %", f"{done:.2f}/s", f"{wait:.1f} s")


def late(requests: RequestTable, node: VllmV1) -> tuple[float, float, float]:
    """Return hit share, completions and mean wait in the second half of the beginnings."""
    engine = discrete.engine_for(requests, node, record_batches=False)
    end = float(requests.horizon)
    engine.advance(until=0.5 * end)
    before = engine.run().totals()
    engine.advance(until=end)
    run = engine.run()
    after = run.totals()
    queries, hits = (
        after[name] - before[name] for name in ("prefix_cache_queries", "prefix_cache_hits")
    )
    rows = run.requests
    waits = np.asarray(rows["first_enter_running_time"]) - np.asarray(rows["arrival_time"])
    done = np.asarray(rows["completion_time"])
    recent = (done > 0.5 * end) & (done <= end)
    return hits / queries, float(recent.sum() / (0.5 * end)), float(waits[recent].mean())


SECTIONS: dict[str, Callable[[bool], None]] = {
    each.__name__: each for each in (table, cycles, pairs, servers, regions, prefix)
}


if __name__ == "__main__":
    main()
