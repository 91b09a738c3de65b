"""The documentation page: the OpenAPI document as plain HTML that needs no other host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.4 ui-monospace,monospace}pre{background:#f4f4f4;padding:.6rem;overflow:auto}
table{border-collapse:collapse;margin:.5rem 0}td,th{border:1px solid #ccc;padding:.2rem .5rem;
text-align:left;vertical-align:top}h2{margin-top:2.2rem}h3{margin-top:1.6rem}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#262626}
td,th{border-color:#555}a{color:#8bf}}"""

LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "maxLength": "length <=",
          "maxItems": "items <="}  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    info = document["info"]
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width'>",
            f"<title>{escape(info['title'])}</title><style>{STYLE}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            *(f"<p>{escape(part)}</p>" for part in info["description"].split("\n\n")),
            "<p>The same for programs: <a href=openapi.json>openapi.json</a></p>",
            *_calls(document),
            "<h2>Messages</h2>",
            *_schemas(document["components"]["schemas"]),
            "</html>",
        ]
    )


def _calls(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p><b>{escape(about.get('summary', ''))}</b></p>"
            yield f"<p>{escape(about.get('description', ''))}</p>"
            body = about.get("requestBody")
            if body is not None:
                schema = body["content"]["application/json"]["schema"]
                yield f"<p>Takes: {_kind(schema)}</p>"
            yield "<table><tr><th>status<th>answer"
            for status, answer in about["responses"].items():
                yield f"<tr><td>{escape(status)}<td>{escape(answer['description'])} "
                yield ", ".join(
                    _kind(content["schema"])
                    for content in answer.get("content", {}).values()
                    if content.get("schema")
                )
            yield "</table>"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f"<h3 id='{escape(name)}'><code>{escape(name)}</code></h3>"
        yield f"<p>{escape(schema.get('description', ''))}</p>"
        needed = schema.get("required", ())
        yield "<table><tr><th>field<th>type<th>limits<th>"
        for field, about in schema.get("properties", {}).items():
            default = "" if field in needed else _default(about)
            yield (
                f"<tr><td><code>{escape(field)}</code><td>{_kind(about)}<td>{_limits(about)}"
                f"<td>{escape(about.get('description', ''))} {default}"
            )
        yield "</table>"


def _default(about: Mapping[str, Any]) -> str:
    if "default" not in about:
        return ""
    return f"<i>default <code>{escape(json.dumps(about['default']))}</code></i>"


def _kind(schema: Mapping[str, Any]) -> str:
    """Return what a schema allows, in words that link to messages."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'><code>{name}</code></a>"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_kind(each) for each in schema[key])
    if "const" in schema or "enum" in schema:
        return " | ".join(
            f"<code>{escape(json.dumps(each))}</code>"
            for each in schema.get("enum", [schema.get("const")])
        )
    if schema.get("type") == "array":
        inside = schema.get("items") or {}
        return f"list of {_kind(inside)}" if inside else "list"
    return escape(str(schema.get("type", "any")))


def _limits(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a value, and of each reading of it."""
    own = [f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if key in schema]
    inside = [_limits(each) for each in schema.get("anyOf", ())]
    return escape(", ".join(own)) or " | ".join(dict.fromkeys(each for each in inside if each))
