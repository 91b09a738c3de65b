"""What a kind of engine declares about itself, so that no room has to know it by name.

A kind is data: the dataclass of its settings, where its engine is found, words for people, and
functions of its settings that every room may ask. Only a kind's own engine and its own fluid model
read the fields of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol, Self

from serving.batch_time import CARRIED, TABLES, BatchTimeLaw
from serving.request_mix import RequestMix


class Instance(Protocol):
    """What every instance specification has, whatever its kind: a frozen dataclass of settings."""

    engine: ClassVar[str]
    """Name of the kind."""

    @property
    def batch_time(self) -> BatchTimeLaw:
        """Batch-time law."""
        ...

    @property
    def time_unit(self) -> str:
        """Unit of every time: ``none``, ``s`` or ``ms``."""
        ...

    def scaled(self, n: int) -> Self:
        """Return an instance ``n`` times as large whose batches take as long."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the batch file that an engine writes.

    Parameters
    ----------
    name
        In the file.
    unit
        Such as ``requests``; empty for a pure number.
    words
        What the column is.
    output
        The output of :data:`serving.OUTPUTS` that the column holds; None where it is none.
    """

    name: str
    unit: str
    words: str
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to a request, as the event file names it.

    Parameters
    ----------
    name
        Value of the column ``event_type``.
    state
        State that the request is in afterwards: ``waiting``, ``running`` or ``swapped``; None when
        it has left, or where the event changes no state.
    mark, words
        Of an eviction: the letter that marks it in pictures, and what happened (``restarted``).
    counted_in
        Of an eviction: the column of the request file that counts it.
    """

    name: str
    state: str | None
    mark: str = ""
    words: str = ""
    counted_in: str = ""


@dataclass(frozen=True, slots=True)
class KnobSpec:
    """A setting that tuning may turn.

    Parameters
    ----------
    key
        The setting.
    words
        What is found, such as ``smallest KV memory [tokens]``.
    better
        Which end of the range that meets the objectives is wanted.
    spacing
        Whether a bracket is scanned in equal steps or in equal ratios.
    bracket
        From mix and instance to the two values between which a search starts.
    limits
        From mix and instance to the values beyond which the setting cannot go.
    integer
        Whether only whole numbers are allowed.
    """

    key: str
    words: str
    better: Literal["larger", "smaller"]
    spacing: Literal["linear", "log"]
    bracket: Callable[[RequestMix, Any], tuple[float, float]]
    limits: Callable[[RequestMix, Any], tuple[float, float]]
    integer: bool = False

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.key.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a fluid model is to read an instance.

    Parameters
    ----------
    model
        Name of the fluid model; see :func:`serving.answers`.
    node
        Settings of that model.
    """

    model: str
    node: Any


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that an instance never exceeds.

    Parameters
    ----------
    value
        The number, infinite where nothing limits.
    words
        Where the limit comes from, such as ``M_total``.
    """

    value: float
    words: str


def _never(_: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of engine.

    Parameters
    ----------
    name
        Value of the configuration key ``engine``.
    title
        One line on what is simulated.
    settings
        Frozen dataclass whose fields are declared by :func:`serving.setting`, ``batch_time``
        excepted; it satisfies :class:`Instance`.
    engine
        Where the engine's class is, ``module:name``; imported when it is first used.
    law_keys
        Coefficients of the batch-time law that a batch of this engine spends.
    line
        From settings to one line for titles.
    largest_request
        From settings to the most tokens, prompt and answer together, of a request that can ever
        finish.
    limits
        From settings to the limits of the outputs that have one, by names of
        :data:`serving.OUTPUTS`; ``memory`` among them.
    reading
        From settings to the fluid model that answers for the instance.

        Raises UnsupportedError, in words, where no fluid model does.
    kv_keys
        From KV tokens and the other settings to the settings that give an instance so many tokens,
        without a further limit.
    snapshot
        Columns of the batch file, in order.
    events
        Events of the event file.
    knobs
        Settings that tuning may turn.
    reads_contents
        Whether the engine looks at what requests consist of.
    knows_aborts
        Whether the engine takes out the requests whose clients give up.
    knows_sessions
        Whether the engine sends a turn of a session when the turn before has ended.
    run_options
        Arguments of the engine's class besides those that every engine has, such as
        ``decision_log``.
    forgets
        From settings to whether the engine, once it is empty, goes on as at its start, whatever it
        did before and however late it is: runs may then follow each other in one.
    is_random
        From settings to whether the engine draws at random.
    """

    name: str
    title: str
    settings: type[Any]
    engine: str
    law_keys: tuple[str, ...]
    line: Callable[[Any], str]
    largest_request: Callable[[Any], Limit]
    limits: Callable[[Any], Mapping[str, Limit]]
    reading: Callable[[Any], Reading]
    kv_keys: Callable[[int, Mapping[str, Any]], Mapping[str, Any]]
    snapshot: tuple[Column, ...]
    events: tuple[Event, ...]
    knobs: tuple[KnobSpec, ...] = ()
    reads_contents: bool = False
    knows_aborts: bool = False
    knows_sessions: bool = False
    run_options: tuple[str, ...] = ()
    forgets: Callable[[Any], bool] = _never
    is_random: Callable[[Any], bool] = _never

    def law_values(self, law: BatchTimeLaw) -> dict[str, Any]:
        """Return what a configuration of this kind says of ``law``, by configuration key.

        That is each coefficient that the kind spends and, where the law has one, each that an
        instance carries unspent. Tables are lists of rows; a table that the law lacks is left out.
        """
        carried = [key for key in self.carried_keys if getattr(law, key)]
        values = {key: getattr(law, key) for key in (*self.law_keys, *carried)}
        return {
            key: [list(row) for row in value] if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None
        }

    def law(self, values: Mapping[str, Any]) -> BatchTimeLaw:
        """Return the law of some coefficients.

        Of those that this kind does not spend, ``values`` may hold what an instance carries; the
        others are none.
        """
        none: dict[str, Any] = {item.name: 0.0 for item in fields(BatchTimeLaw)}
        none |= dict.fromkeys((*TABLES, "measured_requests"))
        carried = {key: values[key] for key in self.carried_keys if key in values}
        return BatchTimeLaw(**(none | carried | {key: values[key] for key in self.law_keys}))

    @property
    def swaps(self) -> bool:
        """Whether the engine can swap requests out."""
        return any(event.state == "swapped" for event in self.events)

    @property
    def carried_keys(self) -> tuple[str, ...]:
        """Keys of the law that an instance of this kind carries and does not spend."""
        return tuple(key for key in CARRIED if key not in self.law_keys)

    @property
    def is_in_real_time(self) -> bool:
        """Whether the kind is a real server: its times have a unit where nobody names one."""
        return self.settings.__dataclass_fields__["time_unit"].default != "none"

    def engine_class(self) -> Any:
        """Return the engine's class, see :class:`discrete.Engine`."""
        module, _, name = self.engine.partition(":")
        return getattr(import_module(module), name)
