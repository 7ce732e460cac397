"""The OpenAPI document as a page: one HTML file without scripts and without external resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --paper: light-dark(#f7f3ec, #161311); --ink: light-dark(#231d17, #eee7de);
  --soft: light-dark(#675c51, #b0a498); --line: light-dark(#e0d6c9, #39322c);
  --well: light-dark(#fffdf9, #1f1b18); --accent: light-dark(#a43d14, #f19a72) }
body { font: 16px/1.55 system-ui, "Noto Sans", "Noto Sans Devanagari", sans-serif; max-width: 60rem;
  margin: 0 auto; padding: 2rem 1.25rem; background: var(--paper); color: var(--ink) }
a { color: var(--accent); text-underline-offset: 3px } h2 { font-size: 1.3rem; line-height: 1.4 }
nav ul { columns: 2; column-gap: 2.5rem; padding: 0; list-style: none }
nav li { break-inside: avoid; padding: .15rem 0; color: var(--soft) }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { background: var(--well); border: 1px solid var(--line); padding: .75rem 1rem; border-radius: .6rem;
  white-space: pre-wrap; overflow-wrap: anywhere }
section { border-top: 1px solid var(--line); padding: .5rem 0 1.25rem } h2 code { color: var(--accent) }
table { border-collapse: collapse; width: 100%; margin: .75rem 0 } summary { cursor: pointer }
th, td { text-align: left; vertical-align: top; padding: .4rem 1rem .4rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word }
th { color: var(--soft); font-weight: 400; font-size: .875rem } td:last-child { overflow-wrap: anywhere }
@media (max-width: 40rem) { nav ul { columns: 1 } th, td { padding-right: .6rem; font-size: .9375rem } }
"""

MOST_VALUES_SHOWN = 12
"""A longer enumeration, such as that of all languages, is folded."""

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
        *(f"<p>{_prose(text)}</p>" for text in operation["description"].split("\n\n")),
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
        (status, _prose(each["description"]), _answers(each))
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
    return f"<p>{_prose(about)}</p>{_table(('field', 'required', 'is'), rows)}"


def _told(schema: Node, around: Node | None = None) -> str:
    """Describe a value; `around` is the parameter that has the schema, if any."""
    about = _prose((around or {}).get("description", "") or schema.get("description", ""))
    return " — ".join(filter(None, (_kind(schema), about)))


def _prose(text: str) -> str:
    """Return a description as HTML; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _kind(schema: Node) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_schema_anchor(name)}">{escape(name)}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(each) for each in schema[key])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        listed = ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
        if len(values) <= MOST_VALUES_SHOWN:
            return listed
        return f"<details><summary>one of {len(values)}</summary>{listed}</details>"
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS if key in schema]
    usual = f"usually <code>{escape(json.dumps(schema['default']))}</code>" if "default" in schema else ""
    return ", ".join(filter(None, (" ".join((kind, *map(escape, bounds))), usual)))


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
