"""Kinds, readings and doors: one more kind, and one more fluid model, without touching a room."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from toy_engine import REFUSAL, TOY, ToyNode

import fluid
import ode
from serving import (
    KINDS,
    ConfigError,
    DecodeNode,
    Reading,
    RequestMix,
    UnsupportedError,
    answers,
    kind_named,
    kind_of,
    reading_of,
    register,
)
from serving.batch_kernel import batch_duration, step_duration

MIX = RequestMix.from_lengths([10, 20], [5, 8])


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(KINDS, "toy", TOY)
    return ToyNode()


def test_a_kind_is_registered_once_and_named_by_its_instances(monkeypatch):
    monkeypatch.setattr("serving.kinds.registry.KINDS", kinds := dict(KINDS))
    register(TOY)
    assert kinds["toy"] is TOY and kind_of(DecodeNode()) is kinds["decode_node"]
    with pytest.raises(ConfigError, match=r"a name other than decode_node \| .*toy"):
        register(TOY)
    with pytest.raises(ConfigError, match="'nope'"):
        kind_named("nope")


@pytest.mark.parametrize("thing", [None, 3, "decode_node", ToyNode()])
def test_what_is_no_instance_of_a_registered_kind_is_said_to_be_none(thing):
    with pytest.raises(UnsupportedError, match="is no instance of an engine; engines: decode_node"):
        kind_of(thing)


def test_a_declaration_names_what_there_is():
    """Every limit and column of a kind is an output, every knob a setting, every path a class."""
    from dataclasses import fields

    from serving import OUTPUTS, BatchTimeLaw

    law = {item.name for item in fields(BatchTimeLaw)}
    for kind in KINDS.values():
        settings = {item.name for item in fields(kind.settings)}
        instance = kind.settings()
        assert instance.engine == kind.name and set(kind.law_keys) <= law
        assert {knob.key for knob in kind.knobs} <= settings
        assert set(kind.kv_keys(1000, {})) <= settings
        assert "memory" in kind.limits(instance) and set(kind.limits(instance)) <= set(OUTPUTS)
        assert {c.output for c in kind.snapshot if c.output} <= set(OUTPUTS)
        assert callable(kind.engine_class()) and kind.line(instance) and kind.title
        larger = instance.scaled(3)
        assert kind.largest_request(larger).value >= kind.largest_request(instance).value
        for knob in kind.knobs:
            (low, high), (least, most) = knob.bracket(MIX, instance), knob.limits(MIX, instance)
            assert least <= low < high <= most


def test_a_door_without_an_instance_says_what_is_missing():
    with pytest.raises(TypeError, match="instance"):
        fluid.capacity(MIX)


def test_every_coefficient_of_a_kind_makes_its_batches_longer():
    """A key that a kind names and its law in compiled code forgets would be ignored in silence."""
    for kind in KINDS.values():
        none = dict.fromkeys(kind.law_keys, 0.0) | {
            key: None for key in kind.law_keys if key.endswith("_table")
        }
        for key in kind.law_keys:
            value = ((1.0, 1.0), (9.0, 2.0)) if key.endswith("_table") else 1.0
            vector = kind.law(none | {key: value}).vector()
            assert step_duration(vector.ctypes.data, 4.0, 50.0, 9.0, 99.0, 5.0, 3.0) > 0 or (
                batch_duration(vector.ctypes.data, 50.0, 4.0, 3.0) > 0
            ), key


DOORS = {
    fluid: {
        "capacity": (), "saturation": (), "fastest_batch": (), "certificate": (),
        "equilibrium": (0.1,), "healthy_batch_time": (0.1,), "equilibrium_gradients": (0.1,),
        "mean_time_to_full": (0.1,),
        "parameter_values": (0.1,), "with_parameter": (0.1, "d_0", 2.0),
        "saturation_sensitivity": (0.1,), "threshold_without_eviction": (), "worst_cycle": (),
        "work_closure": (0.1,),
    },
    ode: {
        "choose_threshold": (0.1,), "collapsed_throughput": (), "hysteresis": (),
        "regime": (0.1,), "stationary": (0.1,), "time_to_full": (0.1,),
    },
}  # fmt: skip
"""Every question to a fluid model by room: what comes after mix and instance."""

CALLS = [(room, name, more) for room, names in DOORS.items() for name, more in names.items()]


@pytest.mark.parametrize(("room", "name", "more"), CALLS, ids=[call[1] for call in CALLS])
def test_every_door_of_the_fluid_answers_in_the_words_of_the_kind(toy, room, name, more):
    with pytest.raises(UnsupportedError, match=REFUSAL):
        getattr(room, name)(MIX, toy, *more)


def test_doors_over_time_answer_in_the_words_of_the_kind(toy):
    from serving import RateProfile

    profile = RateProfile.constant(0.1, 10.0)
    for ask in (lambda: ode.solve(profile, MIX, toy), lambda: ode.gradients(profile, MIX, toy)):
        with pytest.raises(UnsupportedError, match=REFUSAL):
            ask()


def test_no_question_with_an_instance_is_without_a_door():
    """Whatever a fluid room exports and asks for an instance is declared with ``answers``."""
    import inspect

    for room in (fluid, ode):
        for name in room.__all__:
            value = getattr(room, name)
            if inspect.isfunction(value) and "instance" in inspect.signature(value).parameters:
                assert hasattr(value, "model"), f"{room.__name__}.{name} asks no kind"


def test_a_reading_of_another_fluid_model_goes_to_its_package(toy, monkeypatch):
    """A fluid model is a folder: ``fluid.<model>`` answers by functions of the same names."""
    from dataclasses import replace

    model = ModuleType("fluid.toy_model")
    model.__spec__ = fluid.__spec__  # any spec: it is there
    model.capacity = lambda mix, instance: (mix, instance, "toy")
    monkeypatch.setitem(sys.modules, "fluid.toy_model", model)
    read = replace(TOY, reading=lambda node: Reading("toy_model", ("settings", node.slots)))
    monkeypatch.setitem(KINDS, "toy", read)
    assert reading_of(toy) == Reading("toy_model", ("settings", 1000))
    assert fluid.capacity(MIX, toy) == (MIX, ("settings", 1000), "toy")
    assert fluid.capacity(mix=MIX, instance=toy) == (MIX, ("settings", 1000), "toy")
    with pytest.raises(UnsupportedError, match="'toy_model' has no answer to 'equilibrium'"):
        fluid.equilibrium(MIX, toy, 0.1)
    with pytest.raises(UnsupportedError, match="'toy_model' has no answer to 'regime'"):
        ode.regime(MIX, toy, 0.1)


def test_a_reading_may_be_another_instance_of_the_same_model(monkeypatch):
    """A kind whose fluid is the decode node's with other settings needs no fluid of its own."""
    from dataclasses import replace

    node = DecodeNode(M_total=5000, B=None)
    monkeypatch.setitem(KINDS, "toy", replace(TOY, reading=lambda _: Reading("decode_node", node)))
    assert fluid.capacity(MIX, ToyNode()) == fluid.capacity(MIX, node)
    assert ode.regime(MIX, ToyNode(), 0.01) == ode.regime(MIX, node, 0.01)


def test_a_door_keeps_what_is_said_of_its_function():
    @answers("decode_node")
    def question(mix, instance, *, more=1):
        """Return an answer."""
        return mix, instance, more

    assert question.__doc__ == "Return an answer."
    node = DecodeNode()
    assert question(1, node, more=2) == (1, node, 2) == question(mix=1, instance=node, more=2)
