"""Profiles: names, files, estimates, and what they are made of."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from calibration.profiles import (
    FOLDER,
    ProfileFile,
    Roofline,
    estimated_kv_capacity,
    estimated_law,
    find,
    gpus,
    listing,
    measured,
    models,
    read,
    roofline,
)
from calibration.profiles.names import gpu_key, model_key
from serving import ConfigError, FileAccessError, FluidServeError

ROOT = Path(__file__).resolve().parents[2]
EXACT = Roofline(weights=1, layer=0, kv=1, decode=1, prefill=1, reserve=1, error={}, source="",
                 date="")  # fmt: skip


def test_the_files_are_those_of_config_and_travel_with_the_package():
    assert FOLDER.resolve() == (ROOT / "config" / "profiles").resolve()
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    package = ROOT / "calibration" / "profiles"
    sent = {path.resolve() for glob in data["calibration.profiles"] for path in package.glob(glob)}
    assert sent == set((ROOT / "config" / "profiles").resolve().rglob("*.yaml"))


def test_every_profile_names_a_known_model_and_card_and_says_where_it_is_from():
    assert len(measured()) >= 40
    for (model, card, tp), each in measured().items():
        assert model in models() and card in gpus() and tp >= 1
        assert each.source and each.licence and each.date and each.range
        profile = find(model, card, tp)
        assert profile.origin == "measured" and profile.kv_capacity > 0
        # of two runs, each of which is far from what the other says
        is_unsure = (model, card) == ("mistralai/Mixtral-8x7B-v0.1", "H100")
        assert (0 < profile.expected_error["decode"] < 0.15) is not is_unsure
    assert len(listing()) == len(measured())


@pytest.mark.parametrize(
    "model", ["meta-llama/Llama-3.1-8B", "Llama-3.1-8B-Instruct", "llama-3.1-8b",
              "meta-llama/Meta-Llama-3.1-8B-Instruct", "META-LLAMA/llama-3.1-8b-hf"],
)  # fmt: skip
@pytest.mark.parametrize("card", ["RTX4090", "rtx 4090", "NVIDIA GeForce RTX 4090", "RTX-4090"])
def test_a_name_is_found_in_any_spelling(model, card):
    found = find(model, card)
    assert (found.model, found.hardware) == ("meta-llama/Llama-3.1-8B", "RTX4090")


@pytest.mark.parametrize(
    ("model", "card", "expected"),
    [
        ("llama3.1-70b", "H100-SXM", ("meta-llama/Llama-3.1-70B", "H100")),
        ("llama3.1:70b", "NVIDIA H100 80GB HBM3", ("meta-llama/Llama-3.1-70B", "H100")),
        ("/models/Meta-Llama-3.1-70B-Instruct/", "h100 sxm5", ("meta-llama/Llama-3.1-70B", "H100")),
        ("QWEN3_30B_a3b", "NVIDIA A100-SXM4-80GB", ("Qwen/Qwen3-30B-A3B", "A100")),
        ("mixtral 8x7b instruct v0.1", "nvidia/a100-sxm4-40gb",
         ("mistralai/Mixtral-8x7B-v0.1", "A100-40GB")),
        ("phi4", "Tesla A40", ("microsoft/phi-4", "A40")),
        ("gemma2-9b-it", "RTX PRO 6000 Blackwell Workstation Edition",
         ("google/gemma-2-9b", "RTXPRO6000")),
    ],
)  # fmt: skip
def test_names_of_daily_use_mean_their_entry(model, card, expected):
    found = find(model, card, 8 if "70" in expected[0] else 4 if "8x7" in expected[0] else 1)
    assert (found.model, found.hardware) == expected


@pytest.mark.parametrize(
    ("model", "card", "words"),
    [
        ("llama-70b", "H100",
         ["--model llama-70b", "meta-llama/Llama-2-70b-hf or meta-llama/Llama-3.1-70B?"]),
        ("Qwen-38B", "H100", ["--model Qwen-38B", "did you mean"]),
        ("Llama-3.1-70B-FP8", "H100", ["not known", "did you mean meta-llama/Llama-3.1-70B?"]),
        ("llama-3.1-8b", "H100 PCIe", ["--hardware H100 PCIe", "did you mean H100?"]),
        ("llama-3.1-8b", "", ["--hardware", "known are"]),
        ("///", "H100", ["--model ///", "known are"]),
    ],
)  # fmt: skip
def test_what_could_be_another_machine_is_asked_about_and_not_guessed(model, card, words):
    with pytest.raises(FluidServeError) as wrong:
        find(model, card)
    for word in words:
        assert word in str(wrong.value), str(wrong.value)


@pytest.mark.parametrize(
    ("model", "degrees"),
    [
        ("Llama-3.1-8B", [1, 2, 4, 8, 16, 32]),  # 32 heads, 8 KV heads
        ("phi-4", [1, 2, 5, 10, 20, 40]),  # 40 and 10
        ("Qwen2.5-7B", [1, 2, 4, 28]),  # 28 and 4
        ("Llama-2-7b", [1, 2, 4, 8, 16, 32]),  # 32 and 32
    ],
)
def test_a_model_divides_over_the_cards_that_its_heads_divide_over(model, degrees):
    started = []
    for tp in range(1, 65):
        try:
            started.append(find(model, "B200", tp).tp)
        except FluidServeError as wrong:
            assert f"--tp {tp}" in str(
                wrong
            ) and f"allowed: {' | '.join(map(str, degrees))}" in str(wrong)
    assert started == degrees


def test_every_measured_number_of_cards_is_one_that_a_server_starts_with():
    for model, _, tp in measured():
        assert models()[model].divides_over(tp), (model, tp)


def test_no_two_entries_share_a_name():
    for table in (models(), gpus()):
        names = [each for entry, value in table.items() for each in (entry, *value.aliases)]
        assert len(names) == len(set(names))
    for table, key in ((models(), model_key), (gpus(), gpu_key)):
        entries = {}
        for entry, value in table.items():
            for each in (entry, *value.aliases):
                assert entries.setdefault(key(each), entry) == entry, each
    for name in (*models(), *(a for each in models().values() for a in each.aliases)):
        assert name in (find(name, "B200", 2).model, *models()[find(name, "B200", 2).model].aliases)


def test_the_measured_law_of_a_card_is_the_published_one():
    """Known fits (ms): 17.05, .0388, 1.54e-4 and 11.11, .0190, 9.07e-5; the recipes differ."""
    for card, known in {
        "RTX4090": (17.05, 0.0388, 1.54e-4),
        "RTXPRO6000": (11.11, 0.019, 9.07e-5),
    }.items():
        law = find("Llama-3.1-8B", card).law
        for n, kv in ((1, 1000), (64, 64_000), (256, 400_000)):
            expected = known[0] + known[1] * n + known[2] * kv
            took = 1e3 * law.batch_time().duration(kv + n, n)
            assert took == pytest.approx(expected, rel=0.06)


def test_an_estimate_says_so_and_how_far_it_errs():
    found = find("Llama-3.1-8B", "RTX3090")
    assert found.origin == found.kv_capacity_origin == "estimated"
    assert found.expected_error["decode"] < 0.1 < found.expected_error["decode_worst"]
    dense = [model for model, _, _ in measured() if models()[model].experts is None]
    assert found.expected_error["laws"] == len(dense)
    assert "estimated" in found.said()
    assert f"within {100 * found.expected_error['decode']:.1f} %" in found.said()


def test_the_roofline_is_bytes_over_bandwidth_and_operations_over_rate():
    shape, gpu = models()["meta-llama/Llama-3.1-8B"], gpus()["RTX4090"]
    law = estimated_law(shape, gpu, 1, EXACT)
    assert law.d_0 == pytest.approx(2 * 8.03e9 / 1008e9 * 1e3)
    assert law.d_kv == pytest.approx(2 * 32 * 8 * 128 * 2 / 1008e9 * 1e3)
    assert law.d_prefill == law.d_decode == pytest.approx(2 * 8.03e9 / 165.2e12 * 1e3)
    half = estimated_law(shape, gpu, 2, EXACT)
    for name in ("d_0", "d_prefill", "d_decode", "d_kv"):
        assert getattr(half, name) == pytest.approx(getattr(law, name) / 2)


def test_a_mixture_reads_the_experts_that_its_requests_choose():
    shape, rng = models()["Qwen/Qwen3-30B-A3B"], np.random.default_rng(0)
    assert shape.share_read(1) * shape.parameters == pytest.approx(shape.active)
    assert shape.share_read(1e6) == pytest.approx(1)
    chosen = [len(set().union(*(rng.choice(128, 8, replace=False).tolist() for _ in range(16))))
              for _ in range(200)]  # fmt: skip
    each = (shape.parameters - shape.active) / 120
    expected = (shape.active - 8 * each + sum(chosen) / 200 * each) / shape.parameters
    assert shape.share_read(16) == pytest.approx(expected, rel=0.01)
    found = find("Qwen3-30B-A3B-Instruct-2507", "H100")
    assert found.law.d_decode_table is not None
    assert found.expected_error["decode"] == found.expected_error["mixture"] > 0.1
    assert find("Qwen3-30B-A3B", "RTXPRO6000").config()["d_decode_table"][0][1] < 0.01


def test_kv_heads_are_not_divided_further_than_one_each():
    shape = models()["Qwen/Qwen2.5-3B"]
    assert shape.kv_bytes(4) == shape.kv_bytes(2) == shape.kv_bytes(1) / 2


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("Qwen/Qwen2.5-3B", 117925 * 16), ("Qwen/Qwen3-14B", 17600 * 16),
     ("meta-llama/Llama-2-7b-hf", 119008), ("codellama/CodeLlama-34b-hf", 40592)],
)  # fmt: skip
def test_kv_capacity_is_near_what_real_servers_on_an_h100_logged(model, tokens):
    found = estimated_kv_capacity(models()[model], gpus()["H100"], 1, roofline())
    assert found == pytest.approx(tokens, rel=0.04) and found % 16 == 0


def test_utilization_moves_kv_capacity_and_weights_must_fit():
    less, more = (
        find("Llama-3.1-8B", "H100", gpu_memory_utilization=x).kv_capacity for x in (0.5, 0.9)
    )
    gib = (more - less) * models()["meta-llama/Llama-3.1-8B"].kv_bytes(1) / 2**30
    assert gib == pytest.approx(0.4 * gpus()["H100"].memory, abs=0.01)
    with pytest.raises(FluidServeError, match=r"131\.4 GiB.*--tp"):
        find("Llama-3.1-70B", "RTX3090")
    measured_here = find("Llama-2-7b-hf", "H100")
    assert (measured_here.kv_capacity, measured_here.kv_capacity_origin) == (119008, "measured")
    assert find("Llama-2-7b-hf", "H100", gpu_memory_utilization=0.8).kv_capacity < 119008


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("Lama-3.1-8B", "H100"),
            ["--model", "Lama-3.1-8B", "did you mean meta-llama/Llama-3.1-8B"],
        ),
        (("gpt-9", "H100"), ["--model", "gpt-9", "known are", "Qwen/Qwen3-32B"]),
        (("Llama-3.1-8B", "RTX3080"), ["--hardware", "RTX3080", "RTX3090", "known are"]),
        (("Llama-3.1-8B", "H100", 0), ["tp", "0", ">= 1"]),
    ],
)
def test_an_unknown_name_lists_what_exists(arguments, words):
    with pytest.raises(FluidServeError) as wrong:
        find(*arguments)
    for word in words:
        assert word in str(wrong.value)


def test_a_profile_has_real_times():
    found = find("Llama-3.1-8B", "RTX4090")
    law = found.law.batch_time()
    assert law.d_0 == found.config()["d_0"] == pytest.approx(found.law.d_0 / 1e3)
    assert law.mixed_duration(0, 0, 2048) > 0.1 > law.duration(1, 1)
    assert found.config("ms")["d_0"] == pytest.approx(1e3 * found.config("s")["d_0"])
    with pytest.raises(ConfigError, match="real times"):
        found.config("none")
    assert replace(found, kv_capacity=7).config()["M_total"] == 7


def test_a_wrong_file_names_file_and_key(tmp_path):
    content = yaml.safe_load((FOLDER / "RTX4090" / "Llama-3.1-8B.yaml").read_text())
    path = tmp_path / "x.yaml"
    for change, key in (
        (lambda c: c.update(speed=3), "speed"),
        (lambda c: c["tensor_parallel"][1]["law"].update(d_0=-1), "tensor_parallel.1.law.d_0"),
        (lambda c: c["tensor_parallel"][1].pop("licence"), "tensor_parallel.1.licence"),
    ):
        wrong = yaml.safe_load(yaml.safe_dump(content))
        change(wrong)
        path.write_text(yaml.safe_dump(wrong))
        with pytest.raises(FileAccessError) as error:
            read(path, ProfileFile)
        assert "x.yaml" in str(error.value) and key in str(error.value)


@pytest.mark.slow
def test_the_committed_profiles_are_what_the_measurements_give(monkeypatch):
    data = Path(os.environ.get("FLUIDSERVE_SHARED", ROOT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip("no shared data: set FLUIDSERVE_SHARED")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("build", ROOT / "benchmarks/build_profiles.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    found = build.collect(data, ("RTX4090", "A40"))
    build.complete(found, build.SHEET.kv * roofline().kv)
    assert len(found) == 4
    for (card, model), each in found.items():
        close(build.rounded({"tensor_parallel": each}), kept(card, model), ("tensor_parallel",))
    every = {(card, model): kept(card, model)["tensor_parallel"] for model, card, _ in measured()}
    estimate, _ = build.estimate(data, every)
    close(estimate, yaml.safe_load((FOLDER / "estimate.yaml").read_text()), tuple(estimate))


def kept(card, model):
    return yaml.safe_load((FOLDER / card / f"{model.rpartition('/')[2]}.yaml").read_text())


def close(made, committed, keys):
    for key in keys:
        one, other = made[key], committed[key]
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            close(one, other, tuple(one))
        elif isinstance(one, list):
            assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-2)
        else:
            assert one == (other if isinstance(one, str) else pytest.approx(other, rel=1e-2)), key
