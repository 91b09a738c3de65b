"""A case of the differential tests: requests, settings by vLLM's names, and a limit of steps.

This file is read by two interpreters, the project's and the real schedulers' own, so it imports
nothing but the standard library. Times are multiples of 2**-20 s: sums of them are exact, and two
clocks that decide the same things show the same floats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

TICK = 2.0**-20
"""Every time of a case is a whole number of these [s]."""

RELEASES = {
    ("vllm_v1", "0.33"): "0.33.0",
    ("vllm_v1", "0.19"): "0.19.1",
    ("vllm_v0", "0.6.3"): "0.6.3.post1",
    ("vllm_v0", "0.5.4"): "0.5.4",
}
"""The release that stands for each engine and version."""


@dataclass
class Request:
    """One request; its number is its place in the case, and arrivals never decrease."""

    arrival: float
    prompt: int
    output: int
    priority: int = 0
    abort: float | None = None
    content: str = ""
    answer: int | None = None

    def prompt_tokens(self, number: int) -> list[int]:
        """Token ids of the prompt: the named contents, then tokens that no other request has."""
        named = [
            token(int(content), place)
            for content, length in (part.split(":") for part in self.content.split())
            for place in range(int(length))
        ]
        private = [number + 1] * max(0, self.prompt - len(named))
        return (named + private)[: self.prompt]

    def answer_token(self, place: int) -> int:
        """The token that the model says at ``place``; answers that nobody knows are alike."""
        return 0 if self.answer is None else token(self.answer, place)


@dataclass
class Case:
    """What both sides are given."""

    name: str
    engine: str
    version: str
    settings: dict[str, Any]
    requests: list[Request]
    most_steps: int = 4000
    extended: bool = False
    batch_time: dict[str, float] = field(default_factory=dict)

    @property
    def release(self) -> str:
        """The release of vLLM that this case is run on."""
        return RELEASES[self.engine, self.version]

    def get(self, key: str) -> Any:
        """Value of a setting, or the default that the differential tests use for it."""
        return self.settings.get(key, DEFAULTS[key])

    @property
    def model_length(self) -> int:
        """``max_model_len``; where it is not given, it is made not to bind."""
        if self.get("max_model_len"):
            return self.get("max_model_len")
        budget = self.get("max_num_batched_tokens")
        return 1 << 20 if self.get("enable_chunked_prefill") else budget

    @property
    def steps_in_flight(self) -> int:
        """Steps that may be scheduled before the oldest one's output is applied."""
        return self.get("pipeline_parallel_size") + bool(self.get("async_scheduling"))

    def to_json(self) -> str:
        """One line; what has its default is left out of the requests."""
        whole = dict(vars(self))
        blank = {f.name: f.default for f in fields(Request)}
        whole["requests"] = [
            {key: value for key, value in vars(one).items() if value != blank[key]}
            for one in self.requests
        ]
        return json.dumps(whole)

    @classmethod
    def from_json(cls, line: str) -> Case:
        """Read what :meth:`to_json` wrote."""
        whole = json.loads(line)
        whole["requests"] = [Request(**one) for one in whole["requests"]]
        return cls(**whole)


DEFAULTS: dict[str, Any] = {
    "block_size": 16,
    "num_gpu_blocks": 1000,
    "num_cpu_blocks": 1000,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 4096,
    "max_model_len": None,
    "enable_chunked_prefill": False,
    "preemption_mode": "recompute",
    "watermark": None,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "scheduler_reserve_full_isl": True,
    "enable_prefix_caching": False,
    "scheduling_policy": "fcfs",
    "async_scheduling": False,
    "pipeline_parallel_size": 1,
    "ignore_eos": True,
    "num_speculative_tokens": 0,
    "speculative_method": "ngram",
    "speculative_accept": (),
    "max_num_active_seqs": None,
    "prefill_schedule_interval": 1,
    "remote_prefill": False,
    "free_recompute": False,
    "kv_connector": "none",
    "cpu_gap": 0.0,
}
"""Settings of a case that are not given; a case for an engine names every one that matters."""


def token(content: int, place: int) -> int:
    """The token at ``place`` of a content: distinct for each pair, and never a private one."""
    return (content << 24) + place


def ticks(number: float) -> float:
    """Return ``number`` ticks as a time [s]."""
    return round(number) * TICK
