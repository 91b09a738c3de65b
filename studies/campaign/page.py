"""The page of errors: tables in Markdown of what a campaign found, worst first."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ode.error_model.model import COVERS, THROUGHPUT, coefficients, expected
from ode.error_model.report import TITLES
from studies.campaign.fit import SEEDS
from studies.campaign.judge import (
    ORDERS,
    Expecting,
    Key,
    Summary,
    Verdict,
    answered,
    choices,
    unmarked,
    verdicts,
    worst_first,
)
from studies.campaign.rows import NOISIEST
from studies.campaign.running import Campaign
from studies.campaign.scenarios import ENGINES

METRICS = ("mean_ttft", "mean_e2el", "p99_ttft", "p99_e2el", "mean_in_system", THROUGHPUT)
"""What the page judges, in its order."""

SIZES = ("below 30", "30 to 300", "300 and more")
"""Words of the size classes."""

REGIMES = {
    "load": "load",
    "dispersion": "dispersion of arrivals",
    "shape": "arrivals over time",
    "limit": "limit of a backlogged system",
    "lengths": "lengths",
}
"""Kinds of classes, and their words."""

FEWEST = 30
"""Cases of a group that a table by regime shows."""

ASKED_WITHIN = (0.05, 0.1)
"""How far off ``auto`` may be, as the page asks."""

NODE_WORK = "node_work"
PROMISED = (0.87, 0.93)
"""Coverage that counts as kept."""

WORDS = """\
`off`: off by more than 10 % and more than 4 standard errors of the engine's mean. `trusted`: the
answer claims to be within 5 % with a chance of 90 %. `covered`: the 90 % interval, widened by the
engine's own noise, holds the engine's mean, with the standard error of this share. `|error|`: the
median, relative. `half-width`: of the logarithm, median."""

COLUMNS = "cases | off | trusted | off though trusted | covered | median \\|error\\| | half-width |"
RULE = "---:|---:|---:|---:|---:|---:|---:|"


def page(campaign: Campaign, expecting: Expecting = expected) -> str:
    """Return the page of a campaign, from the rows that no fit saw."""
    return _header(campaign) + tables(campaign.unseen, expecting)


def tables(rows: Sequence[Mapping[str, Any]], expecting: Expecting = expected) -> str:
    """Return what was left out, and every table."""
    found = [each for each in verdicts(rows, expecting) if each.metric in METRICS]
    parts = [_left_out(rows), "", WORDS, "", _kept(found), "", "## All sizes\n", *_by_size(found)]
    for kind, words in REGIMES.items():
        parts += [f"## By {words}\n", _by_regime(found, kind)]
    parts += ["## The method `auto`\n", _choices(rows, expecting)]
    parts += ["## The one-node method\n", _one_node(found)]
    return "\n".join(parts).rstrip() + "\n"


def _header(campaign: Campaign) -> str:
    rows = campaign.unseen
    seed = "several seeds" if campaign.seed is None else f"seed {campaign.seed}"
    good = answered(rows)
    by = Counter((row["engine"], row["protocol"]) for row in good)
    lines = [
        "# Score card: every method against the engine\n",
        "This page says how far off each method is, whether its answers had said so, and where it "
        "is worst, for readers who decide whether to trust an answer. [How far off an answer is]"
        "(error_model.md) explains the words and where the intervals come from. It is made by\n",
        f"```text\npython benchmarks/score_card.py {_asked(campaign)}\n```\n",
        f"{len(rows):,} scenarios that no fit saw ({seed}), with the coefficients "
        f"`{coefficients_digest()}`: "
        + ", ".join(f"{n:,} `{e}` {p.replace('_', ' ')}" for (e, p), n in sorted(by.items()))
        + ".",
    ]
    if campaign.files:
        lines.append(f"Some lengths are those of {', '.join(campaign.files)}.")
    return "\n".join(lines) + "\n"


def _asked(campaign: Campaign) -> str:
    """Return the options that make the page: a journal, where fits learnt from its seed."""
    if campaign.seed is None or campaign.seed in SEEDS:
        return "--rows JOURNAL"
    lengths = " --lengths FILE..." if campaign.files else ""
    return f"--scenarios {len(campaign.rows)} --seed {campaign.seed}{lengths}"


def coefficients_digest() -> str:
    """Return what tells one set of coefficients from another."""
    text = json.dumps(coefficients(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _left_out(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what could not be judged, in words."""
    broken = Counter(row["failed"].split(":")[0] for row in rows if "failed" in row)
    refused: Counter[str] = Counter()
    noisy = numbers = 0
    for row in answered(rows):
        for method, answer in row["answers"].items():
            if "failed" in answer:
                refused[f"`{method}` ({answer['failed']})"] += 1
                continue
            errors = [row["standard_error"].get(m) for m in answer["values"] if m in METRICS]
            numbers += len(errors)
            noisy += sum(each is None or each > NOISIEST for each in errors)
    words = [
        f"The engine is noisier than {NOISIEST:.0%} for {noisy:,} of {numbers:,} numbers, which "
        "are left out."
    ]
    if refused:
        words.append(f"Answers that failed: {_counts(refused)}.")
    if broken:
        words.append(f"Scenarios that failed: {_counts(broken)}.")
    return " ".join(words)


def _counts(of: Counter[str]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in of.most_common())


def _kept(found: Sequence[Verdict]) -> str:
    """Return in a line in how many groups intervals cover what they promise."""
    groups = [each for _, each in worst_first(found, _with_size, FEWEST) if each.covered >= 0]
    low, high = PROMISED
    kept = sum(low <= each.covered <= high for each in groups)
    short = sum(each.covered < low - 2 * each.covered_error for each in groups)
    trusted = [each for each in found if each.trusted]
    off = sum(each.off for each in trusted)
    return (
        f"Of {len(groups)} groups of engine, method, metric and size with {FEWEST} cases or more, "
        f"intervals that promise {COVERS:.0%} cover {low:.0%} to {high:.0%} in {kept}; they cover "
        f"less, by more than two standard errors, in {short}. Of {len(trusted):,} numbers to be "
        f"trusted, {off:,} are off."
    )


def _of(each: Verdict) -> Key:
    return (each.engine, each.protocol, each.method, METRICS.index(each.metric))


def _with_size(each: Verdict) -> Key:
    return (*_of(each), each.size)


def _names(key: Key) -> list[str]:
    engine, protocol, method, metric = key[:4]
    title: str = TITLES[METRICS[metric]] if METRICS[metric] in TITLES else METRICS[metric]
    return [f"`{engine}`", protocol.replace("_", " "), method, title]


def _cells(of: Summary) -> list[str]:
    if math.isnan(of.covered):
        trusted, covered, wide = ("-", "-"), "-", "-"
    else:
        trusted = (f"{of.trusted:.0%}", f"{of.trusted_and_off:.1%}")
        covered = f"{100 * of.covered:.0f} ± {100 * of.covered_error:.1f} %"
        wide = f"{of.half_width:.3f}"
    return [str(of.cases), f"{of.off:.0%}", *trusted, covered, f"{of.median_error:.1%}", wide]


def _table(head: str, columns: int, rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {head} | {COLUMNS}", "|" + "---|" * columns + RULE]
    return "\n".join([*lines, *(f"| {' | '.join(each)} |" for each in rows)]) + "\n"


def _by_size(found: Sequence[Verdict]) -> list[str]:
    everybody = [[*_names(key), *_cells(of)] for key, of in worst_first(found, _of)]
    sized = [[*_names(k), SIZES[k[4]], *_cells(of)] for k, of in worst_first(found, _with_size)]
    return [
        _table("engine | scenarios | method | metric", 4, everybody),
        "## By size, requests that fit\n",
        _table("engine | scenarios | method | metric | size", 5, sized),
    ]


def _by_regime(found: Sequence[Verdict], kind: str) -> str:
    def key(each: Verdict) -> Key | None:
        return (*_of(each), each.regime[kind]) if kind in each.regime else None

    rows = worst_first(found, key, FEWEST)
    if not rows:
        return f"No class has {FEWEST} cases.\n"
    head = f"{REGIMES[kind]} | engine | scenarios | method | metric"
    return _table(head, 5, ([k[4], *_names(k), *_cells(of)] for k, of in rows))


def _choices(rows: Sequence[Mapping[str, Any]], expecting: Expecting) -> str:
    lines = [
        "Whose answer `auto` would take, and how good these are. An answer is off if its mean or "
        "p99 of TTFT or E2EL is. What the engine answers has no error here: errors are measured by "
        "it.\n",
        "| engine | scenarios | within | answer by | answers | share | off | off and outside of "
        "its interval | median \\|error\\| |\n|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for engine in ENGINES:
        of_engine = [row for row in answered(rows) if row["engine"] == engine]
        for protocol in ORDERS:
            for within in ASKED_WITHIN:
                for name, of in choices(of_engine, protocol, within, expecting).items():
                    judged = f"{of.off:.1%} | {of.off_and_outside:.1%} | {of.median_error:.1%}"
                    if not of.judged:
                        judged = "- | - | -"
                    lines.append(
                        f"| `{engine}` | {protocol.replace('_', ' ')} | {within:g} | {name} "
                        f"| {of.scenarios} | {of.share:.0%} | {judged} |"
                    )
    return "\n".join(lines) + "\n"


def _one_node(found: Sequence[Verdict]) -> str:
    lines = [
        "Its answers over time that are off, of all and of those whose confidence is not `low`.\n",
        "| engine | metric | cases | off | not marked `low` | off among these |\n"
        "|---|---|---:|---:|---:|---:|",
    ]
    for engine in ENGINES:
        for metric in METRICS:
            chosen = [
                each for each in found
                if (each.engine, each.method, each.metric) == (engine, NODE_WORK, metric)
            ]  # fmt: skip
            if chosen:
                off, among, others = unmarked(chosen)
                share = f"{among:.0%}" if others else "-"
                cells = (TITLES[metric], len(chosen), f"{off:.0%}", others, share)
                lines.append(f"| `{engine}` | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
