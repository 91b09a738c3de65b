"""Pictures say what they show: the node, the load, the unit; and no words lie on others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

PROFILE = ("--model", "Llama-3.1-8B", "--hardware", "RTX4090")
FEW = ("--load", 0.9, "--num-requests", 80, "--no-verbose", "--out", "x")
CROWDED = (
    "--types", "(20,20,4.4)", "--mode", "sacrifice", "--B", "none", "--M-total", 1000, "--d-0",
    0.05, "--d-1", 0.00032, "--load", 1.2, "--num-requests", 300, "--no-verbose", "--out", "x",
)  # fmt: skip
SEVERAL = ("--replications", 3, "--workers", 1, "--methods", "lagrangian,node_work")


@pytest.fixture
def drawn(monkeypatch):
    """Keep every figure that is saved, by the name of its file."""
    from matplotlib.figure import Figure

    import fluidserve.plots.style as style

    found, save, path_of = {}, Figure.savefig, style.atomic_write
    paths = []

    def noting(path, *args, **kwargs):
        paths.append(path)
        return path_of(path, *args, **kwargs)

    def keeping(figure, *args, **kwargs):
        found[Path(paths[-1]).name] = figure
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(style, "atomic_write", noting)
    monkeypatch.setattr(Figure, "savefig", keeping)
    return found


def words_of(figure):
    """Return the texts that one sees: titles, labels, legends, notes, ticks within the axes."""
    figure.draw_without_rendering()
    found = [text for legend in figure.legends for text in (*legend.texts, legend.get_title())]
    found += figure.texts
    for axes in figure.axes:
        found += [*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [tick.label1 for tick in ticks]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def overlaps(figure):
    """Return pairs of texts that lie on each other by more than a pixel."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in words_of(figure)]
    found = []
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 1 and high > 1:
            found.append((one, other))
    return found


def check_words(drawn, summary):
    """Every picture has a title with node, load and unit, and no words on others."""
    unit = summary["instance"]["time_unit"]
    times = "times in s" if unit == "s" else "times in the unit of the batch-time law"
    for name, figure in drawn.items():
        said = "\n".join(text.get_text() for text in words_of(figure))
        load = f"load {summary['workload']['load']:.4g} of capacity"
        assert all(word in said for word in ("M_total", load, times)), (name, said)
        assert overlaps(figure) == [], name
        assert all(axes.get_title(loc="left") or axes.get_ylabel() for axes in figure.axes)


def check_offered_rate(drawn, summary):
    """The rate is the given one until the last arrival, and 0 after it."""
    rate = summary["workload"]["mean_arrival_rate"]
    panel = drawn["system_dynamics.png"].axes[0]
    assert panel.get_title(loc="left") == "offered and served rate"
    values = panel.patches[0].get_data().values
    offered = np.isclose(values, rate, rtol=1e-3)
    assert offered.any() and (offered | (values < rate)).all()
    assert np.isclose(values[~offered], 0).sum() >= (~offered).sum() - 1  # the last is cut short


@pytest.mark.slow
def test_pictures_of_a_comparison(run, drawn):
    done = run("compare", *FEW, *PROFILE, "--engine", "decode_node", *SEVERAL)
    assert done.exit_code == 0, done.stderr
    assert len(drawn) == 3
    said = [text.get_text() for text in words_of(drawn["fluid_vs_discrete.png"])]
    assert "this engine swaps nobody out" not in said
    check_words(drawn, json.loads(done.stdout))
    check_offered_rate(drawn, json.loads(done.stdout))


def test_pictures_of_one_node(run, drawn):
    """Its model has requests in the system before any came: they are no arrivals."""
    done = run("solve", "--method", "node_work", *FEW)
    assert run("plot", "x").exit_code == 0
    check_words(drawn, json.loads(done.stdout))
    check_offered_rate(drawn, json.loads(done.stdout))
    said = [text.get_text() for text in words_of(drawn["system_dynamics.png"])]
    assert said.count("not computed by this method") == 2  # swapped, memory


@pytest.mark.parametrize(("engine", "swaps"), [("vllm_v1", False), ("vllm_v0", True)])
def test_pictures_of_a_server_say_whether_it_swaps(run, drawn, engine, swaps):
    law = ("--d-0", 0.01, "--d-decode", 1e-4, "--d-kv", 0, "--d-prefill", 1e-4)
    done = run("simulate", "--engine", engine, *law, "--num-gpu-blocks", 200, "--num-requests", 40,
               "--arrival-rate", 20, "--no-verbose", "--out", "x")  # fmt: skip
    assert done.exit_code == 0 and run("plot", "x").exit_code == 0
    said = [text.get_text() for text in words_of(drawn["system_dynamics.png"])]
    assert ("this engine swaps nobody out" in said) != swaps
    assert all(overlaps(figure) == [] for figure in drawn.values()) and len(drawn) == 2


def test_picture_of_an_analysis(run, drawn):
    done = run("analyze", *FEW, "--transient")
    assert list(drawn) == ["elasticities.png"]
    check_words(drawn, json.loads(done.stdout))


@pytest.mark.slow
def test_a_timeline_says_that_it_is_a_sample(run, drawn):
    done = run("simulate", *CROWDED)
    run("plot", "x")
    check_words(drawn, json.loads(done.stdout))
    said = [text.get_text() for text in words_of(drawn["request_timeline.png"])]
    note = next(text for text in said if "sample" in text)
    assert " of 300 requests" in note and "evicted" in note and "R:n restarted" in note
    assert "S:n" not in note  # nobody was swapped out


def test_a_curve_over_a_memory_says_its_numbers_and_what_it_rests_on(drawn, tmp_path):
    """An interval that reaches 0 does not stretch the axis; the numbers of a log axis are apart."""
    from fluidserve.plots import latency_curves

    memory = np.geomspace(1100.0, 40_000.0, 8)
    columns = {"source": np.array(["engine"] * 8), "M-total": memory}
    for latency in ("ttft", "tpot", "e2el"):
        for statistic, value in (("mean", 20.0), ("p50", 10.0), ("p99", 90.0)):
            name = f"{statistic}_{latency}"
            columns |= {name: np.full(8, value), f"{name}_low": np.full(8, -5.0)}
            columns |= {f"{name}_high": np.full(8, 2 * value)}
    latency_curves(
        columns, "M-total", tmp_path / "c.png", title="a node", knob_label="M-total [tokens]",
        time_unit="none", is_log=True, footnote="5 runs of 20,000 requests at each value",
    )  # fmt: skip
    figure = drawn["c.png"]
    assert overlaps(figure) == []
    said = [text.get_text() for text in words_of(figure)]
    assert said.count("5,000") == 3 and any("5 runs" in text for text in said)
    for axes in figure.axes:
        assert axes.get_ylim()[0] == pytest.approx(5.0) and axes.get_ylim()[1] < 400


def test_a_map_of_three_loads_has_three_panels(run, drawn):
    done = run("phase-diagram", "--quick", "--no-engine", "--mode", "swapping", "--loads",
               "0.6,0.8,0.95")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    figure = drawn["phase_diagram.png"]
    assert sum(axes.axison for axes in figure.axes) == 3
    said = [text.get_text() for text in words_of(figure)]
    assert "edge of a regime" not in said  # at none of these loads is there one
    numbers = [
        label.get_window_extent()
        for axes in (figure.axes[2], figure.axes[1])
        for label in axes.get_xticklabels()
    ]
    assert numbers[0].x0 >= figure.axes[2].bbox.x0 - 1  # not over the edge of its panel
    assert numbers[-1].x1 <= figure.axes[1].bbox.x1 + 1


def _server_map(points):
    from serving import VllmV1
    from studies.server_map import ServerMap

    two = np.array([0.0, 0.4]), np.array([0.1, 10.0])
    names = np.array([[["healthy", "limit_cycle"]] * 2, [["bistable", "backlogged"]] * 2])
    field = np.array([[1.0, 1.2], [0.9, 1.1]])
    entering = {"max_num_seqs": np.array([[1.0, 2.0]] * 2), "KV blocks": np.array([[2.0, 1.0]] * 2)}
    return ServerMap(VllmV1(), 200.0, *two, np.array([0.9, 1.1]), names, field, field, field.T,
                     field - 0.9, field, field.T, entering, points)  # fmt: skip


def test_the_map_of_a_server_names_what_it_shows(drawn, tmp_path):
    from fluidserve.plots import server_regimes
    from studies.server_map import ServerPoint

    point = ServerPoint(0.2, 1.0, 0.9, "healthy", "bistable", 0.85, 0.9, 0.5, 0.4)
    server_regimes(_server_map((point,)), tmp_path / "map.png", server="a model on a card")
    figure = drawn["map.png"]
    said = [text.get_text() for text in words_of(figure)]
    for words in ("engine disagrees", "another limit binds", "limit cycle", "seats bind",
                  "KV binds", "engine: 0 of 1 points agree"):  # fmt: skip
        assert words in said, said
    assert "engine agrees" not in said
    assert overlaps(figure) == []
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


LAW = ("--d-0", 0.01, "--d-decode", 1e-4, "--d-kv", 0, "--d-prefill", 1e-4)


@pytest.mark.slow
def test_a_comparison_of_a_server_says_that_it_swaps_nobody(run, drawn):
    done = run("compare", "--engine", "vllm_v1", *LAW, "--num-gpu-blocks", 200, "--num-requests",
               40, "--replications", 2, "--workers", 1, "--arrival-rate", 20)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    said = [text.get_text() for text in words_of(drawn["fluid_vs_discrete.png"])]
    assert "this engine swaps nobody out" in said
    assert overlaps(drawn["fluid_vs_discrete.png"]) == []


def test_the_picture_of_a_prefix_cache_names_server_and_requests(run, drawn):
    talk = ("--sessions", 5, "--turns", 3, "--think-time", 5, "--num-requests", 60)
    done = run("prefix-cache", "--engine", "vllm_v1", *LAW, "--num-gpu-blocks", 2000, *talk,
               "--picture", "hits.png")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    figure = drawn["hits.png"]
    said = "\n".join(text.get_text() for text in words_of(figure))
    assert "vLLM 0.33, 2,000 blocks of 16" in said and "60 requests" in said
    assert "10,000" in said and "10^" not in said
    assert overlaps(figure) == []


def test_the_picture_of_a_measured_run_keeps_its_legend_off_the_data(drawn, tmp_path):
    from fluidserve.plots import measured_vs_predicted

    time = np.arange(50.0)
    columns = {f"{owner}.in_system": time for owner in ("measured", "engine", "fluid")}
    measured_vs_predicted(
        {"time": time, **columns}, tmp_path / "v.png", title="light: 50 requests", until=20.0
    )
    figure = drawn["v.png"]
    said = [text.get_text() for text in words_of(figure)]
    assert {"measured", "engine", "fluid", "calibrated until here"} <= set(said)
    assert overlaps(figure) == []
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 >= figure.axes[0].bbox.y1 - 1


REQUESTS = "arrival_time,prefill_length,decode_length\n" + "".join(
    f"{0.5 * i},{20 + 7 * (i % 5)},{10 + 5 * (i % 7)}\n" for i in range(300)
)


def fleets_of(axes):
    """Return (instances, value, whether the point is full) of the fleets in a panel."""
    return sorted(
        (x, y, line.get_markerfacecolor() != "white")
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in zip(*line.get_data(), strict=True)
    )


@pytest.mark.parametrize("slos", [("mean_ttft<2",), ("mean_ttft<2", "p90_e2el<60", "p90_e2el<70")])
def test_the_picture_of_a_least_fleet_is_the_answer(run, drawn, tmp_path, slos):
    (tmp_path / "r.csv").write_text(REQUESTS)
    given = [word for slo in slos for word in ("--slo", slo)]
    done = run("tune", "replicas", "--requests", "r.csv", "--B", 600, "--time-unit", "s", *given,
               "--no-verbose", "--out", "x")  # fmt: skip
    found = json.loads(done.stdout)
    *panels, gpu = drawn["replicas.png"].axes
    names = dict.fromkeys(slo.partition("<")[0] for slo in slos)
    shown = [axes for axes in panels if axes.axison]
    assert len(shown) == len(names)
    for name, axes in zip(names, shown, strict=True):
        assert fleets_of(axes) == [
            (size["replicas"], pytest.approx(size["measured"][name]), size["met"])
            for size in found["sizes"]
        ]
        lines = {float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "--"}
        assert lines == {float(slo.partition("<")[2]) for slo in slos if slo.startswith(name)}
        (bars,) = axes.collections
        ends = [sorted(bar[:, 1]) for bar in bars.get_segments()]
        assert ends == [
            pytest.approx(s["interval"][name]) for s in found["sizes"] if s["interval"][name]
        ]
        assert axes.get_ylabel().endswith("[s]")
    assert [y for _, y, _ in fleets_of(gpu)] == [
        pytest.approx(size["replicas"] * found["gpu"]["gpu_hours"] / found["value"], rel=0.2)
        for size in found["sizes"]
    ]
    best = found["gpu"]["perfect_system"]
    lines = [float(each.get_ydata()[0]) for each in gpu.lines if each.get_marker() != "o"]
    assert lines == [
        pytest.approx(best[key])
        for key in ("gpu_hours", "replicas_gpu_hours", "switched_gpu_hours")
    ]
    check_fleets(drawn["replicas.png"], found)
    said = [text.get_text() for text in words_of(drawn["replicas.png"])]
    assert "95 % interval by blocks of the trace" in said and "GPU time [GPU-hours]" in said


def check_fleets(figure, found):
    """Node, requests, policy and answer are named; no words lie on others."""
    said = "\n".join(text.get_text() for text in words_of(figure))
    assert "M_total" in said and f"policy {found['policy']}" in said
    answer = found["value"]
    assert ("answer: " in said) == (answer is not None)
    assert (f"answer: {answer}" if answer else "replicas not found") in said
    for axes in figure.axes:
        strips = [each for each in axes.patches if each.get_width() < 2]
        assert len(strips) == (answer is not None and axes.axison)
        assert all(each.get_x() < answer < each.get_x() + each.get_width() for each in strips)
        assert not axes.axison or all(tick == round(tick) for tick in axes.get_xticks())
    assert overlaps(figure) == []


STREAM = (
    "tune", "replicas", "--arrival-rate", 0.3, "--run-length", 2000, "--replications", 4,
    "--no-verbose", "--out", "x",
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("--slo", "p99_ttft<40"), ("p99 TTFT [time units]", "backlog growth [requests per")),
        (("--bracket", "4:9"), ("backlog growth [requests per arrival]",)),
        (("--slo", "p99_ttft<0.01", "--bracket", "5:100"), ("p99 TTFT [time units]",)),
    ],
)
def test_the_picture_of_a_fleet_for_a_stream(run, drawn, given, names):
    """The growth of the backlog is shown where it decides, or might."""
    found = json.loads(run(*STREAM, *given).stdout)
    figure = drawn["replicas.png"]
    check_fleets(figure, found)
    shown = [axes.get_ylabel() for axes in figure.axes if axes.axison]
    assert len(shown) == len(names) + 1
    assert all(label.startswith(name) for label, name in zip(shown, names, strict=False))
    assert shown[-1] == "GPU time [time units per unit of time]"
    assert [y for _, y, _ in fleets_of(figure.axes[len(names)])] == [
        size["replicas"] for size in found["sizes"]
    ]
