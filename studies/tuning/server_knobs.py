"""Knobs of a model on a card, where one setting moves others.

How much KV a server has depends on the share of the cards' memory that it takes, on the number of
cards, and on the largest batch that it may run; the batch-time law depends on the number of cards.
Each value of a knob is therefore a server of its own: the one that starts with this value and with
all else that was said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from serving import CardKnob, FluidServeError, Instance, card_knob_named, kind_of
from studies.question import Question
from studies.tuning.knobs import MAX_RATE, Knob, knob_named

MOST_CARDS = 64
"""Most cards that are tried."""

NODE = 8
"""Cards up to which a search looks by itself: those of one machine."""

Starts = Callable[[Mapping[str, float]], Instance]
"""From settings by key, said besides all else, to the server that starts with them."""


class Servers:
    """Servers by what is said of them: two knobs that are turned one after the other both count.

    Parameters
    ----------
    start
        Returns the server that starts with some settings.
    """

    def __init__(self, start: Starts) -> None:
        self._start = start
        self._known: dict[tuple[tuple[str, float], ...], Instance] = {}
        self._said: dict[int, Mapping[str, float]] = {}

    def started(self, said: Mapping[str, float]) -> Instance:
        """Return the server of some settings, the same object whenever it is asked for."""
        key = tuple(sorted(said.items()))
        if key not in self._known:
            try:
                self._known[key] = self._start(said)
            except FluidServeError as error:
                words = ", ".join(f"{name} = {value:g}" for name, value in key)
                raise FluidServeError(f"{words}: {error}") from error
            self._said[id(self._known[key])] = dict(said)
        return self._known[key]

    def at(self, question: Question, key: str, value: float) -> Question:
        """Return the question asked of the server whose setting has a value."""
        said = {**self._said.get(id(question.instance), {}), key: value}
        return question.on(self.started(said))


def server_knob(name: str, question: Question, servers: Servers) -> Knob:
    """Return a knob of a model on a card.

    Parameters
    ----------
    name
        Of a setting of the question's instance, or one of :data:`serving.CARD_KNOBS`.
    question
        Stream, and the server of what was said.
    servers
        Which server starts with which settings.

    Raises
    ------
    ConfigError
        Listing the knobs that there are.
    FluidServeError
        If no server that starts holds the longest request.
    """
    card = card_knob_named(name)
    if card is None:
        return _of_a_setting(knob_named(name, kind_of(question.instance)), question, servers)
    if card.key == "tp":
        return _of_cards(card, question, servers)
    return _of_the_memory(card, question, servers)


def _of_a_setting(knob: Knob, question: Question, servers: Servers) -> Knob:
    """Return the knob of an engine's setting whose values all start."""
    if knob is MAX_RATE:
        return knob
    key = knob.key
    given = getattr(question.instance, key)
    least, most = knob.limits(question)
    if not _serves(question, servers, key, most):
        most = _last(lambda value: _serves(question, servers, key, value), int(given), int(most))
    low, high = knob.bracket(question)
    return replace(
        knob,
        turned=lambda asked, value: servers.at(asked, key, int(value) if knob.integer else value),
        bracket=lambda _: (max(min(low, most - 1), least), min(high, most)),
        limits=lambda _: (least, most),
    )


def _of_the_memory(card: CardKnob, question: Question, servers: Servers) -> Knob:
    steps = round(1 / card.step)
    servers.at(question, card.key, 1.0)  # what does not start with all memory never does
    least = 1 + _last(
        lambda value: not _serves(question, servers, card.key, value / steps), 0, steps
    )
    if least > steps:
        raise FluidServeError(_too_long(question, "with all memory of the cards"))
    bracket = (least / steps, 1.0)
    return _knob(card, servers, bracket, bracket, step=card.step)


def _of_cards(card: CardKnob, question: Question, servers: Servers) -> Knob:
    cards = range(1, MOST_CARDS + 1)
    able = tuple(float(n) for n in cards if _serves(question, servers, card.key, n))
    if not able:
        raise FluidServeError(_too_long(question, f"up to {MOST_CARDS} cards"))
    near = [n for n in able if n <= NODE]
    if len(near) < 2:  # a model too large for one machine
        near = list(able[:2])
    return _knob(card, servers, (near[0], near[-1]), (able[0], able[-1]), values=able)


def _knob(
    card: CardKnob,
    servers: Servers,
    bracket: tuple[float, float],
    limits: tuple[float, float],
    *,
    step: float = 0.0,
    values: tuple[float, ...] = (),
) -> Knob:
    def turned(question: Question, value: float) -> Question:
        return servers.at(question, card.key, int(value) if values else value)

    return Knob(
        card.name, card.words, "smaller", card.spacing, turned=turned,
        bracket=lambda _: bracket, limits=lambda _: limits, step=step, values=values, key=card.key,
    )  # fmt: skip


def _serves(question: Question, servers: Servers, key: str, value: float) -> bool:
    """Return whether a server starts with a value and holds the longest request."""
    try:
        asked = servers.at(question, key, int(value) if float(value).is_integer() else value)
    except FluidServeError:
        return False
    instance = asked.instance
    return _longest(question) <= kind_of(instance).largest_request(instance).value


def _longest(question: Question) -> int:
    return math.ceil(float((question.mix.prefill + question.mix.decode).max()))


def _too_long(question: Question, what: str) -> str:
    return f"a request has {_longest(question)} tokens: no server holds it, {what}"


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the last number from ``low`` on that a property has which ends below ``high``."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
