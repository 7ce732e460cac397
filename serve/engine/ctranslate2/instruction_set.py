"""Let CTranslate2 use AVX-512 where that is faster.

CTranslate2 picks its instruction set once, at import, and takes AVX-512 only on request, because some
processors lower their clock under it. Processors that also have VNNI hardly do; there the encoder gains a
tenth.
"""

from __future__ import annotations

import os
from pathlib import Path

_NEEDED = {"avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq"}
"""AVX-512 extensions that CTranslate2 requires."""

_WITHOUT_SLOWING_DOWN = "avx512_vnni"


def choose_instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Request AVX-512 where it pays and `CT2_FORCE_CPU_ISA` is unset. Call before CTranslate2 is imported."""
    if "CT2_FORCE_CPU_ISA" in os.environ:
        return
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    if {*_NEEDED, _WITHOUT_SLOWING_DOWN} <= set(flags):
        os.environ["CT2_FORCE_CPU_ISA"] = "AVX512"
