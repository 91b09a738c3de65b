"""Import the scheduler of an unpacked vLLM wheel where torch and the rest are not installed.

Two things are enough, and no file of the wheel is touched. The package ``vllm`` is entered into
``sys.modules`` as an empty package that points into the wheel, so that its ``__init__`` never
runs. And an import hook answers for the modules named in ``ABSENT`` with stand-ins whose every
attribute is a placeholder class. After :func:`forbid`, touching a stand-in is an error: no
decision of the scheduler rests on one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT_OUTSIDE = """
torch transformers psutil yaml cloudpickle huggingface_hub numba zmq cbor2 cachetools regex blake3
prometheus_client opentelemetry tqdm PIL requests triton gguf xxhash jinja2 openai uvloop fastapi
uvicorn starlette aiohttp urllib3
""".split()
"""Packages that vLLM imports and its schedulers do not use."""

ABSENT_INSIDE = {
    "vllm_v0": """
        model_executor transformers_utils platforms tracing inputs spec_decode lora prompt_adapter
        multimodal executor
        """.split(),
    "vllm_v1": """
        config model_executor transformers_utils platforms tracing inputs lora multimodal
        distributed compilation v1.structured_output v1.attention v1.spec_decode v1.metrics
        tokenizers renderers outputs usage plugins
        """.split(),
}
"""Parts of vLLM, by engine, whose import needs what is absent."""

PRESENT_INSIDE = {
    "vllm_v0": [],
    "vllm_v1": """
        config.scheduler config.utils config.cache v1.metrics.stats v1.structured_output.request
        v1.spec_decode.metrics
        """.split(),
}
"""Modules below an absent part that are real all the same."""


class StandInUsedError(RuntimeError):
    """A scheduler touched a stand-in while it decided."""


_forbidden = False


def forbid(forbidden: bool = True) -> None:
    """From now on a touched stand-in is an error, or is none again."""
    global _forbidden
    _forbidden = forbidden


def _touched(name: str) -> None:
    if _forbidden:
        raise StandInUsedError(name)


def _is_protocol(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _Placeholders(type):
    """Metaclass: a class whose attributes are placeholders, and that type expressions accept."""

    def __getattr__(cls, name: str) -> Any:
        if _is_protocol(name):
            raise AttributeError(name)
        _touched(f"{cls.__name__}.{name}")
        made = placeholder(name)
        setattr(cls, name, made)
        return made

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __or__(cls, _: Any) -> Any:
        return cls

    __ror__ = __or__

    def __iter__(cls) -> Iterator:
        return iter(())

    def __len__(cls) -> int:
        return 0

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, _: Any) -> bool:
        return False


class _Placeholder(metaclass=_Placeholders):
    """Instance of a placeholder: may be called, read, iterated over and used as a decorator."""

    def __init__(self, *_: Any, **__: Any) -> None:
        _touched(type(self).__name__)

    def __init_subclass__(cls, **_: Any) -> None:
        pass

    def __call__(self, *given: Any, **named: Any) -> Any:
        _touched(type(self).__name__)
        decorates = len(given) == 1 and not named and callable(given[0])
        return given[0] if decorates else _Placeholder()

    def __getattr__(self, name: str) -> Any:
        if _is_protocol(name):
            raise AttributeError(name)
        _touched(f"{type(self).__name__}.{name}")
        return _Placeholder()

    def __getitem__(self, _: Any) -> Any:
        return _Placeholder()

    def __iter__(self) -> Iterator:
        _touched(type(self).__name__)
        return iter(())

    def __bool__(self) -> bool:
        _touched(type(self).__name__)
        return False

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> bool:
        return False

    def __mul__(self, _: Any) -> int:
        return 0

    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__


def placeholder(name: str) -> Any:
    """Return a new placeholder class."""
    return _Placeholders(name, (_Placeholder,), {})


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if _is_protocol(name):
            raise AttributeError(name)
        whole = f"{self.__name__}.{name}"
        _touched(whole)
        made = sys.modules.get(whole) or placeholder(name)
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    """Answers for absent modules; the real ones below them stay importable."""

    def __init__(self, wheel: Path, absent: list[str], present: list[str]) -> None:
        self.wheel, self.absent, self.present = wheel, absent, present

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if _below(fullname, self.present) or not _below(fullname, self.absent):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _StandIn(spec.name)
        folder = self.wheel.joinpath(*spec.name.split("."))
        module.__path__ = [str(folder)] if folder.is_dir() else []
        spec.submodule_search_locations = list(module.__path__)
        if spec.name == "torch":
            module.__version__ = "2.13.0"  # vLLM compares it with releases it knows
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _below(name: str, parts: list[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def make_importable(engine: str, wheel: Path) -> str:
    """Let ``vllm`` be imported from an unpacked wheel and return its version."""
    inside = {
        which: [f"vllm.{name}" for name in names[engine]]
        for which, names in (("absent", ABSENT_INSIDE), ("present", PRESENT_INSIDE))
    }
    absent = [*ABSENT_OUTSIDE, *inside["absent"]]
    sys.meta_path.insert(0, _Finder(wheel, absent, inside["present"]))
    package = ModuleType("vllm")
    package.__path__ = [str(wheel / "vllm")]
    package.__spec__ = ModuleSpec("vllm", None, is_package=True)
    package.__spec__.submodule_search_locations = package.__path__
    (about,) = wheel.glob("vllm-*.dist-info")
    package.__version__ = about.name.removeprefix("vllm-").removesuffix(".dist-info")
    sys.modules["vllm"] = package
    return package.__version__
