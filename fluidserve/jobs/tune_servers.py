"""Knobs of ``tune`` where a model on a card is named: each value is the server that starts so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fluidserve.config import instance_of
from fluidserve.inputs import Inputs, load_config_of
from fluidserve.profiled import profile_of
from serving import CardKnob, FluidServeError, card_knob_named, kind_of

if TYPE_CHECKING:
    from calibration.profiles import Profile
    from studies.tuning import Knob, Tuning


def is_on_a_card(params: Mapping[str, Any]) -> bool:
    """Return whether a command names a model on a card."""
    return all(params.get(key) is not None for key in ("model", "hardware"))


def checked_card_knobs(params: Mapping[str, Any]) -> list[CardKnob]:
    """Return the knobs among those of a command (``knobs``) that need a model on a card.

    Raises
    ------
    FluidServeError
        If there is no model on a card, or something else sets what the knob looks for.
    """
    names = str(params.get("knobs") or "").split(",")
    found = [knob for knob in map(card_knob_named, names) if knob is not None]
    for knob in found:
        if not is_on_a_card(params):
            raise FluidServeError(
                f"{knob.name} is a knob of a model on a card: give --model and --hardware"
            )
        if params.get(knob.key) is not None:
            raise FluidServeError(
                f"--{knob.name} is what {knob.name} looks for; drop it, or say where to look with "
                "--bracket"
            )
        if params.get("load") is not None:
            raise FluidServeError(
                f"--load is a share of the capacity, which {knob.name} changes; give --arrival-rate"
            )
        if params.get("drop_oversized"):
            raise FluidServeError(
                f"--drop-oversized leaves out other requests at each {knob.name}; give lengths "
                "that fit"
            )
        if params.get("scale") not in (None, 1):
            raise FluidServeError(f"--scale: a server at another {knob.name} has no scale")
    return found


def that_starts(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a server that starts: the default of what is sought may not.

    Raises
    ------
    FluidServeError
        If none does.
    """
    from studies.tuning.server_knobs import MOST_CARDS

    keys, first = {knob.key for knob in checked_card_knobs(params)}, None
    if not keys:
        return dict(params)
    for tp in range(1, MOST_CARDS + 1) if "tp" in keys else (params.get("tp"),):
        for share in (None, 1.0) if "gpu_memory_utilization" in keys else (None,):
            given = {**params, "tp": tp}
            if share is not None:
                given["gpu_memory_utilization"] = share
            try:
                load_config_of(given)
            except FluidServeError as error:
                first = first or error
            else:
                return given
    assert first is not None
    raise first


def refuse_a_default_rate(inputs: Inputs, knobs: Sequence[CardKnob], names: Sequence[str]) -> None:
    """Refuse a search over servers at a load that is a share of the capacity of one of them."""
    is_rate_tuned = any(name.replace("_", "-").lower() == "max-rate" for name in names)
    if knobs and inputs.rate_is_default and not is_rate_tuned:
        raise FluidServeError(f"{knobs[0].name} needs a rate: give --arrival-rate")


def turned_knobs(
    params: Mapping[str, Any], inputs: Inputs, names: Sequence[str]
) -> Sequence[str | Knob]:
    """Return what a search turns: by name, or as servers of a model on a card."""
    from studies.tuning import Servers, server_knob

    is_scaled = params.get("scale") not in (None, 1)
    if not is_on_a_card(params) or is_scaled:
        return names

    def start(said: Mapping[str, Any]) -> Any:
        return instance_of(load_config_of({**params, **said}))

    servers = Servers(start)
    return [
        server_knob(name, inputs.question, servers)
        if card_knob_named(name) or name.replace("_", "-").lower() != "max-rate" else name
        for name in names
    ]  # fmt: skip


def servers_of(
    params: Mapping[str, Any], inputs: Inputs, knobs: Sequence[CardKnob], found: Tuning | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the servers that a search over a card's knob asked, and what is estimated of them."""
    if found is None or len(knobs) != 1:
        return {}, []
    knob, kind = knobs[0], kind_of(inputs.instance)
    rows, doubtful = [], {}
    alone = [] if found.value is None else [found.value]  # where the model answers
    for value in sorted({point.value for point in found.points} or alone):
        given = {**params, knob.key: int(value) if knob.key == "tp" else value}
        config, profile = load_config_of(given), profile_of(given)
        assert profile is not None
        served = profile.of_kind(kind, config.model_dump())
        capacity = kind.kv_keys(served.usable, config.model_dump())
        rows.append(
            {
                knob.key: given[knob.key],
                "law": served.origin,
                **{key: getattr(config, key) for key in capacity},
                "kv_capacity": served.kv_capacity_origin,
                "kv_capacity_error": served.kv_capacity_error,
            }
        )
        doubtful[value] = served
    ends = [found.value] if found.answer is None else list(found.answer.bracket)
    near = [doubtful[value] for value in ends if value in doubtful]
    said = _doubts(knob, near)
    return {"servers": rows}, said


def _doubts(knob: CardKnob, near: Sequence[Profile]) -> list[str]:
    """Return what is estimated of the servers between which the answer lies, one line each."""
    from calibration.profiles import gpus, server_memory

    said = [
        f"estimated: no law was measured on {each.tp} x {each.hardware}; by {each.basis} decode "
        f"batch times are within {100 * each.expected_error['decode']:.2g} % on average"
        for each in near if each.origin == "estimated"
    ]  # fmt: skip
    errors = [each.kv_capacity_error for each in near if each.kv_capacity_error is not None]
    if errors and knob.key == "gpu_memory_utilization":
        off, memory = server_memory().error["gib"], gpus()[near[0].hardware].memory
        said.append(
            f"estimated: the memory that is left for KV is known to {off:.2g} GiB, which is "
            f"{off / memory:.2g} of {knob.name}"
        )
    elif errors:
        said.append(f"estimated: the KV capacity there is known to {100 * max(errors):.2g} %")
    return list(dict.fromkeys(said))
