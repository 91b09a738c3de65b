"""Answers to a router of llm-d, and what is learnt from the latencies that it measured."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fluidserve.serve.bodies import Refusal
from fluidserve.serve.llmd_messages import PredictionRequest, TrainingEntry
from scheduling.aggregates import AggregatePredictor, Aggregates
from scheduling.messages import COVERS
from scheduling.residuals import Residuals
from serving import FluidServeError

MS = {"s": 1000.0, "ms": 1.0}
"""Milliseconds of a unit of time."""

LEARNT_OF_A_CALL = 32
"""Measurements of a call that are learnt from: each may need a forecast, and calls wait."""

DEVIATIONS = 2 * 1.6449
"""Standard deviations between the bounds, were errors normal."""


class LlmdService:
    """Answers by aggregates.

    Parameters
    ----------
    predictor
        Of the instance that every answer is for.
    time_unit
        Of the instance.
    """

    def __init__(self, predictor: AggregatePredictor, time_unit: str) -> None:
        self.predictor = predictor
        self._ms = MS.get(time_unit)
        self.ttft, self.tpot = Residuals(), Residuals()
        self.received = self.learnt = self.passed_over = 0
        self._loaded = datetime.now(UTC).isoformat()

    def predict(self, asked: PredictionRequest) -> dict[str, Any]:
        """Return a prediction.

        Raises
        ------
        Refusal
            If times have no unit, or the model cannot answer.
        """
        ttft, tpot = self._predicted(asked)
        out: dict[str, Any] = {}
        for name, value, of in (("ttft", ttft, self.ttft), ("tpot", tpot, self.tpot)):
            value *= of.factor
            spread = of.spread(0.5 * (1 - COVERS), 0.5 * (1 + COVERS))
            low, high = value * spread[0], value * spread[1]
            out |= {
                f"{name}_ms": value, f"{name}_uncertainty": (high - low) / DEVIATIONS,
                f"{name}_prediction_bounds": (low, high),
            }  # fmt: skip
        return out | {
            "predicted_at": datetime.now(UTC).isoformat(), **self._about(),
            "last_model_load": self._loaded,
        }  # fmt: skip

    def predict_all(self, asked: Sequence[PredictionRequest], strict: bool) -> dict[str, Any]:
        """Return predictions; what fails is told, or refuses all if ``strict``."""
        began = time.perf_counter()
        found: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for index, each in enumerate(asked):
            try:
                found.append(self.predict(each))
            except Refusal as wrong:
                if strict:
                    raise Refusal(wrong.status, f"requests.{index}: {wrong.why}") from wrong
                errors.append({"index": index, "error": wrong.why})
        return {
            "predictions": found, "errors": errors, "total_requests": len(asked),
            "successful_predictions": len(found), "failed_predictions": len(errors),
            "processing_time_ms": 1e3 * (time.perf_counter() - began),
        }  # fmt: skip

    def train(self, entries: Sequence[TrainingEntry]) -> None:
        """Learn from measurements, of a long list from some that are evenly spread over it."""
        every = max(1, -(-len(entries) // LEARNT_OF_A_CALL))
        for each in entries[::every]:
            ttft, tpot = self._predicted(each)
            learnt = self.ttft.learn(ttft, each.actual_ttft_ms)
            learnt |= self.tpot.learn(tpot, each.actual_tpot_ms)
            self.learnt += learnt
        self.received += len(entries)
        self.passed_over += len(entries) - len(entries[::every])

    def status(self) -> dict[str, Any]:
        """Return what answers, and what it has learnt."""
        return {
            "is_ready": self._ms is not None, **self._about(), "last_model_load": self._loaded,
            "training_server_url": "", "models_exist": {"fluid": True},
            "entries_received": self.received, "entries_learnt": self.learnt,
            "entries_passed_over": self.passed_over,
            "ttft": _corrector(self.ttft), "tpot": _corrector(self.tpot),
        }  # fmt: skip

    @staticmethod
    def _about() -> dict[str, Any]:
        return {"model_type": "fluid", "objective_type": "mean", "quantile": None}

    def _predicted(self, asked: PredictionRequest) -> tuple[float, float]:
        """Return TTFT and TPOT [ms], not corrected."""
        if self._ms is None:
            raise Refusal(409, "answers are in ms, but the configuration says no time_unit")
        prompt = asked.input_token_length
        about = Aggregates(
            asked.num_request_running, asked.num_request_waiting, asked.kv_cache_percentage,
            asked.prefill_tokens_in_flight or None,
        )  # fmt: skip
        try:
            found = self.predictor.predict(about, prompt, round(asked.prefix_cache_score * prompt))
        except FluidServeError as wrong:
            raise Refusal(409, str(wrong)) from wrong
        if not math.isfinite(found.ttft):
            raise Refusal(409, "the model has no answer for an instance in this state")
        return self._ms * max(0.0, found.ttft), self._ms * self.predictor.tpot(found, prompt)


def _corrector(of: Residuals) -> dict[str, Any]:
    plain, corrected = of.errors or (None, None)
    return {
        "measured": of.measured, "is_on": of.is_on, "factor": of.factor,
        "held_out_error": plain, "held_out_error_corrected": corrected,
    }  # fmt: skip
