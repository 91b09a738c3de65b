"""The example of the guide is what the service answers."""

from __future__ import annotations

import json
import re

import pytest
from toy_service import client_of

from fluidserve.inputs import load_inputs
from fluidserve.serve.service import Service
from scheduling import Predictor


def test_the_example_of_the_guide_is_true(root):
    text = (root / "docs/serve.md").read_text(encoding="utf-8")
    calls = re.findall(r"8371(/v1/\w+) .*?-d '\s*(\{.*?\})'", text, flags=re.S)
    (said,) = re.findall(r"```json\n(.*?)```", text, flags=re.S)
    inputs = load_inputs({"config_file": str(root / "config/llama8b_decode_node.yaml")})
    client = client_of(Service(Predictor([inputs.instance] * 4, inputs.question.mix), "s"))
    assert len(calls) == 3
    decoder, expected = json.JSONDecoder(), []
    while said := said.strip():
        found, end = decoder.raw_decode(said)
        expected.append(found)
        said = said[end:]
    for (path, body), answer in zip(calls, expected, strict=True):
        found = client.post(path, json=json.loads(body)).json()
        rows, mine = found.pop("predictions", []), answer.pop("predictions", [])
        assert found == answer and len(rows) == len(mine)
        for row, own in zip(rows, mine, strict=True):
            numbers = {key: value for key, value in own.items() if isinstance(value, float)}
            assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-6)
            assert {key: row[key] for key in own.keys() - numbers} == {
                key: own[key] for key in own.keys() - numbers
            }
