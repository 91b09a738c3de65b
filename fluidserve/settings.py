"""Every configuration key, read off the dataclasses of ``serving``; nothing is listed twice."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from serving import BatchTimeLaw, DecodeNode, allowed_values, setting

ENGINES = ("decode_node",)
PLANNED_ENGINES = ("vllm_v0", "vllm_v1")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run needs besides the instance."""

    engine: str = setting("decode_node", "engine", choices=ENGINES)
    request_file: str | None = setting(None, "requests to run [CSV]")
    output_dir: str | None = setting(None, "experiment folder")
    L_filter: int | None = setting(
        None, "drop requests that decode more tokens than this; null = keep all", minimum=1
    )
    seed: int = setting(42, "seed of everything random", minimum=0)
    verbose: bool = setting(True, "progress on stderr")
    progress_interval: int = setting(100, "batches between two looks at the progress", minimum=1)


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration key.

    Parameters
    ----------
    key
        Its name in a configuration file.
    group
        ``"law"`` (batch time), ``"node"`` (the instance) or ``"run"``.
    kind
        ``str``, ``int``, ``float``, ``bool``, or ``tuple`` for a table.
    optional
        Whether null is allowed.
    default, doc, rules
        As given to :func:`serving.setting`.
    """

    key: str
    group: str
    kind: type
    optional: bool
    default: Any
    doc: str
    rules: MappingProxyType[str, Any]

    @property
    def flag(self) -> str:
        """The option of the command line."""
        names = {"request_file": "requests", "output_dir": "out"}
        return "--" + names.get(self.key, self.key).replace("_", "-")

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return allowed_values(self.kind.__name__, self.rules, optional=self.optional)


def _settings(spec: type, group: str) -> list[Setting]:
    hints, found = get_type_hints(spec), []
    for item in fields(spec):
        if "doc" not in item.metadata:
            continue
        hint, optional = hints[item.name], False
        if get_origin(hint) is not None:  # X | None
            optional = type(None) in get_args(hint)
            hint = next(part for part in get_args(hint) if part is not type(None))
        assert item.default is not MISSING
        rules = {name: rule for name, rule in item.metadata.items() if name != "doc"}
        found.append(
            Setting(
                item.name,
                group,
                hint,
                optional,
                item.default,
                item.metadata["doc"],
                MappingProxyType(rules),
            )
        )
    return found


PREFILL = (
    "d_prefill", "d_prefill_attention", "d_prefill_context", "d_prefill_table", "d_mixed_decode",
    "d_mixed_kv_table",
)  # fmt: skip
"""Coefficients of the law that a decode node has no use for: it computes no prefill."""

SETTINGS: dict[str, Setting] = {
    item.key: item
    for item in (
        *_settings(DecodeNode, "node"),
        *(item for item in _settings(BatchTimeLaw, "law") if item.key not in PREFILL),
        *_settings(RunOptions, "run"),
    )
}
"""Every key of a configuration file by name, in the order in which files show them."""

D_1 = Setting(
    "d_1",
    "law",
    float,
    False,
    SETTINGS["d_kv"].default,
    "shorthand for d_decode = d_kv = d_1 [time/token]",
    SETTINGS["d_kv"].rules,
)
"""The one key that stands for two others."""
