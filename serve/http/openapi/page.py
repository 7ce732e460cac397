"""The OpenAPI document as a page: one HTML file without scripts and without external resources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #b5451b }
body { font: 16px/1.5 system-ui, "Noto Sans", "Noto Sans Devanagari", sans-serif; max-width: 60rem;
  margin: 0 auto; padding: 1rem }
nav ul { columns: 2; padding-left: 1rem } code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; border-radius: .4rem }
section { border-top: 1px solid var(--line); padding: .5rem 0 1rem } h2 code { color: var(--accent) }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top;
  padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line) }
td { overflow-wrap: anywhere } @media (max-width: 40rem) { nav ul { columns: 1 } }
"""

SECURITY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content security policy of the page: no requests, no scripts."""

_BOUNDS = (
    *(("minimum", "from"), ("maximum", "to"), ("maxLength", "up to")),
    *(("contentMediaType", "of"), ("contentEncoding", "in")),
)
"""Key of a schema -> the word before its value."""

Node = Mapping[str, Any]


def reference_page(document: Node, document_address: str) -> str:
    """Return the page.

    Args:
        document: The OpenAPI document.
        document_address: Path of that document.
    """
    info = document["info"]
    operations = list(_operations(document))
    contents = "".join(
        f'<li><a href="#{_anchor(method, path)}"><code>{method} {escape(path)}</code></a>'
        f" {escape(each['summary'])}</li>"
        for method, path, each in operations
    )
    sections = "".join(_section(method, path, each) for method, path, each in operations)
    schemas = "".join(
        f'<section id="{_schema_anchor(name)}"><h2>{escape(name)}</h2>{_fields(schema)}</section>'
        for name, schema in document["components"]["schemas"].items()
    )
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{title}</h1><p>{escape(info['description'])}</p>"
        f'<p>The same for machines: <a href="{escape(document_address)}">OpenAPI'
        f" {document['openapi']}</a>.</p>"
        f'<nav aria-label="Routes"><ul>{contents}</ul></nav>{sections}<h2>Bodies</h2>{schemas}'
        "</main></body></html>\n"
    )


def _operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _section(method: str, path: str, operation: Node) -> str:
    parts = [
        f'<section id="{_anchor(method, path)}"><h2><code>{method} {escape(path)}</code>'
        f" {escape(operation['summary'])}</h2>",
        *(f"<p>{escape(text)}</p>" for text in operation["description"].split("\n\n")),
    ]
    if parameters := operation["parameters"]:
        rows = [
            (f"<code>{escape(each['name'])}</code>", escape(each["in"]), _told(each["schema"], each))
            for each in parameters
        ]
        parts.append(_table(("parameter", "in", "is"), rows))
    if body := operation.get("requestBody"):
        content = body["content"]
        bodies = [(f"<code>{escape(name)}</code>", _told(each["schema"])) for name, each in content.items()]
        parts.append(_table(("body", "is"), bodies))
        examples = {json.dumps(each["example"], indent=2) for each in content.values() if "example" in each}
        parts += [f"<pre>{escape(example)}</pre>" for example in examples]
    answers = [
        (status, escape(each["description"]), _answers(each))
        for status, each in operation["responses"].items()
    ]
    return "".join((*parts, _table(("status", "when", "answer"), answers), "</section>"))


def _answers(response: Node) -> str:
    content = response.get("content", {})
    return "<br>".join(
        f"<code>{escape(name)}</code> {_told(each['schema'])}" for name, each in content.items()
    )


def _fields(schema: Node) -> str:
    required = schema.get("required", ())
    rows = [
        (f"<code>{escape(name)}</code>", "yes" if name in required else "", _told(each))
        for name, each in schema.get("properties", {}).items()
    ]
    about = schema.get("description", "")
    return f"<p>{escape(about)}</p>{_table(('field', 'required', 'is'), rows)}"


def _told(schema: Node, around: Node | None = None) -> str:
    """Describe a value; `around` is the parameter that has the schema, if any."""
    about = escape((around or {}).get("description", "") or schema.get("description", ""))
    return " — ".join(filter(None, (_kind(schema), about)))


def _kind(schema: Node) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_schema_anchor(name)}">{escape(name)}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(each) for each in schema[key])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS if key in schema]
    usual = f"usually <code>{escape(json.dumps(schema['default']))}</code>" if "default" in schema else ""
    return " ".join(filter(None, (kind, *map(escape, bounds), usual)))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{each}</th>' for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _anchor(method: str, path: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in f"{method}{path}".lower())


def _schema_anchor(name: str) -> str:
    return f"body-{name.lower()}"
