"""Write ``config/profiles`` again from the measurements that it was made of.

    python benchmarks/build_profiles.py --data ../shared/data [--out config/profiles]

Every measured law, its error with whole levels held out, the roofline factors of the estimates and
their error on cards that were left out. Only fitted figures are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import nnls

from calibration.profiles import (
    Roofline,
    estimated_kv_capacity,
    estimated_law,
    gpus,
    models,
)
from calibration.profiles._names import model_key
from calibration.server_runs import BatchRows, calibrate_run, fit_law, read_server_log

KAIST = "step times summed from kernels measured with vLLM 0.19 by LLMServingSim (CASYS, KAIST)"
VIDUR = "kernels measured by Vidur (Microsoft Research), step times summed from them"
BLIS = "steps timed on vLLM 0.15 by BLIS (inference-sim)"
GUIDELLM = "requests timed on vLLM 0.11 under GuideLLM by BLIS (inference-sim)"
NO_LICENCE = "none stated by the source; only fitted figures are kept"
UNITS = "law in ms, ms/token, ms/request, ms/token; KV capacity in tokens; errors are shares"
LARGEST_DECODE = 256
KEPT = ("codellama/CodeLlama-34b-hf", "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-70b-hf",
        "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B")  # fmt: skip


def canonical(name: str) -> str:
    """Return the model of ``models.yaml`` that a data set's name means."""
    known = {model_key(each): entry for entry, shape in models().items()
             for each in (entry, *shape.aliases)}  # fmt: skip
    return known[model_key(name)]


def batch_rows(frame: pd.DataFrame) -> BatchRows:
    """Return a frame of steps as rows [ms]."""
    columns = (frame[name].to_numpy(float) for name in
               ("prefill_tokens", "decode_tokens", "kv_tokens", "step_time_ms"))  # fmt: skip
    prefill, decode, kv, step = columns
    return BatchRows(np.arange(len(frame)), np.ones(len(frame)), prefill, decode, kv, step)


def decode_law(frame: pd.DataFrame) -> np.ndarray:
    """Return d_0, d_decode, d_kv [ms] of decode-only steps."""
    return np.nan_to_num(fit_law(batch_rows(frame)).value)[[0, 2, 3]]


def predicted(law: np.ndarray, frame: pd.DataFrame) -> np.ndarray:
    """Return the decode part of the batch times [ms]."""
    return law[0] + law[1] * frame.decode_tokens + law[2] * frame.kv_tokens


def prefill_law(law: np.ndarray, mixed: pd.DataFrame) -> float:
    """Return d_prefill [ms/token]: least relative squares of what mixed steps take more."""
    y = mixed.step_time_ms
    x, rest = mixed.prefill_tokens / y, (y - predicted(law, mixed)) / y
    return float(x @ rest / (x @ x))


def levels(frame: pd.DataFrame) -> pd.Series:
    """Return the batch-size level of each step: the size itself, or bins of many sizes."""
    sizes = frame.decode_tokens
    return sizes if sizes.nunique() <= 24 else pd.qcut(sizes, 8, labels=False, duplicates="drop")


def held_out(frame: pd.DataFrame) -> float:
    """Return the MAPE of decode laws on the batch-size level that they did not see."""
    level = levels(frame)
    errors = [
        np.abs(predicted(decode_law(frame[level != each]), frame[level == each])
               / frame[level == each].step_time_ms - 1)
        for each in level.unique()
    ]  # fmt: skip
    return float(np.concatenate(errors).mean())


def measured_steps(frame: pd.DataFrame, d_prefill: float | None = None) -> dict:
    """Return law, range and fit of the steps of one model on one number of cards."""
    decode = frame[(frame.prefill_tokens == 0) & (frame.decode_tokens > 0)]
    mixed = frame[frame.prefill_tokens > 0]
    law = decode_law(decode)
    d_prefill = prefill_law(law, mixed) if d_prefill is None else d_prefill
    error = np.abs(predicted(law, decode) / decode.step_time_ms - 1)
    both = predicted(law, mixed) + d_prefill * mixed.prefill_tokens
    return {
        "law": dict(d_0=law[0], d_prefill=d_prefill, d_decode=law[1], d_kv=law[2]),
        "range": f"{decode.decode_tokens.min()} to {decode.decode_tokens.max()} requests, up to "
        f"{decode.kv_tokens.max()} KV tokens, prefill up to {mixed.prefill_tokens.max()} tokens",
        "fit": {
            "decode": dict(rows=len(decode), mape=float(error.mean()),
                           held_out_mape=held_out(decode), held_out="each batch size in turn"),
            "mixed": dict(rows=len(mixed),
                          mape=float(np.abs(both / mixed.step_time_ms - 1).mean())),
        },
    }  # fmt: skip


def experts_law(decode: pd.DataFrame) -> tuple[list[list[float]], float]:
    """Return the table (requests, ms) and d_kv [ms] of decode-only steps of a mixture."""
    sizes = np.unique(decode.decode_tokens)
    # Never falling: each row adds to the one before, where the batch is at least that large.
    n, y = decode.decode_tokens.to_numpy()[:, None], decode.step_time_ms.to_numpy()
    between = np.diff(sizes, prepend=sizes[0] - 1)
    columns = np.clip((n - (sizes - between)) / between, 0, 1)
    design = np.column_stack([columns, decode.kv_tokens]) / y[:, None]
    length = np.linalg.norm(design, axis=0)
    values = nnls(design / length, np.ones(y.size))[0] / length
    table = np.cumsum(values[:-1])
    return [[int(a), float(b)] for a, b in zip(sizes, table, strict=True)], float(values[-1])


def experts_time(table: list[list[float]], d_kv: float, frame: pd.DataFrame) -> np.ndarray:
    """Return the batch times [ms] of decode-only steps."""
    return np.interp(frame.decode_tokens, *zip(*table, strict=True)) + d_kv * frame.kv_tokens


def measured_experts(frame: pd.DataFrame) -> dict:
    """Return the same of a mixture of experts, whose decode is not linear in the requests."""
    decode = frame[(frame.prefill_tokens == 0) & (frame.decode_tokens > 0)]
    mixed = frame[frame.prefill_tokens > 0]
    table, d_kv = experts_law(decode)
    rest = mixed.step_time_ms - experts_time(table, d_kv, mixed)
    x = mixed.prefill_tokens / mixed.step_time_ms
    d_prefill = max(float(x @ (rest / mixed.step_time_ms) / (x @ x)), 0.0)
    both = experts_time(table, d_kv, mixed) + d_prefill * mixed.prefill_tokens
    errors = []
    for each in np.unique(decode.decode_tokens)[1:-1]:
        seen, left = decode[decode.decode_tokens != each], decode[decode.decode_tokens == each]
        errors.append(np.abs(experts_time(*experts_law(seen), left) / left.step_time_ms - 1))
    error = np.abs(experts_time(table, d_kv, decode) / decode.step_time_ms - 1)
    return {
        "law": dict(d_0=0.0, d_prefill=d_prefill, d_decode=0.0, d_kv=d_kv, d_decode_table=table),
        "range": f"{decode.decode_tokens.min()} to {decode.decode_tokens.max()} requests, up to "
        f"{decode.kv_tokens.max()} KV tokens, prefill up to {mixed.prefill_tokens.max()} tokens",
        "fit": {
            "decode": dict(rows=len(decode), mape=float(error.mean()),
                           held_out_mape=float(np.concatenate(errors).mean()),
                           held_out="each inner batch size in turn, interpolated"),
            "mixed": dict(rows=len(mixed),
                          mape=float(np.abs(both / mixed.step_time_ms - 1).mean())),
        },
    }  # fmt: skip


def measured_without_attention(frame: pd.DataFrame, d_kv: float) -> dict:
    """Return the same of step times without attention by number of tokens."""
    few, many = frame[frame.tokens <= LARGEST_DECODE], frame[frame.tokens >= 512]
    steps = few.rename(columns={"tokens": "decode_tokens", "non_attention_time_ms": "step_time_ms"})
    steps = steps.assign(prefill_tokens=0.0, kv_tokens=0.0)
    law = decode_law(steps)
    slope, _ = np.polyfit(many.tokens, many.non_attention_time_ms, 1)
    error = np.abs(predicted(law, steps) / steps.step_time_ms - 1)
    prefill = law[0] + slope * many.tokens
    return {
        "law": dict(d_0=law[0], d_prefill=float(slope), d_decode=law[1], d_kv=d_kv),
        "range": f"1 to {few.tokens.max()} requests, prefill up to {many.tokens.max()} tokens",
        "fit": {
            "decode": dict(rows=len(few), mape=float(error.mean()), held_out_mape=held_out(steps),
                           held_out="each of 8 bins of batch size in turn, attention aside"),
            "mixed": dict(rows=len(many),
                          mape=float(np.abs(prefill / many.non_attention_time_ms - 1).mean())),
        },
    }  # fmt: skip


def roofline_terms(name: str, card: str, tp: int) -> dict[str, float]:
    """Return what data sheet and shape say of each coefficient [ms]."""
    plain = Roofline(weights=1, layer=0, kv=1, decode=1, prefill=1, reserve=1, error={}, source="",
                     date="")  # fmt: skip
    return estimated_law(models()[name], gpus()[card], tp, plain).model_dump()


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
    """Return, per measured law, the error of the estimate from the laws of other cards."""
    found = []
    for card in laws.hardware.unique():
        base = factors(laws[laws.hardware != card])
        for _, row in laws[laws.hardware == card].iterrows():
            n = np.array([1, 4, 16, 64, 128, 256.0])
            kv = n * (1024 if row.kv_measured else 0)
            d_0 = base["weights"] * row.d_0_sheet + base["layer"] * row.layers
            own = row.d_0 + row.d_decode * n + (row.d_kv * kv if row.kv_measured else 0.0)
            other = (d_0 + base["decode"] * row.d_decode_sheet * n
                     + base["kv"] * row.d_kv_sheet * kv)  # fmt: skip
            p = 2048
            prefill = (d_0 + base["prefill"] * row.d_prefill_sheet * p) / (
                row.d_0 + row.d_prefill * p)  # fmt: skip
            found.append((row.hardware, row.model, row.tp, np.abs(other / own - 1).mean(),
                          abs(prefill - 1)))  # fmt: skip
    return pd.DataFrame(found, columns=["hardware", "model", "tp", "decode", "prefill"])


def mixture_error(found: dict, base: dict[str, float]) -> dict:
    """Return the error of estimates of the measured mixtures of experts, which set no factor."""
    roofline = Roofline(**base, reserve=1, error={}, source="", date="")
    errors, names = [], []
    for (card, name), each in found.items():
        if models()[name].experts:
            for tp, measurement in each.items():
                n, own = np.array(measurement["law"]["d_decode_table"]).T
                law = estimated_law(models()[name], gpus()[card], tp, roofline)
                errors.append(np.abs(np.asarray(law.decode_time(n, 0.0)) / own - 1))
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
    gpu, gib, left = gpus()["H100"], 2**30, []
    for name, tokens in rows:
        shape = models()[canonical(name)]
        left.append(0.9 * gpu.memory - (shape.weight_bytes + tokens * shape.kv_bytes(1)) / gib)
    middle = float(np.median(left))
    errors = []
    for i, (name, tokens) in enumerate(rows):
        others = float(np.median(left[:i] + left[i + 1 :]))
        shape = models()[canonical(name)]
        errors.append(abs((left[i] - others) * gib / shape.kv_bytes(1) / tokens))
    return middle, float(np.max(errors))


def rounded(value, digits=5):
    """Return nested values with floats to so many digits."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each, digits) for each in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}")
    return int(value) if isinstance(value, np.integer) else value


def collect(data: Path) -> dict[tuple[str, str], dict[int, dict]]:
    """Return every measurement by card and model, then number of cards."""
    steps, found = data / "steps", {}

    def put(card, name, tp, measurement, **source):
        found.setdefault((card, canonical(name)), {})[int(tp)] = {**measurement, **source}

    vidur = pd.read_csv(steps / "vidur_nonattention_by_tokens.csv.gz")
    for (card, name, tp), frame in vidur.groupby(["hardware", "model", "tp"]):
        if name.startswith(("Qwen", "internlm", "microsoft")):
            continue
        try:
            estimated_kv_capacity(models()[canonical(name)], gpus()[card], tp,
                                  Roofline(weights=1, layer=0, kv=1, decode=1, prefill=1,
                                           reserve=1, error={}, source="", date=""))  # fmt: skip
        except Exception:  # does not fit on these cards
            continue
        put(card, name, tp, measured_without_attention(frame, np.nan),
            measured="kernels without attention; d_kv is estimated", source=VIDUR, licence="MIT",
            date="2024-05")  # fmt: skip
    for file, measured, source, licence, date in (
        ("steps_kernelsum_vidur_a30.csv.gz", "kernels", VIDUR, "MIT", "2024-05"),
        ("steps_kernelsum_vllm019.csv.gz", "kernels", KAIST, "MIT", "2026-04"),
        ("steps_h100_vllm015_wall.csv.gz", "steps on a server", BLIS, NO_LICENCE, "2026-02"),
    ):
        table = pd.read_csv(steps / file)
        if "gap_steps" in table:
            table = table[table.gap_steps <= 10]
        for (card, name, tp), frame in table.groupby(["hardware", "model", "tp"]):
            if models()[canonical(name)].experts:
                put(card, name, tp, measured_experts(frame), measured=measured, source=source,
                    licence=licence, date=date)  # fmt: skip
                continue
            kernels = found.get((card, canonical(name)), {}).get(int(tp))
            said, d_prefill = measured, None
            if kernels is not None:  # timed steps hold too few prompts to tell
                said, d_prefill = f"{measured}; d_prefill from kernels", kernels["law"]["d_prefill"]
            put(card, name, tp, measured_steps(frame, d_prefill), measured=said, source=source,
                licence=licence, date=date)  # fmt: skip
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
    windows = data / "steps" / "windows" / "RTXPRO6000_Llama-3.1-8B_windows_1s.csv"
    known = found["RTXPRO6000", "meta-llama/Llama-3.1-8B"][1]
    known["wall"] = wall(known["law"], read_server_log(windows))
    return found


def measured_run(run: Path) -> dict:
    """Return the same of the requests of a run, by ``calibrate run``."""
    log = read_server_log(f"{run}_requests.csv")
    fit = calibrate_run(log)
    values = dict(zip(("d_0", "d_prefill", "d_decode", "d_kv"), 1e3 * fit.law.value, strict=True))
    assert fit.held_out is not None
    return {
        "law": values,
        "range": f"means of up to {fit.rows.decode_tokens.max():.0f} requests and "
        f"{fit.rows.kv_tokens.max():.0f} KV tokens",
        "fit": {"decode": dict(rows=len(fit.rows), mape=fit.mape, held_out_mape=fit.held_out.mape,
                               held_out="the last 30 % of the run")},
    }  # fmt: skip


def wall(law: dict, rows: BatchRows) -> dict:
    """Return how far the law is from batches timed on a server."""
    decode = law["d_0"] + law["d_decode"] * rows.decode_tokens + law["d_kv"] * rows.kv_tokens
    own = decode + law["d_prefill"] * rows.prefill_tokens
    error = own / (1e3 * rows.step_time) - 1
    return dict(rows=len(rows), bias=float(np.median(error)), mape=float(np.abs(error).mean()),
                source="1 s windows of a vLLM 0.19 run (LLMServingSim)")  # fmt: skip


def main() -> None:
    """Write every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("config/profiles"))
    given = parser.parse_args()
    print(build(given.data, given.out).round(3).to_string())


def build(data: Path, out: Path) -> pd.DataFrame:
    """Write every file; return the errors of the estimates."""
    found = collect(data)
    rows = []
    for (card, name), each in found.items():
        if models()[name].experts:
            continue
        for tp, measurement in each.items():
            sheet = roofline_terms(name, card, tp)
            law = measurement["law"]
            ratio = law["d_kv"] / sheet["d_kv"]
            rows.append({
                "hardware": card, "model": name, "tp": tp, "layers": models()[name].layers, **law,
                **{f"{key}_sheet": value for key, value in sheet.items()},
                # Where KV and requests move together, d_kv takes what belongs to d_decode.
                "kv_measured": bool(0.5 < ratio < 2) and "server" not in measurement["measured"],
            })  # fmt: skip
    laws = pd.DataFrame(rows)
    errors = estimate_errors(laws)
    left, kv_error = reserve(data)
    base = factors(laws)
    for (card, name), each in found.items():
        for tp, measurement in each.items():
            law = measurement["law"]
            if np.isnan(law["d_kv"]):
                law["d_kv"] = base["kv"] * roofline_terms(name, card, tp)["d_kv"]
        write(out / card / f"{name.rpartition('/')[2]}.yaml", {
            "model": name, "hardware": card, "units": UNITS, "tensor_parallel": each,
        })  # fmt: skip
    worst = errors.loc[errors.decode.idxmax()]
    write(out / "estimate.yaml", {
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
    })  # fmt: skip
    return errors


def write(path: Path, content: dict) -> None:
    """Write one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "# Written by benchmarks/build_profiles.py from measurements; do not edit.\n"
    path.write_text(head + yaml.safe_dump(rounded(content), sort_keys=False, width=100))


if __name__ == "__main__":
    main()
