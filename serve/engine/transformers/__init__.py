"""The reference engine: any quantization of the base, adapter beside it. Knows no audio, no requests."""

import logging
from unittest.mock import patch

import torch

# bitsandbytes warns on import that a package for 4-bit products is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# It also has torch compile kernels for devices without their own, which imports a compiler: 2 s of the 9 s of
# work that importing peft is. Imported here, before peft imports it, it keeps them as they are written.
with patch.object(torch, "compile", lambda kernel, **_: kernel):
    import bitsandbytes  # noqa: F401
