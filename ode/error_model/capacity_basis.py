"""What a capacity says of its own error: features of node and lengths, and terms linear in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ode.error_model.basis import ALIKE, LARGEST, SMALLEST, Basis
from ode.error_model.features import cv
from serving import Instance, RequestMix, reading_of


def capacity_features(mix: RequestMix, instance: Instance) -> dict[str, float]:
    """Return the features of a capacity.

    Returns
    -------
    dict of str to float
        ``fit`` requests that fit; ``largest`` share of the room that the largest request takes;
        ``cv_work``, ``cv_decode`` as in :func:`ode.error_model.features.question_features`;
        ``again`` share of the tokens of a step that are computed again; ``sacrifice`` 1 in this
        mode, ``held_back`` 1 less the admission threshold; ``memory`` 1 where memory binds.
    """
    from fluid import requests_that_fit, saturation

    node: Any = reading_of(instance).node
    full: Any = saturation(mix, instance)
    weight = np.asarray(mix.probability, float)
    p, d = np.asarray(mix.prefill, float), np.asarray(mix.decode, float)
    is_server = hasattr(node, "kv_tokens")
    if is_server:
        room, memory = float(node.kv_tokens), full.binds == "KV blocks"
    else:
        room = float(min(node.M_total, node.token_budget))
        memory = node.admission_threshold * node.M_total <= node.token_budget
    return {
        "fit": float(requests_that_fit(mix, instance)),
        "largest": float((p + d).max()) / room,
        "cv_work": cv(p * d + d * (d + 1) / 2, weight),
        "cv_decode": cv(d, weight),
        "again": float(full.recomputed / full.batch_tokens) if is_server else 0.0,
        "sacrifice": float(getattr(node, "mode", "") == "sacrifice"),
        "held_back": 1.0 - float(getattr(node, "admission_threshold", 1.0)),
        "memory": float(memory),
    }


def _terms(features: Mapping[str, float]) -> dict[str, float]:
    """Return the terms of features, each within a range of a few units."""
    size = math.log(LARGEST / min(max(features["fit"], 1.0), 2 * LARGEST)) / math.log(
        LARGEST / SMALLEST
    )
    alike = math.exp(-min(features["cv_decode"], 10.0) / ALIKE)
    memory, large = features["memory"], math.log1p(10 * min(features["largest"], 2.0))
    again = math.log1p(10 * min(features["again"], 1.0))
    scatter = math.log1p(min(features["cv_work"], 1e3))
    return {
        "one": 1.0,
        "size": size,
        "largest": large,
        "cv_work": scatter,
        "again": again,
        "alike": alike * memory,
        "held_back": features["held_back"],
        "sacrifice": features["sacrifice"] * memory,
        "sacrifice_alike": features["sacrifice"] * memory * alike,
        "sacrifice_size": features["sacrifice"] * memory * size,
        "memory": memory,
        "size_scatter": size * scatter,
        "alike_held": alike * features["held_back"],
    }


CAPACITY = Basis(
    _terms,
    growing=("size", "largest", "cv_work", "again", "alike", "sacrifice_alike", "alike_held"),
    free=("held_back", "sacrifice", "sacrifice_size", "memory", "size_scatter"),
)
"""Of the throughput of a full instance: fewer and larger requests, more that is computed again and
requests that are in step can only widen an interval."""
