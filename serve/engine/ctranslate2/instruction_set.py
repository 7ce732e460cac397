"""Let CTranslate2 use what the processor can do.

It chooses between instruction sets once, when it is imported, and takes AVX-512 only where it is told to, for
the sake of processors that slowed down under it. Those that bring VNNI as well hardly do: there the encoder
gains a tenth.
"""

from __future__ import annotations

import os
from pathlib import Path

_NEEDED = {"avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq"}
"""What CTranslate2 asks of a processor for AVX-512."""

_WITHOUT_SLOWING_DOWN = "avx512_vnni"


def choose_instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Ask for AVX-512 where it is worth it and nobody has set `CT2_FORCE_CPU_ISA`; before it is imported."""
    if "CT2_FORCE_CPU_ISA" in os.environ:
        return
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    if {*_NEEDED, _WITHOUT_SLOWING_DOWN} <= set(flags):
        os.environ["CT2_FORCE_CPU_ISA"] = "AVX512"
