"""An engine that no fluid model reads: a decode node under another name and with one knob.

Its runs are those of a decode node, so that what tuning finds without a scout is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from serving import DecodeNode, Kind, KnobSpec, UnsupportedError, kind_named


@dataclass(frozen=True, slots=True)
class Unread(DecodeNode):
    """Settings of the engine ``unread``."""

    engine: ClassVar[str] = "unread"


def _refused(instance):
    raise UnsupportedError("no fluid model reads the engine unread")


def unread_kind() -> Kind:
    """Return the declaration, to be put into ``serving.KINDS`` while a test runs."""
    knob = KnobSpec(
        "M_total",
        "smallest KV memory [tokens]",
        "smaller",
        "log",
        lambda mix, instance: (500.0, 20_000.0),
        lambda mix, instance: (500.0, 1e6),
        integer=True,
    )
    return replace(
        kind_named("decode_node"),
        name="unread",
        settings=Unread,
        reading=_refused,
        knobs=(knob,),
    )
