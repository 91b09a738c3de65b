"""What is asked: requests, on an instance, for so long, from a seed. Every study starts from here.

A question bundles what engines and fluid models need, and works out once what it implies: the mix,
the expected arrivals, the capacity. ``question.replication(k)`` is the k-th draw of its requests;
``question.on(instance)``, ``at_load(x)``, ``at_rate(r)`` and ``scaled(n)`` are the same question of
something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from serving import (
    ConfigError,
    FluidServeError,
    Instance,
    RateProfile,
    RequestMix,
    RequestTable,
    UnsupportedError,
    WorkloadError,
    check_fits,
    kind_of,
)
from serving.arguments import check_fields, checked
from workload import Workload, copied, replicated, replication_seed

if TYPE_CHECKING:
    from ode.error_model.capacity import CapacityError

Source = Workload | RequestTable
"""A workload to draw from, or requests whose arrival times stay."""

DRAWN = ("source", "num_requests", "horizon", "seed")
"""Fields that the first draw and the expected arrivals depend on."""


PER_PIECE, MOST_PIECES = 25, 400
"""Arrivals of a piece between which the dispersion of requests is measured, and pieces at most."""


@dataclass(frozen=True, eq=False)
class Question:
    """Requests on an instance.

    Parameters
    ----------
    source
        A workload, of which every replication is a draw of its own; or requests, whose arrival
        times stay while their other columns are dealt out anew in every replication but the first.
    instance
        What serves them.
    num_requests, horizon
        How far a workload is drawn: so many requests, or up to a time. Neither, for a steady
        stream whose equilibrium is asked for. Of a file, ``horizon`` may say where its observation
        ends.
    seed
        Whole number >= 0, from which every replication has its own; see :meth:`replication`.

    Raises
    ------
    ConfigError
        If ``num_requests`` is given beside requests or beside ``horizon``, or the seed or the
        horizon is not allowed.
    """

    source: Source
    instance: Instance
    num_requests: int | None = None
    horizon: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        check_fields(self, seed=">= 0")
        if self.horizon is not None and not 0 < self.horizon < math.inf:
            raise ConfigError("horizon", self.horizon, "a finite time > 0")
        if self.is_file and self.num_requests is not None:
            allowed = "not given beside a file of requests"
            raise ConfigError("num_requests", self.num_requests, allowed)
        if self.num_requests is not None and self.horizon is not None:
            raise ConfigError("num_requests", self.num_requests, "not given beside a horizon")

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: what a question implies is worked out anew elsewhere."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def is_file(self) -> bool:
        """Whether the source is requests rather than a workload to draw from."""
        return isinstance(self.source, RequestTable)

    @property
    def stream(self) -> Workload:
        """The workload that is drawn from.

        Raises
        ------
        UnsupportedError
            If the source is requests.
        """
        if isinstance(self.source, RequestTable):
            raise UnsupportedError("a file of requests ends; this needs a stream to draw from")
        return self.source

    @cached_property
    def requests(self) -> RequestTable:
        """The requests of the first replication; each of them fits the instance."""
        table = self.replication(0)
        assert table is not None
        check_fits(table, self.instance)
        return table

    @property
    def size(self) -> int:
        """Requests of the first replication."""
        if isinstance(self.source, RequestTable):
            return len(self.source)
        return len(self.requests) if self.num_requests is None else int(self.num_requests)

    @checked(number=">= 0")
    def replication(self, number: int) -> RequestTable | None:
        """Return the requests of a replication, a function of its number alone.

        Parameters
        ----------
        number
            From 0 on. The first replication is the draw of the seed itself, or the file as it is.

        Returns
        -------
        RequestTable or None
            None where a later draw of the same workload happens to hold nobody.
        """
        seed = replication_seed(self.seed, number)
        if isinstance(self.source, RequestTable):
            if number == 0:
                return self.source
            self._refuse_another_order(self.source)
            return self.source.with_lengths_permuted(np.random.default_rng(seed))
        try:
            return self.source.sample(seed, num_requests=self.num_requests, horizon=self.horizon)
        except WorkloadError:
            if number == 0:
                raise
            return None

    def _refuse_another_order(self, requests: RequestTable) -> None:
        """Refuse to deal out anew requests of which one repeats what another said before.

        Raises
        ------
        UnsupportedError
            If the instance looks at what requests consist of, and the file says it.
        """
        if requests.contents is not None and kind_of(self.instance).reads_contents:
            raise UnsupportedError(
                "the requests of this file repeat each other in their order, which a further "
                "replication would change; ask for one replication"
            )

    @cached_property
    def mix(self) -> RequestMix:
        """Exact mix of a workload, empirical mix of requests."""
        return self.source.mix() if isinstance(self.source, RequestTable) else self.source.mix

    @property
    def longest_decode(self) -> int:
        """Largest D [tokens]."""
        if isinstance(self.source, RequestTable):
            return int(self.source.decode_length.max())
        return self.mix.longest_decode

    @property
    def end(self) -> float:
        """End of arrivals [time]: the horizon that was asked for, or the last arrival."""
        return self.requests.horizon if self.horizon is None else self.horizon

    @property
    def waits(self) -> bool:
        """Whether requests wait for the answers to others, so that their times are not given."""
        if isinstance(self.source, RequestTable):
            return self.source.has_sessions
        return self.source.waits

    @property
    def known_rate(self) -> float:
        """Mean arrival rate [requests/time], for who cannot do without one.

        Raises
        ------
        UnsupportedError
            If requests wait for the answers to others.
        """
        if self.waits:
            raise UnsupportedError(
                "requests that wait for answers have no rate of their own; simulate tells it"
            )
        return self.mean_rate

    @cached_property
    def profile(self) -> RateProfile:
        """Expected arrivals of a workload up to its end, or the requests' own cumulative curve.

        Raises
        ------
        FluidServeError
            If requests wait for the answers to others.
        """
        if isinstance(self.source, RequestTable):
            self.source.refuse_sessions("the expected number of arrivals over time")
            return RateProfile.from_arrivals(self.source.arrival_time, self.horizon)
        return self.source.profile(self.end)

    @cached_property
    def capacity(self) -> float:
        """lambda_M [requests/time]; NaN where no fluid model answers for the instance."""
        from fluid import capacity

        try:
            return capacity(self.mix, self.instance)
        except UnsupportedError:
            return math.nan

    @cached_property
    def capacity_error(self) -> CapacityError:
        """How far off the capacity is expected to be."""
        from ode.error_model.capacity import CapacityError, capacity_error

        if not 0 < self.capacity < math.inf:
            return CapacityError("capacity", reason="there is no capacity")
        return capacity_error(self.mix, self.instance)

    @property
    def ends(self) -> bool:
        """Whether the question says where its arrivals end."""
        return self.is_file or self.num_requests is not None or self.horizon is not None

    @property
    def mean_rate(self) -> float:
        """Mean arrival rate [requests/time]; NaN where all arrive at once, or wait for answers.

        Requests of a file count from the first arrival: whatever its clock starts at, the rate is
        the same.
        """
        if self.waits:
            return math.nan
        if isinstance(self.source, RequestTable):
            lasts = self.end - float(self.source.arrival_time[0])
            return len(self.source) / lasts if lasts > 0 else math.nan
        if not self.ends:
            return self.stream.mean_rate
        return self.profile.mean_rate if self.end > 0 else math.nan

    @cached_property
    def dispersion(self) -> float:
        """Variance of the number of arrivals in a long time over its mean: 1 for Poisson arrivals.

        Of requests it is measured between pieces of :data:`PER_PIECE` arrivals; where these are too
        few to tell, 1. Of a workload it is that of its draws; changes of its rate are not in it.
        """
        if not isinstance(self.source, RequestTable):
            return self.source.dispersion
        if self.waits:
            return math.nan
        pieces = min(MOST_PIECES, len(self.source) // PER_PIECE)
        if pieces < 2 or not self.end > 0:
            return 1.0
        found = self.profile.scatter([0.0, self.end], pieces)
        return found if abs(found - 1.0) > 2.0 * math.sqrt(2.0 / (pieces - 1)) else 1.0

    @property
    def load(self) -> float:
        """Mean arrival rate over capacity; infinite for an instance too slow to have one."""
        return self.mean_rate / self.capacity if self.capacity != 0 else math.inf

    def on(self, instance: Instance) -> Question:
        """Return the same requests asked of another instance."""
        return self._changed(instance=instance)

    @checked()
    def until(self, horizon: float) -> Question:
        """Return the question with arrivals up to ``horizon`` [time]."""
        return self._changed(num_requests=None, horizon=horizon)

    @checked()
    def of_requests(self, number: int) -> Question:
        """Return the question with ``number`` requests in every replication."""
        return self._changed(num_requests=number, horizon=None)

    @checked()
    def at_rate(self, rate: float) -> Question:
        """Return the question at a base rate of its workload [requests/time].

        A file is stretched to this mean rate, its gaps and its horizon in proportion.

        Raises
        ------
        FluidServeError
            If all requests of a file arrive at one time.
        """
        if not isinstance(self.source, RequestTable):
            return self._changed(source=self.source.at_rate(rate))
        lasts = self.source.horizon - float(self.source.arrival_time[0])
        if lasts <= 0:
            raise FluidServeError("all requests arrive at one time, which is no rate to change")
        factor = len(self.source) / lasts / rate
        end = None if self.horizon is None else self.horizon * factor
        return self._changed(source=self.source.stretched(factor), horizon=end)

    @checked()
    def at_load(self, load: float) -> Question:
        """Return the question at a base rate of ``load`` times the capacity of the instance.

        Raises
        ------
        UnsupportedError
            If no fluid model knows the capacity.
        """
        from fluid import capacity

        return self.at_rate(load * capacity(self.mix, self.instance))

    @checked()
    def scaled(self, n: int) -> Question:
        """Return the question of an instance ``n`` times as large under ``n`` times the arrivals.

        Of a file, each arrival becomes ``n`` with lengths drawn anew from the file; or ``n`` copies
        of the request, where the engine looks at what requests have in common.
        """
        if isinstance(self.source, RequestTable):
            repeats = self.source.contents is not None and kind_of(self.instance).reads_contents
            source: Source = (
                copied(self.source, n) if repeats else replicated(self.source, n, self.seed)
            )
        else:
            source = self.source.scaled(n)
        return self._changed(source=source, instance=self.instance.scaled(n))

    def _changed(self, **changes: Any) -> Question:
        """Return a question with other fields, and what it shares with this one worked out."""
        other = replace(self, **changes)
        known = self.__dict__
        if "mix" in known and (other.source is self.source or other._has_mix_of(self)):
            other.__dict__["mix"] = known["mix"]
            if "capacity" in known and other.instance is self.instance:
                other.__dict__["capacity"] = known["capacity"]
        if all(getattr(other, x) == getattr(self, x) for x in DRAWN):
            if "requests" in known:
                check_fits(known["requests"], other.instance)
                other.__dict__["requests"] = known["requests"]
            if "profile" in known:
                other.__dict__["profile"] = known["profile"]
        return other

    def _has_mix_of(self, other: Question) -> bool:
        """Return whether the lengths are those of another question."""
        mine, others = self.source, other.source
        if isinstance(mine, RequestTable) and isinstance(others, RequestTable):
            return mine.decode_length is others.decode_length
        return getattr(mine, "mix", self) is getattr(others, "mix", other)
