"""Answers to a router of llm-d, and what is learnt from the latencies that it measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidserve.serve.bodies import Refusal
from fluidserve.serve.llmd_messages import PredictionRequest, TrainingEntry
from scheduling.aggregates import AggregatePredictor, Aggregates, Candidate
from scheduling.messages import COVERS
from scheduling.residuals import Residuals

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
        found, failed = self._told([asked])
        for why in failed.values():
            raise Refusal(409, why)
        return found[0]

    def predict_all(self, asked: Sequence[PredictionRequest], strict: bool) -> dict[str, Any]:
        """Return predictions; what fails is told, or refuses all if ``strict``."""
        began = time.perf_counter()
        found, failed = self._told(asked)
        if strict and failed:
            index = min(failed)
            raise Refusal(409, f"requests.{index}: {failed[index]}")
        return {
            "predictions": found,
            "errors": [{"index": index, "error": failed[index]} for index in sorted(failed)],
            "total_requests": len(asked), "successful_predictions": len(found),
            "failed_predictions": len(failed),
            "processing_time_ms": 1e3 * (time.perf_counter() - began),
        }  # fmt: skip

    def train(self, entries: Sequence[TrainingEntry]) -> None:
        """Learn from measurements, of a long list from some that are evenly spread over it."""
        every = max(1, -(-len(entries) // LEARNT_OF_A_CALL))
        taken = entries[::every]
        ttft, tpot, failed = self._predicted(taken)
        for why in failed.values():
            raise Refusal(409, why)
        for each, *predicted in zip(taken, ttft.tolist(), tpot.tolist(), strict=True):
            learnt = self.ttft.learn(predicted[0], each.actual_ttft_ms)
            learnt |= self.tpot.learn(predicted[1], each.actual_tpot_ms)
            self.learnt += learnt
        self.received += len(entries)
        self.passed_over += len(entries) - len(taken)

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

    def _told(
        self, asked: Sequence[PredictionRequest]
    ) -> tuple[list[dict[str, Any]], Mapping[int, str]]:
        """Return predictions in the order of those that have one, and why others have none."""
        ttft, tpot, failed = self._predicted(asked)
        columns: list[list[float]] = []
        for values, of in ((ttft, self.ttft), (tpot, self.tpot)):
            values = np.delete(values, list(failed)) * of.factor
            spread = of.spread(0.5 * (1 - COVERS), 0.5 * (1 + COVERS))
            low, high = values * spread[0], values * spread[1]
            columns += [each.tolist() for each in (values, (high - low) / DEVIATIONS, low, high)]
        end = {
            "predicted_at": datetime.now(UTC).isoformat(), **self._about(),
            "last_model_load": self._loaded,
        }  # fmt: skip
        return [
            {
                "ttft_ms": ttft_ms, "ttft_uncertainty": ttft_off,
                "ttft_prediction_bounds": (ttft_low, ttft_high),
                "tpot_ms": tpot_ms, "tpot_uncertainty": tpot_off,
                "tpot_prediction_bounds": (tpot_low, tpot_high), **end,
            }
            for ttft_ms, ttft_off, ttft_low, ttft_high, tpot_ms, tpot_off, tpot_low, tpot_high in
            zip(*columns, strict=True)
        ], failed  # fmt: skip

    def _predicted(
        self, asked: Sequence[PredictionRequest]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Mapping[int, str]]:
        """Return TTFT and TPOT, shape (C,) [ms], not corrected, and why some have none."""
        ms = self._ms
        if ms is None:
            why = "answers are in ms, but the configuration says no time_unit"
            nothing = np.full(len(asked), np.nan)
            return nothing, nothing, dict.fromkeys(range(len(asked)), why)
        found = self.predictor.predict([_candidate(each) for each in asked])
        return ms * np.maximum(0.0, found.ttft), ms * found.tpot, found.failed


def _candidate(asked: PredictionRequest) -> Candidate:
    prompt = asked.input_token_length
    about = Aggregates(
        asked.num_request_running, asked.num_request_waiting, asked.kv_cache_percentage,
        asked.prefill_tokens_in_flight or None,
    )  # fmt: skip
    return Candidate(about, prompt, round(asked.prefix_cache_score * prompt))


def _corrector(of: Residuals) -> dict[str, Any]:
    plain, corrected = of.errors or (None, None)
    return {
        "measured": of.measured, "is_on": of.is_on, "factor": of.factor,
        "held_out_error": plain, "held_out_error_corrected": corrected,
    }  # fmt: skip
