"""Routing policies: which instance gets the next request. Each is an entry of :data:`POLICIES`.

A policy is a function of a :class:`scheduling.View` and a :class:`scheduling.RequestMeta` that
returns the number of an instance. Most are a *score*, a number for each instance of which the
lowest wins; :func:`scheduling.lowest` is the one rule for ties. ``NAME@K`` is a score policy that
looks at K instances drawn at random.
"""

from scheduling.policies.registry import POLICIES as POLICIES
from scheduling.policies.registry import Entry as Entry
from scheduling.policies.registry import Policy as Policy
from scheduling.policies.registry import listens as listens
from scheduling.policies.registry import needs_predictor as needs_predictor
from scheduling.policies.registry import policy_of as policy_of
