"""Write ``config/profiles`` again from the measurements that it was made of.

    python benchmarks/build_profiles.py --data ../shared/data [--out config/profiles]

Every measured law, its error with whole levels held out, the roofline factors of the estimates and
their error on cards that were left out. Only fitted figures are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from click.testing import CliRunner
from kv_capacity import canonical, measured_runs

from calibration.profiles import (
    Law,
    MeasuredServer,
    Roofline,
    estimated_kv_capacity,
    estimated_law,
    gpus,
    models,
)
from calibration.robust_fit import fit_relative
from calibration.server_runs import BatchRows, Coefficients, calibrate_run, fit_law, read_server_log
from calibration.step_times import StepRows, fit_step_times, read_step_times
from fluidserve.cli import cli
from fluidserve.law_files import law_file
from serving import BatchTimeLaw, FluidServeError, kind_named

KAIST = "step times summed from kernels measured with vLLM 0.19 by LLMServingSim (CASYS, KAIST)"
VIDUR = "kernels measured by Vidur (Microsoft Research), step times summed from them"
BLIS = "steps timed on vLLM 0.15 by BLIS (inference-sim)"
GUIDELLM = "requests timed on vLLM 0.11 under GuideLLM by BLIS (inference-sim)"
PERF = "requests timed on vLLM 0.15 under inference-perf by BLIS (inference-sim)"
NO_LICENCE = "none stated by the source; only fitted figures are kept"
UNITS = "law in ms, ms/token, ms/request, ms/token; KV capacity in tokens; errors are shares"
CARDS = ("A100", "A30", "A40", "H100", "RTX4090", "RTXPRO6000")
LARGEST_DECODE = 256
CHUNK = 2048
MOST_TOKENS = 32_768
"""Tokens of a batch up to which tables are kept."""
SHEET = Roofline(weights=1, layer=0, kv=1, decode=1, prefill=1, reserve=1, error={}, source="",
                 date="")  # fmt: skip
"""Estimates that take data sheets at their word."""

Found = dict[tuple[str, str], dict[int, dict]]
"""What a profile file says by card and model, then number of cards."""


def measured_steps(rows: StepRows, name: str, d_prefill: float | None) -> dict:
    """Return law, range and fit of a step-time file's rows, by ``calibrate steps``.

    Decode is linear in the requests but for mixtures of experts. Where ``d_prefill`` is known from
    elsewhere, it is all that is said of prefill.
    """
    fit = fit_step_times(rows, law="tabulated" if models()[name].experts else "linear")
    law = in_ms(fit.law)
    regimes = {regime: count for regime, count in fit.quality.rows.items() if count}
    if d_prefill is not None:
        law = {key: law[key] for key in ("d_0", "d_decode", "d_kv")} | {"d_prefill": d_prefill}
        regimes = {"decode": regimes["decode"]}
    return {
        "law": law,
        "range": f"up to {rows.requests.max():.0f} requests, {rows.context.max():.0f} KV tokens, "
        f"{rows.prefill_tokens.max():.0f} prefill tokens",
        "fit": {
            regime: {
                "rows": count, "mape": fit.quality.mape[regime],
                "held_out": {
                    f"{each.levels_of}, {each.split}": each.mape
                    for each in fit.quality.held_out
                    if each.regime == regime and each.recipe == fit.recipe
                },
            }
            for regime, count in regimes.items()
        },
    }  # fmt: skip


def in_ms(law: BatchTimeLaw) -> dict:
    """Return the coefficients that a law has, in ms."""

    def time(value):
        return [[x, 1e3 * t] for x, t in value] if isinstance(value, tuple) else 1e3 * value

    needed = ("d_0", "d_prefill", "d_decode", "d_kv")
    found = {key: getattr(law, key) for key in Law.model_fields}
    return {key: time(value) for key, value in found.items() if value or key in needed}


def measured_without_attention(frame: pd.DataFrame) -> dict:
    """Return the same of step times without attention by number of tokens; d_kv is NaN."""
    few, many = frame[frame.tokens <= LARGEST_DECODE], frame[frame.tokens >= 512]
    tokens, time = few.tokens.to_numpy(float), few.non_attention_time_ms.to_numpy()

    def fitted(seen: np.ndarray) -> Coefficients:
        none = np.zeros(seen.sum())
        rows = BatchRows(none, none + 1, none, tokens[seen], none, time[seen])
        return fit_law(rows).known()

    def errors(law: Coefficients, at: np.ndarray) -> np.ndarray:
        return np.abs((law.d_0 + law.d_decode * tokens[at]) / time[at] - 1)

    every = np.ones(tokens.size, bool)
    law = fitted(every)
    bins = np.searchsorted(np.quantile(tokens, np.arange(1, 8) / 8), tokens)
    left_out = [errors(fitted(bins != each), bins == each) for each in np.unique(bins)]
    slope = float(np.polyfit(many.tokens, many.non_attention_time_ms, 1)[0])
    chunks = np.abs((law.d_0 + slope * many.tokens) / many.non_attention_time_ms - 1)
    return {
        "law": {"d_0": law.d_0, "d_prefill": slope, "d_decode": law.d_decode, "d_kv": np.nan},
        "range": f"up to {tokens.max():.0f} requests, {many.tokens.max()} prefill tokens",
        "fit": {
            "decode": {"rows": len(few), "mape": errors(law, every).mean(),
                       "held_out": {"8 bins of batch size": np.concatenate(left_out).mean()}},
            "prefill": {"rows": len(many), "mape": chunks.mean()},
        },
    }  # fmt: skip


def measured_with_kv(rows: StepRows, d_kv: float, d_prefill: float) -> dict:
    """Return law and fit of steps without prefill, given what a token of KV costs [ms]."""
    seen = rows.prefill_tokens == 0
    n, context, time = rows.requests[seen], rows.context[seen], 1e3 * rows.time[seen]
    base = d_kv * context

    def fitted(seen: np.ndarray) -> np.ndarray:
        columns = np.stack([np.ones(n.size), n], 1)[seen]
        return fit_relative(columns, time[seen], base=base[seen], centred=True).coefficients

    def errors(law: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.abs((law[0] + law[1] * n + base)[at] / time[at] - 1)

    every, held_out = np.ones(n.size, bool), {}
    for of, level in (("batch size", n), ("context per request", context / n)):
        bins = np.searchsorted(np.quantile(level, np.arange(1, 8) / 8), level)
        left_out = [errors(fitted(bins != each), bins == each) for each in np.unique(bins)]
        held_out[f"8 bins of {of}"] = np.concatenate(left_out).mean()
    d_0, d_decode = fitted(every)
    return {
        "law": {"d_0": d_0, "d_decode": d_decode, "d_kv": d_kv, "d_prefill": d_prefill},
        "fit": {"decode": {"rows": n.size, "mape": errors(np.array([d_0, d_decode]), every).mean(),
                           "held_out": held_out}},
    }  # fmt: skip


def measured_pair(runs: Path, names: Sequence[str], sheet: Law) -> dict:
    """Return law and fit of the requests of two runs, matched as ``validate --calibrate-on`` does.

    Each of the two is also predicted from the other alone: by how much the time per token is off
    is the error of the law on batches that its runs did not have.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "sheet.yaml"
        file.write_text(law_file("data sheets", asdict_of(sheet), None, kind_named("vllm_v1")))

        def validated(run: str, trained: Sequence[str]) -> dict:
            given = ["validate", str(runs / run), "--law-file", str(file), "--mend-lengths"]
            for each in trained:
                given += ["--calibrate-on", str(runs / each)]
            told = CliRunner().invoke(cli, [*given, "--out", str(Path(scratch) / "out")])
            assert told.exit_code == 0, told.stderr
            return json.loads(told.stdout)

        both = validated(names[0], names)
        off = {}
        for one, other in (names, names[::-1]):
            alone = validated(one, [other])["engine"]["tpot_ms"]["mean"]["error"]
            off[f"{one} from {other}"] = abs(alone)
    found = {key: value for key, value in both["instance"].items() if key in Law.model_fields}
    law = {key: [[x, 1e3 * t] for x, t in value if x <= MOST_TOKENS]
           if isinstance(value, list) else 1e3 * value
           for key, value in found.items() if value}  # fmt: skip
    return {
        "law": {"d_0": 0.0, "d_decode": 0.0, "d_kv": 0.0, "d_prefill": 0.0, **law},
        "range": f"up to {both['instance']['max_num_seqs']} requests, those of "
        f"{' and '.join(names)}",
        "fit": {"decode": {"rows": both["calibration"]["times"],
                           "mape": both["calibration"]["spread"], "held_out": off}},
    }  # fmt: skip


def asdict_of(law: Law) -> dict:
    """Return the coefficients that a law has, in seconds, as a file of a law has them."""
    found = law.batch_time()
    return {key: getattr(found, key) for key in Law.model_fields if getattr(found, key)}


def measured_run(run: Path) -> dict:
    """Return the same of the requests of a run, by ``calibrate run``."""
    fit = calibrate_run(read_server_log(f"{run}_requests.csv"))
    assert fit.held_out is not None
    return {
        "law": {name: 1e3 * value for name, value in fit.law.told()._asdict().items()},
        "range": f"means of up to {fit.rows.decode_tokens.max():.0f} requests and "
        f"{fit.rows.kv_tokens.max():.0f} KV tokens",
        "fit": {"decode": {"rows": len(fit.rows), "mape": fit.mape,
                           "held_out": {"the last 30 % of the run": fit.held_out.mape}}},
    }  # fmt: skip


def wall(law: dict, rows: BatchRows) -> dict:
    """Return how far the law is from batches timed on a server, in windows of hardly a prompt."""
    rows = rows.where(rows.prefill_tokens <= 20)
    n, context = rows.decode_tokens, rows.kv_tokens
    error = Law(**law).batch_time().duration(context + n, n) / rows.step_time - 1
    return {"rows": len(rows), "bias": np.median(error), "mape": np.abs(error).mean(),
            "source": "1 s windows of a vLLM 0.19 run (LLMServingSim)"}  # fmt: skip


def collect(data: Path, cards: Sequence[str]) -> Found:
    """Return every measurement on these cards."""
    steps, found = data / "steps", {}

    def put(card, name, tp, measurement, **source):
        found.setdefault((card, canonical(name)), {})[int(tp)] = {**measurement, **source}

    vidur = pd.read_csv(steps / "vidur_nonattention_by_tokens.csv.gz")
    for (card, name, tp), frame in vidur.groupby(["hardware", "model", "tp"]):
        if card not in cards or name.startswith(("Qwen", "internlm", "microsoft")):
            continue
        try:
            estimated_kv_capacity(models()[canonical(name)], gpus()[card], tp, SHEET)
        except FluidServeError:  # does not fit on these cards
            continue
        put(card, name, tp, measured_without_attention(frame), source=VIDUR, licence="MIT",
            measured="kernels without attention; d_kv is estimated", date="2024-05")  # fmt: skip
    for file, measured, source, licence, date in (
        ("steps_kernelsum_vidur_a30.csv.gz", "kernels", VIDUR, "MIT", "2024-05"),
        ("steps_kernelsum_vllm019.csv.gz", "kernels", KAIST, "MIT", "2026-04"),
        ("steps_h100_vllm015_wall.csv.gz", "steps on a server", BLIS, NO_LICENCE, "2026-02"),
    ):
        machines = pd.read_csv(steps / file, usecols=["hardware", "model", "tp"])
        for card, name, tp in machines.drop_duplicates().itertuples(index=False):
            if card not in cards:
                continue
            kernels = found.get((card, canonical(name)), {}).get(int(tp))
            said, d_prefill = measured, None
            if kernels is not None:  # timed steps hold too few prompts to tell
                said, d_prefill = f"{measured}; d_prefill from kernels", kernels["law"]["d_prefill"]
            rows = read_step_times(steps / file, hardware=card, model=name, tp=int(tp))
            seen = measured_steps(rows, canonical(name), d_prefill)
            if d_prefill is not None and seen["law"]["d_decode"] == 0:
                # requests and KV grow together, and the fit gave all of it to KV
                kv = factors(laws_of(found))["kv"] * sheet_law(canonical(name), card, tp)["d_kv"]
                seen |= measured_with_kv(rows, kv, d_prefill)
                said += "; d_kv is estimated"
            put(card, name, tp, seen, measured=said,
                source=source, licence=licence, date=date)  # fmt: skip
    if "H100" in cards:
        run = data / "runs" / "vllm011_h100" / "jan21-llama7b-train-1"
        put("H100", "meta-llama/Llama-2-7b-hf", 1, measured_run(run), licence=NO_LICENCE,
            measured="requests on a server", source=GUIDELLM, date="2026-01",
            kv_capacity=json.loads(Path(f"{run}_config.json").read_text())["kv_tokens"],
            kv_capacity_source="the server's log")  # fmt: skip
        heavy = data / "runs" / "vllm011_h100" / "jan20-codellama-prefillheavy-1_config.json"
        found["H100", "codellama/CodeLlama-34b-hf"][1] |= {
            "kv_capacity": json.loads(heavy.read_text())["kv_tokens"],
            "kv_capacity_source": "log of a server under vLLM 0.11 (inference-sim)",
        }
        name, tp = "mistralai/Mixtral-8x7B-v0.1", 2
        base = Roofline(**factors(laws_of(found)), reserve=1, error={}, source="", date="")
        put("H100", name, tp, measured_pair(
            data / "runs" / "vllm_h100_inferenceperf",
            ("mixtral-8x7b-v0-1-tp2-codegen", "mixtral-8x7b-v0-1-tp2-reasoning"),
            estimated_law(models()[name], gpus()["H100"], tp, base),
        ), measured="requests on a server", source=PERF, licence=NO_LICENCE,
            date="2026-02")  # fmt: skip
    add_servers(found, data)
    if "RTXPRO6000" in cards:
        windows = data / "steps" / "windows" / "RTXPRO6000_Llama-3.1-8B_windows_1s.csv"
        known = found["RTXPRO6000", "meta-llama/Llama-3.1-8B"][1]
        known["wall"] = wall(known["law"], read_server_log(windows))
    return found


def add_servers(found: Found, data: Path) -> None:
    """Put the servers whose blocks were logged beside the law of their model."""
    for start in measured_runs(data):
        known = found.get((start.hardware, start.model), {}).get(start.tp)
        if known is not None:
            server = {
                key: getattr(start.server, key)
                for key in MeasuredServer.model_fields if key != "num_gpu_blocks"
            }  # fmt: skip
            known.setdefault("servers", []).append(server | {"num_gpu_blocks": start.blocks})


def laws_of(found: Found) -> pd.DataFrame:
    """Return the dense laws beside what data sheets say of them [ms]."""
    rows = []
    for (card, name), each in found.items():
        if models()[name].experts:
            continue
        for tp, measurement in each.items():
            law = {key: measurement["law"][key] for key in ("d_0", "d_decode", "d_kv")}
            rows.append({
                "hardware": card, "model": name, "tp": tp, "layers": models()[name].layers, **law,
                "d_prefill": chunk_cost(measurement["law"]),
                **{f"{key}_sheet": value for key, value in sheet_law(name, card, tp).items()},
                # On servers KV and requests move together: d_kv takes what is d_decode's.
                "kv_measured": measurement["measured"] == "kernels",
            })  # fmt: skip
    return pd.DataFrame(rows)


def sheet_law(name: str, card: str, tp: int) -> dict[str, float]:
    """Return what data sheet and shape say of each coefficient [ms]."""
    return estimated_law(models()[name], gpus()[card], tp, SHEET).model_dump()


def chunk_cost(law: dict) -> float:
    """Return what each token of a large chunk costs beyond d_0 [ms]."""
    whole = Law(**{**law, "d_kv": 0.0}).batch_time(1.0)
    return (whole.mixed_duration(0, 0, CHUNK, CHUNK * (CHUNK + 1) / 2) - law["d_0"]) / CHUNK


def factors(laws: pd.DataFrame) -> dict[str, float]:
    """Return the roofline factors under which data sheets come closest to measured laws."""
    design = np.stack([laws.d_0_sheet, laws.layers], 1) / laws.d_0.to_numpy()[:, None]
    weights, layer = np.linalg.lstsq(design, np.ones(len(laws)), rcond=None)[0]
    kv = laws[laws.kv_measured]
    return {
        "weights": float(weights), "layer": float(layer),
        "kv": float((kv.d_kv / kv.d_kv_sheet).median()),
        "decode": float((laws.d_decode / laws.d_decode_sheet).median()),
        "prefill": float((laws.d_prefill / laws.d_prefill_sheet).median()),
    }  # fmt: skip


def estimate_errors(laws: pd.DataFrame) -> pd.DataFrame:
    """Return, per measured law, the error of the estimate from the laws of other cards.

    Decode: mean over 1 to 256 requests of 1,024 KV tokens each where KV was measured, without KV
    where not. Prefill: one large chunk.
    """
    found, n = [], np.array([1, 4, 16, 64, 128, 256.0])
    for card in laws.hardware.unique():
        base = factors(laws[laws.hardware != card])
        for row in laws[laws.hardware == card].itertuples():
            d_0 = base["weights"] * row.d_0_sheet + base["layer"] * row.layers
            own = row.d_0 + row.d_decode * n
            other = d_0 + base["decode"] * row.d_decode_sheet * n
            if row.kv_measured:
                own = own + row.d_kv * 1024 * n
                other = other + base["kv"] * row.d_kv_sheet * 1024 * n
            prefill = d_0 + base["prefill"] * row.d_prefill_sheet * CHUNK
            found.append((card, row.model, row.tp, np.abs(other / own - 1).mean(),
                          abs(prefill / (row.d_0 + row.d_prefill * CHUNK) - 1)))  # fmt: skip
    return pd.DataFrame(found, columns=["hardware", "model", "tp", "decode", "prefill"])


def mixture_error(found: Found, base: dict[str, float]) -> dict:
    """Return the error of estimates of the measured mixtures of experts, which set no factor.

    A law that was matched to requests began as the estimate, and is no measure of it.
    """
    roofline = Roofline(**base, reserve=1, error={}, source="", date="")
    errors, names, n = [], [], 2.0 ** np.arange(9)
    for (card, name), each in found.items():
        if models()[name].experts:
            for tp, measurement in each.items():
                if measurement["measured"].startswith("requests"):
                    continue
                own = Law(**measurement["law"]).batch_time().duration(n, n)
                law = estimated_law(models()[name], gpus()[card], tp, roofline).batch_time()
                errors.append(np.abs(law.duration(n, n) / own - 1))
                names.append(f"{name} on {tp} x {card}")
    every = np.concatenate(errors)
    return {"mixture": every.mean(), "mixture_worst": every.max(), "mixture_of": ", ".join(names)}


def reserve(data: Path) -> tuple[float, float]:
    """Return the memory besides weights and KV [GiB] on real servers, and its error in KV."""
    blis = pd.read_csv(data / "steps" / "blis_trained_coefficients.csv")
    real = ("qwen/qwen2.5-3b-instruct", "qwen/qwen3-14b")  # the other blocks are computed
    rows = [(r.model, r.kv_blocks * 16) for r in blis.itertuples() if r.model in real]
    for path in sorted((data / "runs" / "vllm011_h100").glob("*_config.json")):
        config = json.loads(path.read_text())
        if "'max_num_batched_tokens': 64," not in config["vllm_args"]:
            rows.append((config["vllm_args"].split("'model_tag': '/model-cache/models/")[1]
                         .split("'")[0], config["kv_tokens"]))  # fmt: skip
    gpu, gib = gpus()["H100"], 2**30
    shapes = [models()[canonical(name)] for name, _ in rows]
    left = [
        0.9 * gpu.memory - (shape.weight_bytes + tokens * shape.kv_bytes(1)) / gib
        for shape, (_, tokens) in zip(shapes, rows, strict=True)
    ]
    errors = [
        abs((left[i] - np.median(left[:i] + left[i + 1 :])) * gib / shape.kv_bytes(1) / rows[i][1])
        for i, shape in enumerate(shapes)
    ]
    return float(np.median(left)), float(np.max(errors))


def estimate(data: Path, found: Found) -> tuple[dict, pd.DataFrame]:
    """Return the content of ``estimate.yaml``, and its errors law by law."""
    laws = laws_of(found)
    errors, base = estimate_errors(laws), factors(laws)
    left, kv_error = reserve(data)
    worst = errors.loc[errors.decode.idxmax()]
    content = {
        **base, "reserve": left,
        "error": {
            "decode": errors.decode.mean(), "decode_worst": errors.decode.max(),
            "decode_worst_of": f"{worst.model} on {worst.tp} x {worst.hardware}",
            **mixture_error(found, base),
            "prefill": errors.prefill.mean(), "prefill_worst": errors.prefill.max(),
            "kv_capacity_worst": kv_error, "laws": len(errors),
            "how": "laws measured on a card against the estimate from all other cards",
        },
        "source": "roofline factors of the measured dense models",
        "date": max(m["date"] for each in found.values() for m in each.values()),
    }  # fmt: skip
    return content, errors


def complete(found: Found, kv_factor: float) -> None:
    """Put the estimate of d_kv where it was not measured."""
    for (card, name), each in found.items():
        for tp, measurement in each.items():
            if np.isnan(measurement["law"]["d_kv"]):
                measurement["law"]["d_kv"] = kv_factor * sheet_law(name, card, tp)["d_kv"]


def write(path: Path, content: dict, script: str = "build_profiles") -> None:
    """Write one file, with the script that it is from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Written by benchmarks/{script}.py from measurements; do not edit.\n"
    text = yaml.safe_dump(rounded(content), sort_keys=False, width=100, default_flow_style=None)
    path.write_text(head + text)


def rounded(value, digits=5):
    """Return nested values with floats to so many digits."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}")
    return int(value) if isinstance(value, np.integer) else value


def main() -> None:
    """Write every file; print the error of the estimate of each law."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("config/profiles"))
    given = parser.parse_args()
    found = collect(given.data, CARDS)
    complete(found, factors(laws_of(found))["kv"])
    content, errors = estimate(given.data, found)
    for (card, name), each in found.items():
        said = {"model": name, "hardware": card, "units": UNITS, "tensor_parallel": each}
        write(given.out / card / f"{name.rpartition('/')[2]}.yaml", said)
    write(given.out / "estimate.yaml", content)
    print(errors.round(3).to_string())


if __name__ == "__main__":
    main()
