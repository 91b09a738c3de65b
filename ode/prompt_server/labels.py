"""What the fluid model of a server that computes its own prompts leaves out, in words."""

from __future__ import annotations

from fluid.prompt_server import life
from ode._caveats import LARGE_SHARE
from serving import RequestMix, UnsupportedError, answers
from serving.kinds.prompt_server import MODEL, PromptServer


@answers(MODEL)
def methods_for(instance: PromptServer) -> tuple[str, ...]:
    """Return the methods that a comparison takes where none is named: the one that there is."""
    return ("lagrangian",)


@answers(MODEL)
def method_of_latencies(instance: PromptServer) -> str:
    """Return the method that tells the latencies over time: the one that there is."""
    return "lagrangian"


@answers(MODEL)
def policy_labels(instance: PromptServer, *, approximate: bool = False) -> tuple[str, ...]:
    """Return the caveats of reading the settings of a server; empty where all are modelled.

    Raises
    ------
    UnsupportedError
        Naming the setting that is not modelled, unless ``approximate``.
    """
    for key, value, read_as in instance.read_as:
        if not approximate:
            raise UnsupportedError(
                f"{key} {value!r} is not modelled by the fluid model of the engine "
                f"{instance.engine}; use {read_as}, the discrete engine, or approximate=True to "
                f"read it as {read_as}"
            )
    read = (f"approximate: {key} {value!r} solved as {as_}" for key, value, as_ in instance.read_as)
    return (*read, *instance.notes)


def validity_labels(mix: RequestMix, instance: PromptServer) -> tuple[str, ...]:
    """Return caveats on a mix whose requests are large for the server, and on its prefix cache."""
    labels = []
    longest = float(mix.prefill.max())
    share = longest / instance.step_tokens
    if share > 1:
        labels.append(
            f"approximate: a prompt of {longest:.0f} tokens takes several steps of "
            f"{instance.step_tokens}; the fluid spreads it over them and gives its first token "
            "early by about half of them"
        )
    elif share > LARGE_SHARE:
        labels.append(
            f"approximate: one prompt takes up to {share:.0%} of a step; chance makes steps with "
            "several prompts and steps without one, the fluid has their mean"
        )
    share = float((mix.prefill + mix.decode).max()) / instance.kv_tokens
    if share > LARGE_SHARE:
        labels.append(
            f"approximate: one request holds up to {share:.0%} of the KV; chance fills it long "
            "before the mean does, and preempted requests compute again what is not in here"
        )
    if instance.keeps_prefixes and life(mix, instance).prompt.known > 0:
        labels.append(
            "approximate: the prefix cache finds the given share of every prompt at any load; "
            "blocks that requests share count for each of them"
        )
    return tuple(labels)
