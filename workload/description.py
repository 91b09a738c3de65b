"""Describe a workload apart from any single draw of its requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving import (
    ConfigError,
    RateProfile,
    RequestMix,
    RequestTable,
    UnsupportedError,
    WorkloadError,
)
from serving.arguments import check_fields, checked
from workload.arrivals import crossing_times, profile_reaching, unit_renewals
from workload.conversations import Conversations
from workload.lengths import no_longer_than, picked, restricted
from workload.rate_shape import Constant, RateShape

MOST_REQUESTS = 10**9

SLOWEST = 1e-250
"""Rate [requests/time] down to which the arrival times of so many requests are numbers."""

"""In one table: some 50 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A stream of requests: what the fluid model takes exactly and the engine takes draws of.

    Parameters
    ----------
    mix
        Exact joint distribution of (p, D).
    rate : [requests/time]
        Base arrival rate, which ``shape`` multiplies over time.
    shape
        Multiple of ``rate`` over time.
    burstiness
        Shape of the gamma gaps between arrivals in the clock of expected arrivals: 1 Poisson,
        below 1 burstier, above 1 more regular.
    class_names
        One per class index of ``mix``.
    conversations
        What requests say and repeat, where they are turns of conversations or begin with a system
        prompt; ``mix`` is then what follows from it. Arrivals of turns cluster, and ``rate`` is
        that of all of them.

    Raises
    ------
    ConfigError
        If ``rate`` or ``burstiness`` is not a finite number above 0, or ``rate`` is below
        :data:`SLOWEST`.
    """

    mix: RequestMix
    rate: float
    shape: RateShape = Constant()  # noqa: RUF009 (frozen)
    burstiness: float = 1.0
    class_names: tuple[str, ...] = ()
    conversations: Conversations | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _positive("arrival_rate", self.rate)
        if self.rate < SLOWEST:
            raise ConfigError("arrival_rate", self.rate, f"a finite number >= {SLOWEST:g}")
        _positive("burstiness", self.burstiness)
        if self._turns > 1 and not isinstance(self.shape, Constant):
            raise ConfigError("rate_shape", self.shape, "a constant rate beside turns above 1")

    @property
    def _turns(self) -> int:
        """Requests that come one after another because of one arrival."""
        return 1 if self.conversations is None else self.conversations.turns

    @property
    def waits(self) -> bool:
        """Whether requests come when others have been answered, so that no rate is known."""
        return self.conversations is not None and self.conversations.waits

    @checked()
    def profile(self, horizon: float) -> RateProfile:
        """Return the expected arrivals over [0, horizon] [time].

        Raises
        ------
        UnsupportedError
            If requests come when others have been answered.
        """
        self._need_times()
        return self._profile(horizon)

    def _need_times(self) -> None:
        if self.waits:
            raise UnsupportedError(
                "requests that wait for answers have no times of their own; an engine tells them"
            )

    def _profile(self, horizon: float) -> RateProfile:
        _positive("horizon", horizon)
        return replace(self.shape.profile(self.rate, horizon), dispersion=self.dispersion)

    @checked()
    def at_rate(self, rate: float) -> Workload:
        """Return the workload with base ``rate`` [requests/time], its times unchanged.

        Raises
        ------
        UnsupportedError
            If so many clients wait for answers, and nobody else comes.
        """
        if self.waits and self.conversations is not None and self.conversations.clients:
            raise UnsupportedError("clients that wait for answers have no rate that can be set")
        return replace(self, rate=rate)

    @property
    def dispersion(self) -> float:
        """Variance of the number of arrivals in a long time over its mean: 1 for Poisson."""
        return self._turns / self.burstiness

    @property
    def mean_rate(self) -> float:
        """Mean arrival rate [requests/time] of a steady stream, over its period if it has one.

        Raises
        ------
        UnsupportedError
            If requests come when others have been answered.
        """
        self._need_times()
        return self.rate * self._mean_factor

    @checked()
    def at_mean_rate(self, rate: float) -> Workload:
        """Return a steady stream at a mean arrival rate [requests/time], its draws stretched."""
        return self.at_rate(rate / self._mean_factor)

    @property
    def _mean_factor(self) -> float:
        horizon = self.shape.period or 1.0
        return self.shape.profile(1.0, horizon).total / horizon

    def check_steady(self) -> None:
        """Refuse a stream that has no steady state.

        Raises
        ------
        ConfigError
            If the rate goes on changing or ends.
        """
        if not self.shape.is_steady:
            raise ConfigError("rate_shape", self.shape, "a constant or periodic rate")

    @checked()
    def scaled(self, n: float) -> Workload:
        """Return the workload with ``n`` times the rate."""
        _positive("scale", n)
        return replace(self, rate=n * self.rate)

    @checked()
    def stretched(self, factor: float) -> Workload:
        """Return the workload with time multiplied by ``factor`` (its rate divided by it)."""
        _positive("stretch", factor)
        talk = None if self.conversations is None else self.conversations.stretched(factor)
        shape = self.shape.stretched(factor)
        return replace(self, rate=self.rate / factor, shape=shape, conversations=talk)

    @checked()
    def filtered(self, L_filter: int | None) -> Workload:
        """Return the workload without requests of D > ``L_filter`` [tokens], its rate thinned."""
        if L_filter is None:
            return self
        self._refuse_gaps("L_filter", L_filter)
        mix, share = restricted(self.mix, L_filter)
        return replace(self, mix=mix, rate=self.rate * share)

    def fitting(self, tokens: float) -> Workload:
        """Return the workload without requests of p + D > ``tokens``, its rate thinned."""
        if (self.mix.prefill + self.mix.decode).max() <= tokens and self._turns == 1:
            return self
        self._refuse_gaps("drop_oversized", True)
        mix, share = no_longer_than(self.mix, tokens)
        return replace(self, mix=mix, rate=self.rate * share)

    def _refuse_gaps(self, key: str, value: object) -> None:
        """Refuse to leave out requests whose tokens others repeat."""
        if self.conversations is not None:
            allowed = "not beside turns or system_prompts, whose requests repeat each other"
            raise ConfigError(key, value, allowed)

    @checked()
    def sample(
        self,
        seed: int | np.random.SeedSequence = 42,
        *,
        num_requests: int | None = None,
        horizon: float | None = None,
    ) -> RequestTable:
        """Return one draw; equal arguments give equal bytes.

        Arrivals and lengths come from separate streams of ``seed``, so a longer draw at the
        same rate begins with the shorter one.

        Parameters
        ----------
        seed
            Whole number >= 0, or a NumPy seed sequence.
        num_requests
            Stop after so many arrivals.
        horizon : [time]
            Stop after this time. Exactly one of the two is given.

        Raises
        ------
        ConfigError
            If ``num_requests`` or ``horizon`` is not above 0.
        WorkloadError
            If both or neither are given, no request arrives by ``horizon``, or the rate profile
            ends before ``num_requests``.
        """
        if (num_requests is None) == (horizon is None):
            raise WorkloadError("a sample needs either num_requests or horizon")
        streams = _streams(seed, 5)
        arrival_rng, length_rng = (
            np.random.Generator(np.random.PCG64(each)) for each in streams[:2]
        )
        begin = replace(self, rate=self.rate / self._turns)
        if self.waits and num_requests is None:
            raise ConfigError("horizon", horizon, "not given beside closed_loop; give num_requests")
        if num_requests is not None:
            if num_requests != int(num_requests) or not 1 <= num_requests <= MOST_REQUESTS:
                allowed = f"a whole number >= 1 and <= {MOST_REQUESTS}"
                raise ConfigError("num_requests", num_requests, allowed)
            size = int(num_requests)
            points = unit_renewals(arrival_rng, self.burstiness, lambda u: u.size >= size)[:size]
            guess = max(points[-1], 1e-6) / begin.rate
            profile = profile_reaching(begin._profile, points[-1], guess)
        else:
            profile = begin._profile(float(horizon))  # type: ignore[arg-type]
            _not_too_many(profile.total * self._turns)
            points = unit_renewals(arrival_rng, self.burstiness, lambda u: u[-1] > profile.total)
            points = points[points <= profile.total]
            if points.size == 0 and self._turns == 1:
                raise WorkloadError(f"no request arrives by time {horizon:g}")
        talk = self.conversations
        if talk is not None and talk.waits:
            from workload.closed_loop import drawn_waiting

            starts = None if talk.clients else crossing_times(profile, points)
            return drawn_waiting(talk, starts, streams[1:4], len(points))
        if talk is not None:
            return talk.drawn(
                crossing_times(profile, points), self.rate, streams[1:], most=num_requests,
                horizon=math.inf if horizon is None else horizon,
            )  # fmt: skip
        return self._table(
            crossing_times(profile, points),
            picked(self.mix.probability, length_rng.random(points.size)),
        )

    def _table(self, arrival: NDArray[np.float64], atom: NDArray[np.int64]) -> RequestTable:
        """Return requests of some atoms of the mix, by their arrival times."""
        prefill = self.mix.prefill[atom]
        if (prefill != np.floor(prefill)).any():
            raise WorkloadError("this mix holds mean prefill lengths and cannot be drawn from")
        return RequestTable.validated(
            arrival,
            prefill,
            self.mix.decode[atom],
            request_class=self.mix.request_class[atom],
        )

    @checked(horizon="> 0", apart="> 0")
    def sample_apart(
        self, seeds: Sequence[int | np.random.SeedSequence], horizon: float, apart: float
    ) -> tuple[RequestTable, NDArray[np.int64]]:
        """Return several draws one after another in one table: the arrivals of each start anew.

        Parameters
        ----------
        seeds
            Of the draws; each holds the requests that :meth:`sample` gives for its seed.
        horizon : [time]
            End of each draw.
        apart : [time]
            From the start of a draw to that of the next, longer than the horizon.

        Returns
        -------
        RequestTable, array of shape (len(seeds) + 1,)
            The requests, and the rows between which each draw is.

        Raises
        ------
        WorkloadError, UnsupportedError
            If no request arrives in any draw; for conversations, which have their own numbers.
        """
        if self.conversations is not None:
            raise UnsupportedError("draws of conversations do not go into one table")
        profile = self._profile(horizon)
        _not_too_many(profile.total * len(seeds))
        counts, atoms = [], []
        for seed in seeds:
            arrival_rng, length_rng = (
                np.random.Generator(np.random.PCG64(each)) for each in _streams(seed)
            )
            points = unit_renewals(arrival_rng, self.burstiness, lambda u: u[-1] > profile.total)
            counts.append(points[points <= profile.total])
            atoms.append(length_rng.random(counts[-1].size))
        sizes = np.array([each.size for each in counts])
        arrival = crossing_times(profile, np.concatenate(counts))
        arrival += np.repeat(apart * np.arange(len(seeds)), sizes)
        atom = picked(self.mix.probability, np.concatenate(atoms))
        return self._table(arrival, atom), np.append(0, np.cumsum(sizes))


def replication_seed(seed: int, replication: int) -> int | np.random.SeedSequence:
    """Return the seed of a replication: the first has ``seed`` itself, the k-th its k-th child.

    Every study draws by this rule, so that the first replication of a comparison is the run that a
    simulation with the same seed shows.
    """
    if replication == 0:
        return seed
    return np.random.SeedSequence(seed, spawn_key=(replication,))


def replicated(
    requests: RequestTable, n: int, seed: int | np.random.SeedSequence = 42
) -> RequestTable:
    """Return a table in which each arrival becomes ``n`` with lengths redrawn from the table.

    This is how a file is scaled: the arrival curve is multiplied by n exactly, the mix stays.
    With n = 1 the table is returned as it is.

    Raises
    ------
    ConfigError
        If ``n`` is not a whole number >= 1.
    """
    _check_copies(requests, n)
    if n == 1:
        return requests
    rng = np.random.Generator(np.random.PCG64(_streams(seed)[1]))
    rows = rng.integers(len(requests), size=len(requests) * int(n))
    return requests.redrawn(rows, np.repeat(requests.arrival_time, int(n)))


def copied(requests: RequestTable, n: int) -> RequestTable:
    """Return a table in which each request comes ``n`` times, in ``n`` worlds that share nothing.

    This is how a file is scaled whose requests repeat each other: each world repeats itself as the
    file does, and no copy repeats another.

    Raises
    ------
    ConfigError
        If ``n`` is not a whole number >= 1.
    """
    _check_copies(requests, n)
    rows = np.repeat(np.arange(len(requests)), int(n))
    table = requests.take(rows)
    world = np.tile(np.arange(int(n)), len(requests))
    session = np.where(table.session < 0, table.session, table.session * int(n) + world)
    contents = None if table.contents is None else table.contents.apart(world)
    return replace(table, session=session, contents=contents)


def _check_copies(requests: RequestTable, n: int) -> None:
    if n != int(n) or n < 1:
        raise ConfigError("scale", n, "a whole number >= 1 for a file")
    _not_too_many(len(requests) * int(n))


def _streams(seed: int | np.random.SeedSequence, count: int = 2) -> list[np.random.SeedSequence]:
    """Return streams, first that of arrivals and that of lengths; a given one does not change."""
    if isinstance(seed, np.random.SeedSequence):
        entropy, key = seed.entropy, tuple(seed.spawn_key)
    elif isinstance(seed, bool) or seed != int(seed) or seed < 0:
        raise ConfigError("seed", seed, "a whole number >= 0")
    else:
        entropy, key = int(seed), ()
    return [np.random.SeedSequence(entropy, spawn_key=(*key, part)) for part in range(count)]


def _not_too_many(requests: float) -> None:
    if requests > MOST_REQUESTS:
        raise WorkloadError(f"{requests:.6g} requests are too many; allowed: <= {MOST_REQUESTS}")


def _positive(key: str, value: float) -> None:
    if not (isinstance(value, int | float | np.number) and math.isfinite(value) and value > 0):
        raise ConfigError(key, value, "a finite number > 0")
