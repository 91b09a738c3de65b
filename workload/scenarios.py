"""Define the named scenarios and (p, D, rate) streams, and draw requests from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import ConfigError, RequestMix, RequestTable
from serving.arguments import checked
from serving.request_mix import LONGEST_DECODE
from workload.conversations import Conversations
from workload.description import Workload
from workload.lengths import LengthDistribution, RequestClass, mix_of
from workload.rate_shape import Constant, RateShape, Steps, parse_rate_shape

_uniform = LengthDistribution.uniform

NORMAL_CLASSES = (
    RequestClass("short", 0.8, _uniform(10, 60), _uniform(10, 40)),
    RequestClass("long", 0.2, _uniform(150, 200), _uniform(80, 100)),
)
HEAVY_CLASSES = (
    RequestClass("short", 0.8, _uniform(50, 100), _uniform(20, 50)),
    RequestClass("long", 0.2, _uniform(250, 300), _uniform(130, 150)),
)
BURSTS = Steps((0.0, 20.0), (4.0, 0.25), period=100.0)
"""20 time units at four times the rate, then 80 at a quarter of it: 1 on average."""

SCENARIOS = {
    "normal": (NORMAL_CLASSES, 0.5, Constant()),
    "heavy": (HEAVY_CLASSES, 2.0, Constant()),
    "bursty": (NORMAL_CLASSES, 0.5, BURSTS),
}
"""Classes, default rate [requests/time] and rate shape of each scenario."""

TYPES_FORM = '"(p,D,rate);(p,D,rate)..." with whole p, D >= 1 and rate > 0'


def parse_types(text: str) -> tuple[RequestMix, float, tuple[str, ...]]:
    """Return mix, total rate and class names of ``"(20,20,5.1);(10,40,1.0)"``.

    Independent Poisson streams merge into one Poisson stream whose requests are of a class with
    the share of its rate.

    Raises
    ------
    ConfigError
        Naming what could not be read.
    """
    streams = []
    for part in (each.strip() for each in text.strip().rstrip(";").split(";")):
        fields = part.removeprefix("(").removesuffix(")").split(",")
        try:
            if not (part.startswith("(") and part.endswith(")")):
                raise ValueError("no brackets")
            prefill, decode, rate = int(fields[0]), int(fields[1]), float(fields[2])
        except (ValueError, IndexError) as error:
            raise ConfigError("types", part, TYPES_FORM) from error
        for length in (prefill, decode):
            if length > LONGEST_DECODE:
                raise ConfigError("types", part, f"{TYPES_FORM}, lengths <= {LONGEST_DECODE}")
        if len(fields) != 3 or prefill < 1 or decode < 1 or not 0 < rate < float("inf"):
            raise ConfigError("types", part, TYPES_FORM)
        streams.append((prefill, decode, rate))
    names = tuple(f"({p},{d})" for p, d, _ in streams)
    classes = [
        RequestClass(
            name, rate, LengthDistribution.deterministic(p), LengthDistribution.deterministic(d)
        )
        for name, (p, d, rate) in zip(names, streams, strict=True)
    ]
    return mix_of(classes), sum(rate for _, _, rate in streams), names


@checked()
def describe(
    scenario: str = "normal",
    *,
    types: str | None = None,
    lengths: RequestMix | str | Path | None = None,
    arrival_rate: float | None = None,
    burstiness: float = 1.0,
    rate_shape: str | RateShape | None = None,
    L_filter: int | None = None,
    scale: float = 1.0,
    turns: int | None = None,
    think_time: float | None = None,
    answer_token_time: float | None = None,
    sessions: int | None = None,
    system_prompts: int | None = None,
    system_prompt_length: int | None = None,
    closed_loop: bool | None = None,
) -> Workload:
    """Return the workload that the generator's options describe.

    Parameters
    ----------
    scenario
        normal | heavy | bursty: lengths, default rate and rate shape.
    types
        Streams ``"(p,D,rate);..."`` in place of the scenario's lengths and rate.
    lengths
        A mix, or a trace or lengths-only file, in place of the scenario's lengths.
    arrival_rate : [requests/time]
        In place of the scenario's rate.
    burstiness
        Gamma shape of the gaps; 1 is Poisson.
    rate_shape
        Multiple of the rate over time, or its text (see :func:`parse_rate_shape`), in place of the
        scenario's.
    L_filter : [tokens]
        Leave out requests with a longer decode; the rate is thinned by as much.
    scale
        Multiplies the rate.
    turns
        Requests are the turns of conversations, so many in each; the lengths are those of what a
        client says anew and of the answer, and the prompt repeats all that was said before.
    think_time : [time]
        Mean time from an answer to the client's next turn, exponential.
    answer_token_time : [time/token]
        How long an answer is taken to last, per token; 0 where not given.
    sessions
        So many conversations go on at a time, on average; in place of the scenario's rate.
    system_prompts, system_prompt_length
        Each conversation begins with one of so many prompts of so many tokens.
    closed_loop
        The next turn of a conversation is sent when the engine has answered and the client has
        thought. With ``sessions``, so many clients have one conversation after another.

    Raises
    ------
    ConfigError
        Naming the option, its value and what is allowed.
    """
    talk = {
        "turns": turns, "think_time": think_time, "answer_token_time": answer_token_time,
        "system_prompts": system_prompts, "system_prompt_length": system_prompt_length,
    }  # fmt: skip
    if sessions is not None and (arrival_rate is not None or types is not None):
        other = "types" if arrival_rate is None else "arrival_rate"
        raise ConfigError("sessions", sessions, f"not given beside {other}: both set the rate")
    if scenario not in SCENARIOS:
        raise ConfigError("scenario", scenario, " | ".join(SCENARIOS))
    classes, rate, shape = SCENARIOS[scenario]
    names = tuple(each.name for each in classes)
    if types is not None and lengths is not None:
        raise ConfigError("types", types, "either types or lengths, not both")
    if types is not None:
        if arrival_rate is not None:
            raise ConfigError("arrival_rate", arrival_rate, "not given beside types (their rates)")
        mix, rate, names = parse_types(types)
    elif lengths is not None:
        mix, names = lengths if isinstance(lengths, RequestMix) else _lengths_of(lengths), ()
    else:
        mix = mix_of(classes)
    if rate_shape is not None:
        shape = parse_rate_shape(rate_shape) if isinstance(rate_shape, str) else rate_shape
    rate = rate if arrival_rate is None else arrival_rate
    turn = Workload(mix, rate, shape, burstiness, names).filtered(L_filter)
    said = {key: value for key, value in talk.items() if value is not None}
    if closed_loop:
        return _waiting(turn, said, sessions, arrival_rate).scaled(scale)
    return _conversing(turn, said, sessions).scaled(scale)


def _waiting(
    turn: Workload, said: dict[str, Any], sessions: int | None, rate: float | None
) -> Workload:
    """Return the workload of conversations whose clients wait for the engine's answers."""
    if sessions is None and rate is None:
        raise ConfigError("closed_loop", True, "only beside sessions, or an arrival_rate")
    talk = Conversations(turn.mix, waits=True, clients=sessions, **said)
    return replace(turn, mix=talk.mix(), conversations=talk)


def _conversing(turn: Workload, said: dict[str, Any], sessions: int | None) -> Workload:
    """Return the workload of conversations, from that of what is said in a turn and answered."""
    if not said and sessions is None:
        return turn
    talk = Conversations(turn.mix, **said)
    rate = turn.rate if sessions is None else talk.rate_of(sessions)
    return replace(turn, mix=talk.mix(), rate=rate, conversations=talk)


@checked()
def generate(
    scenario: str = "normal",
    *,
    num_requests: int | None = None,
    horizon: float | None = None,
    seed: int = 42,
    **options: object,
) -> RequestTable:
    """Return one draw of the workload that :func:`describe` returns for ``options``.

    Parameters
    ----------
    num_requests
        Default 100 where no ``horizon`` is given.
    horizon : [time]
        Draw all arrivals up to this time instead.
    seed
        Equal arguments and seed give equal bytes.
    """
    if num_requests is None and horizon is None:
        num_requests = 100
    described = describe(scenario, **options)  # type: ignore[arg-type]
    return described.sample(seed, num_requests=num_requests, horizon=horizon)


def _lengths_of(path: str | Path) -> RequestMix:
    from workload.traces import read_lengths

    return read_lengths(path)
