"""What the fluid model of a server that computes its own prompts leaves out, in words."""

from __future__ import annotations

from fluid.prompt_server import life, requests_that_fit, saturation
from fluid.prompt_server.saturation import TOKENS
from ode._caveats import LARGE_SHARE
from ode.node_work.caveats import arrival_labels, size_labels
from serving import RequestMix, UnsupportedError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

MUCH_AGAIN, NEAR = 0.1, 0.85
"""Share of the prompt tokens that a full server computes again, and of its capacity, from which a
prediction of its queue says how far off it may be."""


@answers(MODEL)
def methods_for(instance: PromptServer) -> tuple[str, ...]:
    """Return the methods that a comparison takes where none is named: the one that there is."""
    return ("lagrangian",)


@answers(MODEL)
def method_of_latencies(mix: RequestMix, instance: PromptServer) -> str:
    """Return the method that tells the latencies over time: of one server where it knows it."""
    return "lagrangian" if unknown_to_node_work(mix, instance) else "node_work"


def unknown_to_node_work(
    mix: RequestMix, instance: PromptServer, *, over_time: bool = True
) -> str | None:
    """Return why the method ``node_work`` does not know a server, in words; None where it does.

    In equilibrium it knows those that ``max_num_batched_tokens`` fills first as well.
    """
    if instance.prompts_apart:
        return (
            f"steps of the engine {instance.engine} are prompts or decodes here; use lagrangian, "
            "or chunked prefill"
        )
    binds = saturation(mix, instance).binds
    if over_time and binds == TOKENS:
        return f"{binds} binds, so that prompts under way are the queue; use lagrangian"
    return None


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
    """Return the caveats of the fluid limit on the size of requests and on the prefix cache."""
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
    return (*labels, *_large_requests(mix, instance), *_prefixes(mix, instance))


def work_labels(
    mix: RequestMix,
    instance: PromptServer,
    rate: float,
    dispersion: float,
    *,
    given_times: bool = False,
) -> tuple[str, ...]:
    """Return the caveats of an answer that comes from the work in system.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    rate : [requests/time]
        Mean arrival rate.
    dispersion
        Variance of the number of arrivals in a long time over its mean.
    given_times
        Whether arrivals come at given times, which the model reads as a rate and a dispersion.
    """
    labels = [*_large_requests(mix, instance), *_prefixes(mix, instance)]
    labels += arrival_labels(dispersion, given_times=given_times)
    labels += size_labels(requests_that_fit(mix, instance))
    full = saturation(mix, instance)
    again = full.recomputed / max(full.entering * life(mix, instance).prompt.tokens, 1e-300)
    if again > MUCH_AGAIN and rate > NEAR * full.throughput:
        labels.append(
            f"approximate: preemptions make a full server compute {again:.0%} of its prompt tokens "
            "again, which is known to a few percent of the capacity; so near to it the mean TTFT "
            "was up to 60 % off"
        )
    return tuple(labels)


def _large_requests(mix: RequestMix, instance: PromptServer) -> list[str]:
    share = float((mix.prefill + mix.decode).max()) / instance.kv_tokens
    if share <= LARGE_SHARE:
        return []
    return [
        f"approximate: one request holds up to {share:.0%} of the KV; chance fills it long "
        "before the mean does, and preempted requests compute again what is not in here"
    ]


def _prefixes(mix: RequestMix, instance: PromptServer) -> list[str]:
    if not (instance.keeps_prefixes and life(mix, instance).prompt.known > 0):
        return []
    return [
        "approximate: the prefix cache finds the given share of every prompt at any load; "
        "blocks that requests share count for each of them"
    ]
