"""Collect every configuration key from the kinds of engine, so that no key is listed twice."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from serving import DEFAULT_KIND, KINDS, BatchTimeLaw, ConfigError, Kind, allowed_values, setting


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run needs besides the instance."""

    engine: str = setting(DEFAULT_KIND.name, "engine", choices=(DEFAULT_KIND.name,))
    request_file: str | None = setting(None, "requests to run [CSV]")
    request_start: float | None = setting(
        None, "time of request_file that is time 0; null = its first arrival", minimum=0
    )
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
    kinds
        Names of the kinds of engine that have the key; empty for a key of the run.
    carried
        Whether no kind spends the key: an instance carries it so that answers can say what they
        leave out.
    """

    key: str
    group: str
    kind: type
    optional: bool
    default: Any
    doc: str
    rules: MappingProxyType[str, Any]
    kinds: tuple[str, ...] = ()
    carried: bool = False

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


@cache
def settings_of(kind: Kind) -> dict[str, Setting]:
    """Return the keys of a kind's configuration by name, in the order in which files show them."""
    known = {item.key: item for item in _settings(BatchTimeLaw, "law")}
    spent = [item for key, item in known.items() if key in kind.law_keys]
    carried = [replace(known[key], carried=True) for key in kind.carried_keys]
    own = [
        replace(item, kinds=(kind.name,))
        for item in (*_settings(kind.settings, "node"), *spent, *carried)
    ]
    return {item.key: item for item in (*own, *_settings(RunOptions, "run"))}


def all_settings() -> dict[str, Setting]:
    """Return the keys of every kind by name; a key that several kinds have names them all."""
    found: dict[str, Setting] = {}
    for kind in KINDS.values():
        for key, item in settings_of(kind).items():
            found[key] = _both(found[key], item) if key in found else item
    engine = found["engine"]
    rules = {**engine.rules, "choices": tuple(KINDS)}
    return found | {"engine": replace(engine, rules=MappingProxyType(rules), kinds=())}


def _both(first: Setting, second: Setting) -> Setting:
    """Return the key of two kinds as the command line has it: whatever either of them allows."""
    if first.kind is not second.kind:
        raise ConfigError(
            second.key, second.kind.__name__,
            f"{first.kind.__name__}, as it is in the engine {', '.join(first.kinds)}",
        )  # fmt: skip
    rules = dict(first.rules)
    if "choices" in rules:
        rules["choices"] = tuple(dict.fromkeys((*rules["choices"], *second.rules["choices"])))
    return replace(
        first,
        rules=MappingProxyType(rules),
        optional=first.optional or second.optional,
        carried=first.carried and second.carried,
        kinds=(*first.kinds, *second.kinds),
    )


def defaults_in_words(item: Setting) -> str:
    """Return the default of a key, with the engine beside it where the engines differ."""
    own = {name: settings_of(KINDS[name])[item.key].default for name in item.kinds}
    shown = {name: "none" if value is None else str(value) for name, value in own.items()}
    if len(set(shown.values())) > 1:
        return ", ".join(f"{value} for {name}" for name, value in shown.items())
    return "none" if item.default is None else str(item.default)


_D_KV = next(item for item in _settings(BatchTimeLaw, "law") if item.key == "d_kv")
D_1 = Setting(
    "d_1",
    "law",
    float,
    False,
    _D_KV.default,
    "shorthand for d_decode = d_kv = d_1 [time/token]",
    _D_KV.rules,
)
"""The one key that stands for two others."""

D_1_KEYS = ("d_decode", "d_kv")
"""The two."""
