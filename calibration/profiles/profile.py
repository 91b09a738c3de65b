"""A profile describes a model on a card: measured where a measurement exists, else estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from calibration.profiles.estimate import UTILIZATION, estimated_kv_capacity, estimated_law
from calibration.profiles.kv_memory import GIB, kv_memory
from calibration.profiles.names import gpu_key, model_key, resolve
from calibration.profiles.server import FIRST_V1, Server, version_numbers
from calibration.profiles.serving_defaults import (
    Served,
    server_of,
    serving_defaults,
)
from calibration.profiles.tables import (
    Law,
    Measurement,
    Wall,
    gpus,
    measured,
    models,
    roofline,
    server_memory,
)
from serving import DEFAULT_KIND, ConfigError, FluidServeError, Kind
from serving.arguments import checked

TESTED_REQUESTS = 256
"""Requests of the largest measured batch that estimated laws are held against."""

MOST_CARDS = 64
"""Largest number of cards that a model is divided over."""

TIME_UNITS = {"s": 1e-3, "ms": 1.0}
"""One millisecond in each time unit that a configuration with a profile can have."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile holds the batch-time law and the KV capacity of a model on ``tp`` cards.

    Parameters
    ----------
    model, hardware, tp
        Canonical names, and over how many cards the model is divided.
    origin
        ``measured`` or ``estimated``.
    law
        Batch-time law in ms.
    kv_capacity, kv_capacity_origin
        KV cache [tokens], and whether it was measured or estimated.
    kv_capacity_error
        Share by which an estimated KV capacity may be off; None of a measured one.
    server
        Settings of the server that has this KV capacity; None for an engine without them.
    gpu_memory_utilization
        Share of a card's memory that the server takes, where somebody said it.
    expected_error
        Relative error of the law by regime: held out where measured, of estimates of cards left
        out where estimated.
    basis
        Measurement or computation behind the law, and its range.
    source, licence, date
        Origin of the figures.
    wall
        Bias against batches timed on a running server, where there are some.
    most_requests
        Requests in the largest batch that was measured or, of an estimated law, in the largest that
        estimates were held against.
    """

    model: str
    hardware: str
    tp: int
    origin: str
    law: Law
    kv_capacity: int
    kv_capacity_origin: str
    expected_error: dict[str, Any]
    basis: str
    source: str
    licence: str
    date: str
    wall: Wall | None = None
    most_requests: int | None = None
    kv_capacity_error: float | None = None
    server: Server | None = None
    gpu_memory_utilization: float | None = None

    @property
    def usable(self) -> int:
        """KV that requests can hold [tokens]: V1 sets one block of its cache aside."""
        if self.server is None or version_numbers(self.server.vllm_version) < FIRST_V1:
            return self.kv_capacity
        return self.kv_capacity - self.server.block_size

    def served_by(self, server: Server) -> Profile:
        """Return the profile with the KV capacity of a server with other settings.

        It is measured where a server with these settings was, of a version that divides memory in
        the same way; else it is estimated.

        Raises
        ------
        FluidServeError
            If the weights leave no memory for KV.
        """
        known, sizes = measured().get((self.model, self.hardware, self.tp)), server_memory()
        for each in () if known is None else known.servers:
            if sizes.are_alike(each.server, server):
                return replace(
                    self, server=server, kv_capacity=each.num_gpu_blocks * server.block_size,
                    kv_capacity_origin="measured", kv_capacity_error=None,
                )  # fmt: skip
        shape, gpu = models()[self.model], gpus()[self.hardware]
        found = kv_memory(shape, gpu, self.tp, server, sizes)
        return replace(
            self, server=server, kv_capacity=found.tokens,
            kv_capacity_origin="estimated", kv_capacity_error=found.relative_error,
        )  # fmt: skip

    def settings(self, kind: Kind, given: Mapping[str, Any]) -> dict[str, Served]:
        """Return the settings that a server has under this profile where nobody said them.

        They are those of vLLM's defaults on the card that an engine of this kind has; none for a
        kind that is of no version of vLLM.

        Parameters
        ----------
        kind
            Kind of engine.
        given
            Settings that somebody said, ``vllm_version`` among them.
        """
        if "vllm_version" not in {item.name for item in fields(kind.settings)}:
            return {}
        said = {**given, "gpu_memory_utilization": self.gpu_memory_utilization}
        found = serving_defaults(self.hardware, given["vllm_version"], said)
        if "swap_space" in found and "num_cpu_blocks" not in found:
            size = found["block_size"].value * models()[self.model].kv_bytes(self.tp)
            blocks = int(found["swap_space"].value * GIB // size)
            found["num_cpu_blocks"] = Served(blocks, found["swap_space"].origin)
        return found

    def of_kind(self, kind: Kind, given: Mapping[str, Any]) -> Profile:
        """Return the profile with the KV capacity that a server of this kind and settings has."""
        settings = self.settings(kind, given)
        if not settings:
            return self
        return self.served_by(server_of(settings, given["vllm_version"]))

    def config(
        self,
        time_unit: str = "s",
        kind: Kind = DEFAULT_KIND,
        given: Mapping[str, Any] | None = None,
        named: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the configuration keys of an instance with this profile.

        Parameters
        ----------
        time_unit
            ``s`` or ``ms``.
        kind
            Kind of engine: it says which coefficients of the law its batches spend, and which
            settings give it the KV capacity. A kind that is of a version of vLLM gets the defaults
            of ``vllm serve`` on the card as well.
        given
            The other settings of the instance, on which its KV capacity may depend.
        named
            Those of them that somebody said.

        Raises
        ------
        ConfigError
            If the time unit is none: a profile's times are real ones.
        FluidServeError
            If ``gpu_memory_utilization`` and the KV capacity itself were both said.
        """
        if time_unit not in TIME_UNITS:
            raise ConfigError("time_unit", time_unit, "s | ms (a profile has real times)")
        law = self.law.batch_time(TIME_UNITS[time_unit])
        settings = dict(given or {})
        said = {key: settings[key] for key in named or {} if key in settings}
        own = {item.name for item in fields(kind.settings)}
        if "vllm_version" in own:
            said.setdefault("vllm_version", settings.get("vllm_version"))
        served = {key: each.value for key, each in self.settings(kind, said).items() if key in own}
        settings |= served
        found = self.of_kind(kind, said)
        capacity = dict(kind.kv_keys(found.usable, settings))
        twice = kind.kv_keys(2 * found.usable, settings)
        _refuse_what_no_profile_knows(settings, self, capacity.keys() <= said.keys())
        both = [key for key in capacity if key in said and capacity[key] != twice[key]]
        if both and self.gpu_memory_utilization is not None:
            raise FluidServeError(
                f"--gpu-memory-utilization {self.gpu_memory_utilization:g} and {both[0]} = "
                f"{said[both[0]]} both set the KV capacity; give one of them"
            )
        return {
            "time_unit": time_unit,
            **served,
            **capacity,
            **kind.law_values(replace(law, measured_requests=self.most_requests)),
        }

    def said(self) -> str:
        """Return a description of the profile in one line."""
        error = self.expected_error["decode"]
        off = self.kv_capacity_error
        within = "" if off is None else f" within {100 * off:.2g} %{self._untested}"
        return (
            f"{self.model} on {self.tp} x {self.hardware}: {self.origin} ({self.basis}); decode "
            f"batch times within {100 * error:.1f} % on average; KV cache {self.kv_capacity} "
            f"tokens ({self.kv_capacity_origin}{within})"
        )

    @property
    def _untested(self) -> str:
        """Words for an estimate beyond the servers that estimates were held against."""
        most = server_memory().most_requests
        many = self.server is not None and self.server.max_num_seqs > most
        return f", tested up to {most} requests" if many else ""


def _refuse_what_no_profile_knows(
    settings: Mapping[str, Any], profile: Profile, capacity_is_given: bool
) -> None:
    """Refuse settings under which law and memory of a profile are those of another server."""
    method = settings.get("speculative_method")
    if settings.get("num_speculative_tokens") and method != "ngram" and not capacity_is_given:
        raise ConfigError(
            "speculative_method", method,
            "ngram, or num_gpu_blocks beside it: the memory of a draft model is not known",
        )  # fmt: skip
    stages = settings.get("pipeline_parallel_size") or 1
    if stages > 1:
        raise ConfigError(
            "pipeline_parallel_size", stages,
            f"1 with --model {profile.model}: the law of a profile is that of cards without stages",
        )  # fmt: skip


@checked()
def find(
    model: str, hardware: str, tp: int = 1, *, gpu_memory_utilization: float | None = None
) -> Profile:
    """Return the profile of a model on a card.

    Parameters
    ----------
    model, hardware
        In any of their spellings; a tuned variant means its base.
    tp
        Cards over which the model is divided.
    gpu_memory_utilization
        Share of a card's memory that the server takes, for KV capacities that were not measured;
        None is 0.9 or, for an engine of a version of vLLM, its default.

    Raises
    ------
    FluidServeError
        For an unknown name, saying what exists; for a number of cards over which the model does
        not divide, saying which do; or for weights that do not fit.
    """
    if not isinstance(tp, int) or not 1 <= tp <= MOST_CARDS:
        raise ConfigError("tp", tp, f"a whole number >= 1 and <= {MOST_CARDS}")
    share = UTILIZATION if gpu_memory_utilization is None else gpu_memory_utilization
    if not 0 < share <= 1:
        raise ConfigError("gpu_memory_utilization", share, "a number > 0 and <= 1")
    name = resolve(model, models(), model_key, "--model")
    card = resolve(hardware, gpus(), gpu_key, "--hardware")
    shape, gpu, base = models()[name], gpus()[card], roofline()
    if not shape.divides_over(tp):
        allowed = [str(n) for n in range(1, MOST_CARDS + 1) if shape.divides_over(n)]
        raise FluidServeError(
            f"--tp {tp}: the {shape.heads} heads and {shape.kv_heads} KV heads of {name} do not "
            f"divide over {tp} cards, so no server starts; allowed: {' | '.join(allowed)}"
        )
    known: Measurement | None = measured().get((name, card, tp))
    logged = known.kv_capacity if known is not None and share == UTILIZATION else None
    common: dict[str, Any] = {
        "model": name, "hardware": card, "tp": tp,
        "gpu_memory_utilization": gpu_memory_utilization,
        "kv_capacity": logged or estimated_kv_capacity(shape, gpu, tp, base, share),
        "kv_capacity_origin": "measured" if logged else "estimated",
        "kv_capacity_error": None if logged else base.error["kv_capacity_worst"],
    }  # fmt: skip
    if known is None:
        error = dict(base.error)
        if shape.experts is not None:
            error["decode"] = error["mixture"]
        return Profile(
            **common,
            origin="estimated",
            law=estimated_law(shape, gpu, tp, base),
            expected_error=error,
            basis="roofline of data sheet and model shape",
            source=base.source,
            most_requests=TESTED_REQUESTS,
            licence="none: computed",
            date=base.date,
        )
    return Profile(
        **common,
        origin="measured",
        law=known.law,
        expected_error={regime: each.error for regime, each in known.fit.items()},
        basis=f"{known.measured}, {known.range}",
        source=known.source,
        licence=known.licence,
        date=known.date,
        wall=known.wall,
        most_requests=known.most_requests,
    )


def served(profile: Profile, vllm_version: str, max_model_len: int | None = None) -> dict[str, Any]:
    """Return what ``vllm serve`` starts with under a profile, for people and programs.

    Parameters
    ----------
    profile
        Of a model on a card.
    vllm_version, max_model_len
        Of the server; V0 has defaults that follow the longest context.

    Raises
    ------
    FluidServeError
        If the weights leave no memory for KV.
    """
    said = {
        "gpu_memory_utilization": profile.gpu_memory_utilization, "max_model_len": max_model_len,
    }  # fmt: skip
    settings = serving_defaults(profile.hardware, vllm_version, said)
    found = profile.served_by(server_of(settings, vllm_version))
    assert found.server is not None
    shape, gpu = models()[profile.model], gpus()[profile.hardware]
    parts = asdict(kv_memory(shape, gpu, profile.tp, found.server, server_memory()))
    return {
        "vllm_version": vllm_version,
        "settings": {key: asdict(each) for key, each in settings.items()},
        "num_gpu_blocks": found.kv_capacity // found.server.block_size,
        "kv_capacity": found.kv_capacity,
        "kv_capacity_origin": found.kv_capacity_origin,
        "kv_capacity_error": found.kv_capacity_error,
        "memory_gib": {
            key: parts[key]
            for key in ("usable", "weights", "fixed", "activations", "sampler", "graphs")
        },
    }


def listing() -> list[dict[str, Any]]:
    """Return the main figures of every measured profile."""
    return [
        {
            "model": model, "hardware": card, "tp": tp, "origin": "measured",
            "measured": each.measured, "date": each.date, "kv_capacity": each.kv_capacity,
            "mape": {regime: fit.error for regime, fit in each.fit.items()},
        }
        for (model, card, tp), each in measured().items()
    ]  # fmt: skip
