"""Options that commands share; those of the instance come from the settings, one per key."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from fluidserve import completion
from fluidserve.flags import FlagError as FlagError
from fluidserve.front import Option
from fluidserve.settings import D_1, Setting, all_settings, defaults_in_words
from serving import DEFAULT_KIND, KINDS

NULL = object()
"""What ``none`` on the command line parses to: a null that was given (None: not given)."""

CONVERSATION_KEYS = (
    "turns", "think_time", "answer_token_time", "sessions", "system_prompts",
    "system_prompt_length",
)  # fmt: skip
GENERATOR_KEYS = (
    "scenario", "types", "lengths", "arrival_rate", "burstiness", "rate_shape", *CONVERSATION_KEYS,
)  # fmt: skip
FILE_KEYS = (
    "limit", "start", "rate_scale", "format", "columns", "trace_time_unit", "hash_block_size",
    "drop_oversized",
)  # fmt: skip
LENGTHS_KEYS = ("columns", "drop_oversized")
"""Keys of a file that apply to ``--lengths`` as well."""

PROFILE_KEYS = ("model", "hardware", "tp", "gpu_memory_utilization")
WORKLOAD_KEYS = (
    *GENERATOR_KEYS, *FILE_KEYS, "closed_loop", "trace", "num_requests", "horizon", "load", "scale",
)  # fmt: skip


class _Raw(click.ParamType):
    """Passes text on to the configuration schema, which knows what is allowed."""

    def __init__(self, item: Setting) -> None:
        self.item = item
        self.name = item.kind.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text, or :data:`NULL` for ``none`` where null is allowed."""
        if self.item.optional and str(value).lower() in ("none", "null", "unlimited"):
            return NULL
        return _rows(value) if "rows" in self.item.rules else value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Complete a choice."""
        choices = self.item.rules.get("choices", ())
        return completion.of_words(lambda: choices)(ctx, param, incomplete)


def _rows(text: Any) -> Any:
    """Return ``1:0.010,8:0.011`` as rows of numbers; what is none stays text, to be refused."""
    rows: list[Any] = []
    for row in str(text).split(","):
        try:
            rows.append([float(part) for part in row.split(":")])
        except ValueError:
            rows.append(row)
    return rows


SECTION = {"node": "Node", "law": "Law"}
"""Section of the help by the group of a key."""

SECTION_OF_KEY = {
    "request_file": "Workload", "L_filter": "Workload", "engine": "Node", "seed": "Run",
    "output_dir": "Output", "verbose": "Output", "progress_interval": "Output",
}  # fmt: skip
"""Section of the keys of a run."""


def _option(item: Setting) -> Option:
    declarations = [item.flag, item.key]
    section = SECTION_OF_KEY.get(item.key) or SECTION[item.group]
    if item.group == "node" and len(item.kinds) and DEFAULT_KIND.name not in item.kinds:
        section = "vLLM engine"
    some = f"  [engine {', '.join(item.kinds)}]" if 0 < len(item.kinds) < len(KINDS) else ""
    if item.kind is bool:
        flag = f"{item.flag}/--no-{item.flag.removeprefix('--')}"
        return Option([flag, item.key], default=None, help=item.doc + some, section=section)
    bare = item.key in ("request_file", "output_dir")
    note = "" if bare else f"  [default: {defaults_in_words(item)}]"
    choices = "|".join(item.rules.get("choices", ()))
    if item.rules.get("user_function"):
        choices += "|FILE.py:FUNCTION"
    special = {"request_file": "FILE", "output_dir": "DIR"}
    metavar = "N:TIME,N:TIME,..." if "rows" in item.rules else special.get(item.key)
    return Option(
        declarations, type=_Raw(item), metavar=choices or metavar, help=item.doc + note + some,
        section=section, hidden=item.carried,
    )  # fmt: skip


def attached(*options: Option) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command."""

    def attach(function: Any) -> Any:
        for option in reversed(options):
            params = function.__dict__.setdefault("__click_params__", [])
            params.append(option)
        return function

    return attach


def instance_options(function: Any) -> Any:
    """Add ``--config``, a profile's, and one option per key of the instance and its batch time."""
    return attached(*_instance(all_settings()))(function)


def server_options(function: Any) -> Any:
    """Add the same without the keys that only the default kind has."""
    settings = all_settings()
    others = {name: item for name, item in settings.items() if item.kinds != (DEFAULT_KIND.name,)}
    return attached(*_instance(others))(function)


def _instance(settings: Mapping[str, Setting]) -> list[Option]:
    keys = [item for item in settings.values() if item.group in ("node", "law")]
    add = functools.partial(Option, default=None, section="Node")
    file = add(
        ["--config", "config_file"], metavar="FILE",
        help="YAML configuration; flags override it; one in s or ms must say law, memory and "
        "budget",
    )  # fmt: skip
    profile = (
        add(["--model"],
            help="take law, memory and budget of this model, not the defaults below; needs "
            "--hardware",
            shell_complete=completion.of_words(completion.models)),
        add(["--hardware"], help="graphics card of --model; see fluidserve profiles list",
            shell_complete=completion.of_words(completion.hardware)),
        add(["--tp"], type=int, help="cards over which --model is divided  [default: 1]"),
        add(["--gpu-memory-utilization"], type=float,
            help="share of a card's memory for --model  [default: that of vLLM]"),
    )  # fmt: skip
    own = [_option(item) for item in (settings["engine"], *keys, D_1)]
    return [file, *profile, *own]


LENGTH_OPTIONS = (
    "request_file", "trace", "format", "columns", "drop_oversized", "limit", "start", "L_filter",
    "scenario", "types", "lengths",
)  # fmt: skip
"""Options of a workload that say which lengths requests have."""


def workload_options(function: Any) -> Any:
    """Add the three ways to name a workload: a request file, a trace, the generator."""
    return attached(*_workload())(function)


def length_options(function: Any) -> Any:
    """Add those of them that say which lengths requests have."""
    return attached(*(each for each in _workload() if each.name in LENGTH_OPTIONS))(function)


def _workload() -> list[Option]:
    settings, add = all_settings(), functools.partial(Option, default=None, section="Workload")
    formats = completion.of_words(completion.trace_formats)
    scenarios = completion.of_words(completion.scenarios)
    options = [
        _option(settings["request_file"]),
        add(["--trace"], metavar="FILE", help="trace of another project, plain or gzip"),
        add(["--format"], help="format of the trace; detected without it", shell_complete=formats),
        *trace_columns(),
        add(["--drop-oversized"], is_flag=True,
            help="leave out and count requests of a file that can never finish on the node"),
        add(["--limit"], type=int, help="first so many requests of a file"),
        add(["--start"], type=float, help="skip a file's arrivals before this time"),
        add(["--rate-scale"], type=float, help="multiply a file's arrival rate"),
        _option(settings["L_filter"]),
        add(["--scenario"], help="normal | heavy | bursty  [default: normal]",
            shell_complete=scenarios),
        add(["--types"], metavar='"(p,D,rate);..."', help="Poisson streams of fixed lengths"),
        add(["--lengths"], metavar="FILE", help="lengths from this trace, arrivals generated"),
        add(["--num-requests"], type=int, help="requests to generate  [default: 100]"),
        add(["--horizon"], type=float, help="generate arrivals up to this time instead"),
        add(["--arrival-rate"], type=float, help="base rate  [default: that of --load]"),
        add(["--burstiness"], type=float, help="gamma shape of gaps: 1 Poisson, <1 burstier"),
        add(
            ["--rate-shape", "--profile"],
            metavar="SHAPE",
            help="multiples of the base rate over time: steps(0:0.5,1000:1.5) | "
            "sine(amplitude=0.5,period=100) | ramp(first=0.5,last=2,duration=1000)",
        ),
        *_conversation(),
        add(
            ["--load"],
            type=float,
            help="base rate = load x capacity of the instance (a file's times are stretched)  "
            "[default: 0.8, where requests are generated and no rate is given]",
        ),
        add(
            ["--scale"],
            type=int,
            help="n: rate, memory and batch budget times n, times per token divided by n",
        ),
        _option(settings["seed"]),
    ]  # fmt: skip
    return options


def _conversation() -> list[Option]:
    """Return the options that make generated requests the turns of conversations."""
    add = functools.partial(Option, default=None, section="Workload")
    return [
        add(["--turns"], type=int,
            help="requests are turns of conversations, so many in each, and repeat what was said; "
            "lengths are those of a turn"),
        add(["--think-time"], type=float, help="mean time from an answer to the next turn"),
        add(["--answer-token-time"], type=float,
            help="time per token until an answer is there, where turns follow  [default: 0]"),
        add(["--sessions"], type=int,
            help="conversations at a time, on average; sets the rate"),
        add(["--system-prompts"], type=int,
            help="begin each conversation with one of so many prompts"),
        add(["--system-prompt-length"], type=int, help="their length [tokens]"),
        add(["--closed-loop"], is_flag=True,
            help="a turn is sent when the engine has answered the one before (engine vllm_v1): of "
            "--sessions so many clients, or of the sessions of a file"),
    ]  # fmt: skip


def trace_columns() -> list[Option]:
    """Return the options that say what the columns of a trace are."""
    add = functools.partial(Option, default=None, section="Workload")
    return [
        add(["--columns"], metavar="arrival=NAME,prompt=NAME,output=NAME",
            help="columns of a trace of no known format"),
        add(["--trace-time-unit"], metavar="s|ms|us|ns",
            help="unit of a trace's arrival times, where the one it is told to have is wrong"),
        add(["--hash-block-size"], type=int,
            help="tokens per entry of a trace's hash_ids  [default: 512, or what fits]"),
    ]  # fmt: skip


def run_options(function: Any) -> Any:
    """Add ``--out`` and whether progress is told."""
    return attached(*(_option(all_settings()[key]) for key in ("output_dir", "verbose")))(function)


def progress_option(function: Any) -> Any:
    """Add ``--progress-interval``, for what goes batch by batch."""
    return attached(_option(all_settings()["progress_interval"]))(function)


def goodput_option(function: Any) -> Any:
    """Add ``--goodput``, which may be given several times."""
    option = Option(
        ["--goodput"], multiple=True, metavar="LATENCY:THRESHOLD",
        help="count requests that meet this, such as ttft:2 or ttft_ms:2000; repeatable",
    )  # fmt: skip
    return attached(option)(function)


def config_flags(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration keys among the parameters of a command that were given."""
    given = {key: params.get(key) for key in (*all_settings(), D_1.key)}
    return {
        key: None if value is NULL else value for key, value in given.items() if value is not None
    }
