"""What can go wrong at the value that a search found, although its runs met every objective."""

from __future__ import annotations

from serving import FluidServeError, kind_of
from studies.limitations import caveats
from studies.question import Question


def hazards(question: Question, most_swapped: float) -> list[str]:
    """Return warnings on a node that serves this stream, one line each: caveats, and bistability.

    ``most_swapped`` requests were swapped out at once in the runs that found the node.
    Runs that start empty do not show a collapse that chance has not brought about yet: a node in
    mode sacrifice may complete less from a queue than arrives, for good.
    """
    from ode import collapsed_throughput, regime, time_to_full

    said = list(caveats(question, largest={"swapped": most_swapped}))
    mix, instance, rate = question.mix, question.instance, question.stream.mean_rate
    try:
        if regime(mix, instance, rate) != "bistable":
            return said
        collapsed = collapsed_throughput(mix, instance).throughput
    except FluidServeError:  # no fluid model reads the instance, or none has an answer
        return said
    bistable = (
        f"bistable: at a mean rate of {rate:.4g} the node meets this only until its memory first "
        f"fills; from then on it completes {collapsed:.4g} and does not recover"
    )
    try:
        bistable += f"; {time_to_full(mix, instance, rate).words}"
    except FluidServeError:
        pass
    said.append(
        f"{bistable}; up to a rate of {collapsed:.4g}, or with a lower {_remedy(question)}, it does"
    )
    return said


def _remedy(question: Question) -> str:
    """Return the setting that keeps an instance from filling up."""
    is_server = "batch_size" in kind_of(question.instance).limits(question.instance)
    return "max_num_seqs" if is_server else "admission threshold"
