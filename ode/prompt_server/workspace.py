"""The arrays of a march of a server that computes its own prompts, and the march itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server import life, requests_that_fit
from fluid.prompt_server.lumps import NODES
from ode.lagrangian.layout import ROW_SIZE
from ode.prompt_server.kernel import advance
from ode.prompt_server.layout import (
    A_FROM,
    A_SLOT,
    A_UNTIL,
    ADMISSION_SIZE,
    AGE,
    BEFORE,
    BIRTH,
    COLUMNS,
    MASS,
    PIECE_SIZE,
    QUEUE,
    QUEUES,
    RESUMED,
    SLOT,
    UNLIMITED,
    WORKSPACE,
    Answer,
)
from serving import RateProfile, RequestMix, SolveError
from serving.kinds.prompt_server import PromptServer

NEGLIGIBLE = 1e-9
"""Share of the requests that fit of which less neither starts nor is preempted."""

FIRST_ROWS = 1024
"""Steps that a march keeps room for at first [steps]."""

TABLES = {
    "rows": (ROW_SIZE, 0), "admissions": (ADMISSION_SIZE, 0), "masses": (1, 1), "ends": (1, 0),
    "alive": (1, 0),
}  # fmt: skip
"""Numbers in a row of the tables that grow with the steps, and rows beyond these."""


@dataclass(frozen=True, slots=True, eq=False)
class March:
    """What a march left behind, see :mod:`ode.prompt_server.layout`.

    Parameters
    ----------
    rows, admissions
        One row per step, and per range of arrivals that began together.
    pieces
        Yields a row per piece; the last are those of who never stopped.
    ends, alive : shape (C,) [time], [requests]
        End of each decode step, and who had a token of it.
    state
        Clock at the end.
    """

    rows: NDArray[np.float64]
    admissions: NDArray[np.float64]
    pieces: Callable[[], NDArray[np.float64]]
    ends: NDArray[np.float64]
    alive: NDArray[np.float64]
    state: np.void

    @property
    def end(self) -> float:
        """Where the march ended [time]."""
        return float(self.state["now"])


class Workspace:
    """One march: tables, and the record that the compiled functions take.

    Parameters
    ----------
    mix, instance
        Lengths, and the server.
    profile
        Expected arrivals; a jump at time 0 is a queue.
    horizon, end : [time]
        End of arrivals, and of the march.
    most_steps
        Steps after which the march stops.
    """

    def __init__(
        self,
        mix: RequestMix,
        instance: PromptServer,
        profile: RateProfile,
        *,
        horizon: float,
        end: float,
        most_steps: int = UNLIMITED,
    ) -> None:
        self.lanes, self.again, prompt = _tables(mix, instance)
        self.scatter, self.parts = life(mix, instance).scatter, np.empty(NODES)
        self.knots = np.ascontiguousarray(profile.time, np.float64)
        self.cumulative = np.ascontiguousarray(profile.cumulative, np.float64)
        self.law = instance.batch_time.vector()
        self.queues = np.zeros(QUEUES, QUEUE)
        self.record = np.zeros(1, WORKSPACE)
        s, ages = self.record[0], self.lanes.shape[1]
        for name in ("kv_tokens", "reserve", "most_running", "step_tokens", "gap", "block_size",
                     "is_ahead", "prompts_apart", "swaps", "keeps_prefixes"):  # fmt: skip
            s[name] = getattr(instance, name)
        for name in ("tokens", "attention", "known", "context", "held"):
            s[f"prompt_{name}"] = getattr(prompt, name)
        s["least_again"] = 0.5 * (instance.block_size + 1)
        s["negligible"] = NEGLIGIBLE * max(requests_that_fit(mix, instance), NEGLIGIBLE)
        s["horizon"], s["end"], s["most_steps"] = horizon, end, most_steps
        s["lanes_at"], s["again_at"], s["ages"] = _at(self.lanes), _at(self.again), ages
        s["knots_at"], s["cumulative_at"] = _at(self.knots), _at(self.cumulative)
        s["knots_size"], s["law_at"] = self.knots.size, self.law.ctypes.data
        s["queues_at"], s["parts_at"] = self.queues.ctypes.data, _at(self.parts)
        s["scatter_at"] = 0 if self.scatter is None else _at(self.scatter)
        self._tables: dict[str, NDArray[np.float64]] = {}
        self._pieces = np.empty((0, PIECE_SIZE))
        self._parcels = np.empty((QUEUES, 0, COLUMNS))
        self._enlarge(FIRST_ROWS, 4 * ages + 64)

    def _enlarge(self, rows: int, parcels: int) -> None:
        """Give the tables more rows; what they hold stays."""
        s = self.record[0]
        for name, (width, more) in TABLES.items():
            table = np.zeros((rows + more, width)) if name == "masses" else np.empty((rows, width))
            if name in self._tables:
                table[: len(self._tables[name])] = self._tables[name]
            self._tables[name] = table
            s[f"{name}_at"] = table.ctypes.data
        pieces, places = np.empty((parcels, PIECE_SIZE)), np.empty((QUEUES, parcels, COLUMNS))
        pieces[: len(self._pieces)] = self._pieces
        places[:, : self._parcels.shape[1]] = self._parcels
        self._pieces, self._parcels = pieces, places
        s["pieces_at"], s["parcels_at"] = pieces.ctypes.data, places.ctypes.data
        s["rows_size"], s["pieces_size"], s["parcels_size"] = rows, parcels, parcels

    @property
    def rows(self) -> NDArray[np.float64]:
        """Rows of the steps, see :mod:`ode.lagrangian.layout`; those made come first."""
        return self._tables["rows"]

    def admitted(self, step: int) -> float:
        """Return who began in a step [requests]: the admissions with its number of decodes."""
        s = self.record[0]
        made = self._tables["admissions"][: s["admissions"]]
        first = int(s["clock"]) - int(s["steps"])
        began = made[made[:, A_SLOT] == first + step + (0 if s["prompts_apart"] else 1)]
        return float((began[:, A_UNTIL] - began[:, A_FROM]).sum())

    def enlarge(self) -> None:
        """Give the tables twice as many rows; what they hold stays."""
        s = self.record[0]
        self._enlarge(2 * int(s["rows_size"]), 2 * int(s["parcels_size"]))

    def march(self) -> March:
        """March to the end.

        Raises
        ------
        SolveError
            If the limit of steps is reached, a step takes no time, or nobody can ever start.
        """
        s = self.record[0]
        while (answer := Answer(advance(self.record))) == Answer.FULL:
            rows, parcels = int(s["rows_size"]), int(s["parcels_size"])
            if s["steps"] + 2 > rows:
                rows *= 2
            else:
                parcels *= 2
            self._enlarge(rows, parcels)
        if answer == Answer.STEP_LIMIT:
            reached = f"t = {s['now']:g} after {s['steps']} steps"
            message = f"{reached}; shorten the horizon or allow more by max_steps"
            raise SolveError("lagrangian", "step_limit", message)
        if answer == Answer.STALLED:
            raise SolveError("lagrangian", "stalled", "a step takes no time; give d_0 > 0")
        if answer == Answer.STUCK:
            raise SolveError("lagrangian", "stuck", "no request that waits ever fits into the KV")
        s["now"] = s["device_free"]
        return March(
            self._tables["rows"][: s["steps"]],
            self._tables["admissions"][: s["admissions"]],
            self._all_pieces,
            self._tables["ends"][: s["clock"], 0],
            self._tables["alive"][: s["clock"], 0],
            s,
        )

    def _all_pieces(self) -> NDArray[np.float64]:
        """Return the pieces noted, then one for each slot and for those who run again."""
        s, endless = self.record[0], float(self.record[0]["ages"])
        mass = self._tables["masses"][: s["clock"] + 1, 0]
        slot = np.flatnonzero(mass > 0)
        never = np.full(slot.size, -1.0)
        ends = np.full(slot.size, endless)
        place = slot.astype(np.float64)
        slots = np.column_stack([place, mass[slot], np.zeros(slot.size), ends, place, never])
        queue = self.queues[RESUMED]
        again = self._parcels[RESUMED, queue["head"] : queue["tail"]]
        resumed = np.column_stack([
            again[:, SLOT], again[:, MASS], again[:, AGE], np.full(len(again), endless),
            again[:, BIRTH], again[:, BEFORE],
        ])  # fmt: skip
        return np.concatenate([self._pieces[: s["pieces"]], slots, resumed])


def _at(array: NDArray[np.float64]) -> int:
    return int(array.ctypes.data)


@lru_cache(maxsize=16)
def _tables(
    mix: RequestMix, instance: PromptServer
) -> tuple[NDArray[np.float64], NDArray[np.float64], object]:
    """Return the lanes from the last age to the first, and what a life needs besides."""
    each = life(mix, instance)
    lanes = np.ascontiguousarray(each.lanes[:, ::-1])
    return lanes, np.ascontiguousarray(each.again), each.prompt
