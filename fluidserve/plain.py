"""Say values as JSON can say them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can say it: NaN and infinities null, arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return str(value)


def to_json(value: Any) -> str:
    """Return ``value`` as indented JSON, strictly by the standard."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
