"""Policies as a user would write them: the smallest number goes first."""


def short_prompts_age(
    now, arrival_time, priority, prefill_length, decode_length, decoded, evictions, idle_batches
):
    """Admit short prompts first, but let nobody starve."""
    return prefill_length - 0.5 * (now - arrival_time) - 3 * evictions


def highest_response_ratio(
    now, arrival_time, priority, prefill_length, decode_length, decoded, evictions, idle_batches
):
    """Admit who has waited longest for its size: the order changes with nothing but time."""
    return -(now - arrival_time) / (decode_length + prefill_length)


def least_progress(
    now, arrival_time, priority, prefill_length, decode_length, decoded, evictions, idle_batches
):
    """Evict who has the least to lose, and of those who has not executed for longest."""
    return decoded + prefill_length // 8 - 0.25 * idle_batches + priority


def undecided(
    now, arrival_time, priority, prefill_length, decode_length, decoded, evictions, idle_batches
):
    """Not a number for some: they come last, in the usual order."""
    if prefill_length % 2 == 0:
        return float("nan")
    return float(decode_length)
