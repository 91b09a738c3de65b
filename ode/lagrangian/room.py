"""Whether the next step of a march fits into its workspace, whatever happens in the step."""

from __future__ import annotations

from ode.lagrangian.cruise import aligned_extent
from ode.lagrangian.memory import running_of, swapped_of, waiting_of
from ode.lagrangian.parcels import roomy_extent, size_of
from serving.compilation import compiled


@compiled
def steps_allowed(w):
    """Return the number of steps since time 0 at which a march stops for room or by its limit."""
    return w.most_steps if w.rows_size == 0 else min(w.most_steps, w.rows_size)


@compiled
def has_sample_room(w):
    """Say whether one step's latency samples fit: two per parcel and a few."""
    parcels = size_of(running_of(w)) + size_of(waiting_of(w)) + size_of(swapped_of(w))
    return w.samples_size == 0 or w.samples + 2 * parcels + 16 <= w.samples_size


@compiled
def has_room(w, may_cruise):
    """Say whether the queues have room for one step; if not, ``places_needed`` says how much.

    A boundary moves parcels between the queues, one of each batch of arrivals comes in and one may
    be split twice. The largest queue that may come of it, and as many free places at both ends of
    it, must fit into its storage and into the spare one. Cruising lays RUNNING out by age.
    """
    running, waiting, swapped = running_of(w), waiting_of(w), swapped_of(w)
    parcels = size_of(running)
    if may_cruise:
        parcels = max(parcels, w.lanes_size)
    needed = 2 * (parcels + size_of(waiting) + size_of(swapped)) + 6
    places = roomy_extent(running.extent, needed)
    places = max(places, roomy_extent(waiting.extent, needed))
    places = max(places, roomy_extent(swapped.extent, needed))
    if may_cruise:
        places = max(places, roomy_extent(aligned_extent(w.lanes_size), needed))
    w.places_needed = places
    return places <= w.capacity
