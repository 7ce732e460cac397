"""What stands in every record of figures: the command that remakes it, the machine and its packages."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NOTED_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
"""CPU flags that decide the speed of integer matrix products."""
NOTED_PACKAGES = (
    *("torch", "ctranslate2", "onnxruntime", "numpy", "transformers"),
    *("faster-whisper", "openai-whisper", "pywhispercpp"),
)


_NUMBERS = re.compile(r"\[\n\s*-?\d[-+.\deE,\s]*\]")
"""A list of nothing but numbers; a string has no line break of its own."""


def begin_record(n_threads: int) -> dict[str, Any]:
    """Return what a record begins with: the command that was typed, and the machine before it has work."""
    command = ["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    return {"command": shlex.join(command), "machine": machine_facts(n_threads)}


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write a record as JSON, a list of numbers on one line."""
    text = json.dumps(record, ensure_ascii=False, indent=1)
    text = _NUMBERS.sub(lambda found: " ".join(found[0].split()), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def machine_facts(n_threads: int) -> dict[str, Any]:
    """Return CPU, cores, threads, memory and versions; a package that is not installed has None."""
    facts = _cpuinfo()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in NOTED_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": n_threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in NOTED_PACKAGES},
    }


def _cpuinfo() -> dict[str, str]:
    """Return the first value of each field of /proc/cpuinfo."""
    facts: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
