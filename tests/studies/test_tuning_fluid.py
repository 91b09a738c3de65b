"""The value that the fluid model alone gives, and how far from it the engine's is expected."""

from __future__ import annotations

import math

import pytest

from fluid import capacity
from ode.error_model import ErrorReport, Expected
from ode.error_model.report import DECIDING
from serving import BatchTimeLaw, ConfigError, DecodeNode, Distribution
from studies import Question
from studies.tuning import MAX_RATE, SearchSettings, Slo, at_mean_rate, parse_slo, predict, tune
from studies.tuning.fluid_answer import AT_CAPACITY, FLAT, MANY, FluidAnswer, fluid_answer
from studies.tuning.screening import Margins
from workload import describe

NORMAL = describe("normal", rate_shape="constant")
SHORT = SearchSettings(tolerance=0.05, least_requests=2000, most_requests=20_000, replications=4)
BRACKET = (0.1, 10.0)


def question_of(requests: float) -> Question:
    """Return arrivals on a node that so many requests fill."""
    mix = NORMAL.mix
    tokens = int(requests * mix.work / mix.mean_decode)
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 5.0 / tokens), M_total=tokens, B=None)
    return Question(NORMAL.at_rate(0.5 * capacity(mix, node)), node)


def slo_of(question: Question, name: str, load: float = 0.7) -> Slo:
    """Return the objective that the model sees met up to a load."""
    loose = parse_slo(f"{name}<1")
    latencies = predict(at_mean_rate(question, load * question.capacity))
    return parse_slo(f"{name}<{loose.predicted(latencies[loose.latency])!r}")


class Line:
    """A screen whose margin is slope times log(value), known to a half-width about a bias."""

    def __init__(self, slope: float, half: float, bias: float = 0.0, end: float = math.inf) -> None:
        self.slope, self.half, self.bias, self.end = slope, half, bias, end
        self.values = [0.1 * 1.25**i for i in range(21)]

    def margins(self, value: float) -> Margins:
        """Return the margin at a value, infinite from the end on."""
        if value >= self.end:
            return Margins(math.inf, math.inf, math.inf, math.inf)
        at = self.slope * math.log(value)
        middle = at - self.bias
        return Margins(at, middle - self.half, middle, middle + self.half)

    def margin(self, value: float) -> float:
        """Return what is predicted."""
        return self.margins(value).predicted


def answer_of(line: Line, edges: tuple[float, ...] = (1.0,)) -> FluidAnswer:
    """Return what is said of the crossing of a line."""
    return fluid_answer(line, MAX_RATE, edges, BRACKET, 1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("slope", [0.5, 2.0, 8.0, -2.0])
def test_an_error_moves_a_crossing_by_itself_over_the_slope(slope):
    found = answer_of(Line(slope, 0.2, bias=0.05))
    assert found.interval is not None and found.middle is not None and not found.reason
    assert math.log(found.middle) == pytest.approx(0.05 / slope, abs=2e-4)
    low, high = (math.log(end) for end in found.interval)
    assert low == pytest.approx(0.05 / slope - 0.2 / abs(slope), abs=2e-4)
    assert high == pytest.approx(0.05 / slope + 0.2 / abs(slope), abs=2e-4)
    assert found.bound == pytest.approx(math.expm1(0.2 / abs(slope)), rel=2e-3)


def test_where_nothing_can_be_said_of_a_crossing_the_reason_is():
    assert answer_of(Line(0.02, 0.2)) == FluidAnswer(reason=FLAT)
    assert answer_of(Line(1.0, 0.2), (0.5, 2.0)).reason == MANY
    assert answer_of(Line(1.0, 0.2), ()).bound == math.inf
    near = answer_of(Line(2.0, 0.2, end=1.05))
    assert near.interval is not None and near.interval[1] == pytest.approx(1.05, rel=1e-3)
    assert near.reason == AT_CAPACITY and near.bound == math.inf


def test_the_model_answers_where_it_is_near_enough_as_if_it_had_been_named():
    question = question_of(200)
    slos = [slo_of(question, "mean_e2el")]
    named = tune("max-rate", question, slos, method="stationary", settings=SHORT)
    assert named.engine_runs == 0 and named.points == () and named.value is not None
    assert named.interval is not None
    low, high = named.interval
    assert low <= named.value <= high
    chosen = tune("max-rate", question, slos, within=0.2, settings=SHORT)
    assert chosen.method == "stationary" and chosen.to_json() == named.to_json()
    said = named.to_json()
    assert said["measured"] is None and said["estimate"] is None
    assert said["confidence_interval"] == [low, high] and said["confidence"] == 0.9
    assert said["error"]["low"] == pytest.approx(named.value / high - 1)
    assert "nothing was simulated" in said["reason"] and "%" in said["error"]["words"]


def test_the_engine_answers_where_the_model_is_not_and_is_inside_of_its_interval():
    question = question_of(60)
    slos = [slo_of(question, "p99_ttft")]
    found = tune("max-rate", question, slos, within=0.001, settings=SHORT)
    assert found.method == "engine" and found.engine_runs > 0
    assert found.fluid.interval is not None and found.fluid.bound > 0.001
    low, high = found.fluid.interval
    assert found.answer is not None
    met, missed = found.answer.bracket  # the crossing is between them
    assert low < missed and met < high
    by_name = tune("max-rate", question, slos, method="engine", within=9.0, settings=SHORT)
    assert by_name.value == found.value and by_name.fluid == found.fluid


def test_what_nobody_measured_is_answered_by_the_engine():
    question, asked = question_of(200), {"within": 9.0, "settings": SHORT}
    found = tune("max-rate", question, [slo_of(question, "p95_ttft")], **asked)
    assert found.method == "engine" and "p95_ttft were not measured" in found.fluid.reason

    def own(at: Question) -> dict[str, Distribution]:
        wait = 1.0 + 20 * at.stream.mean_rate / question.capacity
        return {"ttft": Distribution(wait, wait, dict.fromkeys((50, 90, 95, 99), wait))}

    found = tune("max-rate", question, [parse_slo("p99_ttft<9")], predictor=own, **asked)
    assert found.method == "engine" and "one's own" in found.fluid.reason
    assert found.fluid.interval is None
    found = tune("max-rate", question, **asked)
    assert found.method == "engine" and "capacity" in found.fluid.reason


@pytest.mark.parametrize("wrong", [{"method": "oracle"}, {"within": 0.0}, {"within": math.inf}])
def test_whom_and_how_near_is_checked(wrong):
    with pytest.raises(ConfigError):
        tune("max-rate", question_of(60), [parse_slo("p99_ttft<12")], **wrong)


def test_several_objectives_are_as_far_off_as_the_one_that_binds():
    from studies.tuning.screening import Screen

    tight, wide = Expected(0.0, 0.01), Expected(0.1, 0.3)
    report = ErrorReport({**dict.fromkeys(DECIDING, tight), "p99_ttft": wide})
    screen = Screen(lambda _: question_of(60), [parse_slo("mean_ttft<1"), parse_slo("p99_ttft<2")])
    found = screen._expected([0.0, -0.2], report)
    assert found.predicted == 0.0
    assert found.low == pytest.approx(-0.01)  # of the mean
    assert found.middle == pytest.approx(0.0) and found.high == pytest.approx(0.01)
    binds = screen._expected([-1.0, -0.2], report)
    assert (binds.low, binds.middle, binds.high) == (
        pytest.approx(-0.6), pytest.approx(-0.3), pytest.approx(0.0),
    )  # fmt: skip
