"""Write the page on a validation: how far a prediction is from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluidserve.plots import measured_vs_predicted
from fluidserve.report.page import cards, heading, page, paragraph, picture, table
from fluidserve.results import read_columns
from fluidserve.tables.validation import BESIDE, off, score_rows, series_rows
from fluidserve.text import number
from fluidserve.words import instance_words
from serving.files import atomic_write

PAGE, PICTURE, CURVES = "report.html", "validation.png", "validation.csv"


def write_validation(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    """Write picture and page of a validation into ``folder`` and return their names."""
    draw_validation(folder, summary)
    with atomic_write(folder / PAGE) as file:
        file.write(_page(folder, summary))
    return [PICTURE, PAGE]


def draw_validation(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    """Draw the series of a validation from the files of its folder."""
    calibration = summary["calibration"]
    measured_vs_predicted(
        read_columns(folder / CURVES), folder / PICTURE, title=_title(summary),
        until=None if calibration is None else calibration["until"],
    )  # fmt: skip
    return [PICTURE]


SAID = {
    "fluid": "It takes the mix of the requests and their arrival curve, and no single request.",
    "one_node": "It takes the mix of the requests and the rate of each stretch of the run, as if "
    "every stretch were in equilibrium.",
}
"""What the models beside the engine are given."""


def _beside(name: str, scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return []
    head = ["", "measured", "predicted", "error"]
    return [heading(f"The {BESIDE[name]}"), table(head, score_rows(scores), SAID[name])]


def _title(summary: Mapping[str, Any]) -> str:
    run = summary["run"]
    model = "" if run["model"] is None else f", {run['model']}"
    card = "" if run["hardware"] is None else f" on {run['tp']} x {run['hardware']}"
    return f"{run['name']}{model}{card}: {run['requests']:,} requests"


def _page(folder: Path, summary: Mapping[str, Any]) -> str:
    scores, calibration = summary["engine"], summary["calibration"]
    lead = f"Law from {summary['law_from']}."
    if calibration is not None and calibration["until"] is not None:
        lead += f" It was matched to the first {number(calibration['until'])} s of the run."
    elif calibration is not None:
        lead += f" It was matched to {', '.join([*calibration['runs'], *calibration['steps']])}."
    body = [
        paragraph(f"{lead} The engine replayed the requests of the run one by one.", "lead"),
        cards(
            [
                (off(scores[key]["mean"]["error"]), f"{words}, mean")
                for key, words in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2el_ms", "E2EL"))
                if key in scores
            ]
            + [(off(scores["e2el_ms"]["p99"]["error"]), "E2EL, p99")]
        ),
        *(paragraph(text, "note") for text in summary["warnings"]),
        heading("Measured against predicted"),
        table(["", "measured", "predicted", "error"], score_rows(scores),
              f"{instance_words(summary['instance'])}; front end "
              f"{number(1e3 * summary['front_end_offset'])} ms"),
        heading("Over time"),
        picture(folder / PICTURE, "requests over time, measured and predicted",
                "What the clients or the server counted, and the engine."),
        table(["", "mean measured", "mean predicted", "NRMSE"], series_rows(scores)),
        *(part for name in BESIDE for part in _beside(name, summary.get(name))),
        heading("What the run does not say"),
        *(paragraph(text) for text in summary["assumptions"] or ["Nothing had to be assumed."]),
    ]  # fmt: skip
    return page("Measured and predicted", _title(summary), body)
