"""Pages of the documentation that are made of what the code says, each time it is built: the HTTP
API of the server's OpenAPI schema and its table of errors, and the demo's model card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fromage_server.app import create_app
from fromage_server.errors import ERROR_TABLE
from fromage_server.settings import Settings

MODEL_CARD = Path("weights") / "MODEL_CARD.md"
_INTRODUCTION = """\
# HTTP API

Made from the server's own schema, which a running server shows at `/docs` and gives at
`/openapi.json`. Bodies are JSON where nothing else is said; an unknown field or a value out of its
range is refused, with the field's name and what is allowed. [Collections](collections.md) shows
additions at work, [the chat page](page.md) shows all of it.
"""
_ERRORS = """\
## Errors

Every error, in the middle of a stream too, is `{"error": {"type", "code", "message", "param"}}`.
`param` names the field at fault, as a path such as `messages.0.role`. Where trying again later may
help (429, 503), `Retry-After` says when.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs."""
    openapi = create_app(Settings(), on_failure=lambda message: None).openapi()
    card = (Path(config.config_file_path).parent / MODEL_CARD).read_text(encoding="utf-8")
    for name, text in (("api.md", api_page(openapi)), ("model-card.md", card)):
        files.append(File.generated(config, name, content=text))
    return files


def api_page(openapi: dict[str, Any]) -> str:
    """The whole schema as Markdown."""
    parts = [_INTRODUCTION]
    for path, verbs in openapi["paths"].items():
        parts += [
            _endpoint(f"{verb.upper()} {path}", operation) for verb, operation in verbs.items()
        ]
    parts.append("## Objects\n")
    for name, schema in openapi["components"]["schemas"].items():
        parts.append(_object(name, schema))
    rows = ([f"`{code}`", str(kind.status), kind.type] for code, kind in ERROR_TABLE.items())
    parts.append(_ERRORS + "\n" + _table(("code", "status", "type"), rows))
    return "\n".join(parts)


def _endpoint(title: str, operation: dict[str, Any]) -> str:
    parts = [f"## {title}\n", operation["description"] + "\n"]
    if operation.get("parameters"):
        rows = (
            [f"`{p['name']}`", p["in"], *_described(p["schema"], p)]
            for p in operation["parameters"]
        )
        parts.append(_table(("parameter", "in", "type", "default", "what"), rows))
    body = operation.get("requestBody", {})
    if body.get("description"):
        parts.append(body["description"] + "\n")
    for kind, content in body.get("content", {}).items():
        parts.append(_content(f"Takes `{kind}`", content.get("schema", {})))
    for status, answer in operation["responses"].items():
        if not status.startswith(("4", "5")):
            parts += _answer(status, answer)
    return "\n".join(parts)


def _answer(status: str, answer: dict[str, Any]) -> Iterator[str]:
    says = answer["description"]
    yield f"**{status}**" + ("" if says == "Successful Response" else f": {says}") + "\n"
    for kind, content in answer.get("content", {}).items():
        yield _content(f"Answers `{kind}`", content.get("schema", {}))
        if "example" in content:
            text = content["example"]
            yield _fence("text", text if isinstance(text, str) else _pretty(text))


def _content(says: str, schema: dict[str, Any]) -> str:
    if "$ref" in schema or "properties" not in schema:
        shape = _type(schema)
        return f"{says}: {shape}\n" if shape else f"{says}\n"
    return f"{says}:\n\n{_fields(schema)}{_example(schema)}"


def _object(name: str, schema: dict[str, Any]) -> str:
    text = f"### {name}\n\n"
    if schema.get("description"):
        text += schema["description"] + "\n\n"
    return text + (_fields(schema) if "properties" in schema else "") + _example(schema)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = (
        [f"`{name}`", *_described(field, {**field, "required": name in required})]
        for name, field in schema["properties"].items()
    )
    return _table(("field", "type", "default", "what"), rows)


def _described(schema: dict[str, Any], told: dict[str, Any]) -> tuple[str, str, str]:
    """Type with range, default, meaning."""
    default = f"`{json.dumps(schema['default'])}`" if "default" in schema else ""
    return (
        _type(schema),
        "required" if told.get("required") else default,
        told.get("description", ""),
    )


def _type(schema: dict[str, Any]) -> str:
    """Such as "integer, 1 to 64 or null"."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    name = str(schema.get("type", ""))
    if name == "array":
        name = f"list of {_type(schema.get('items', {})) or 'anything'}"
    limits = [limit for limit in (_range(schema), _length(schema)) if limit]
    if "pattern" in schema:
        limits.append(f"`{schema['pattern']}`")
    return ", ".join([name, *limits])


def _range(schema: dict[str, Any]) -> str:
    bounds = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    return " and ".join(f"{says} {schema[key]:,.15g}" for key, says in bounds if key in schema)


def _length(schema: dict[str, Any]) -> str:
    for unit in ("Items", "Length", "Properties"):
        least, most = schema.get("min" + unit), schema.get("max" + unit)
        if least is not None or most is not None:
            what = "characters" if unit == "Length" else "of them"
            return f"{least or 0}{f' to {most}' if most is not None else ' or more'} {what}"
    return ""


def _example(schema: dict[str, Any]) -> str:
    return "".join(_fence("json", _pretty(example)) for example in schema.get("examples", ())[:1])


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```\n"


def _table(head: tuple[str, ...], rows: Iterator[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
