"""Kinds of engine: what each declares, which there are, and which fluid model answers for each."""

from serving.kinds.card_knobs import CARD_KNOBS as CARD_KNOBS
from serving.kinds.card_knobs import CardKnob as CardKnob
from serving.kinds.card_knobs import card_knob_named as card_knob_named
from serving.kinds.decode_node import MODES as MODES
from serving.kinds.decode_node import QUEUE_POLICIES as QUEUE_POLICIES
from serving.kinds.decode_node import TIME_UNITS as TIME_UNITS
from serving.kinds.decode_node import VICTIM_POLICIES as VICTIM_POLICIES
from serving.kinds.decode_node import DecodeNode as DecodeNode
from serving.kinds.fluid_models import answers as answers
from serving.kinds.fluid_models import reading_of as reading_of
from serving.kinds.kind import Column as Column
from serving.kinds.kind import Event as Event
from serving.kinds.kind import Instance as Instance
from serving.kinds.kind import Kind as Kind
from serving.kinds.kind import KnobSpec as KnobSpec
from serving.kinds.kind import Limit as Limit
from serving.kinds.kind import Reading as Reading
from serving.kinds.registry import DEFAULT_KIND as DEFAULT_KIND
from serving.kinds.registry import KINDS as KINDS
from serving.kinds.registry import check_fits as check_fits
from serving.kinds.registry import kind_named as kind_named
from serving.kinds.registry import kind_of as kind_of
from serving.kinds.registry import register as register
from serving.kinds.vllm_v0 import VllmV0 as VllmV0
from serving.kinds.vllm_v1 import VllmV1 as VllmV1
