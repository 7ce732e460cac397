"""Let peft read bitsandbytes' int8 layers without corrupting them, as DoRA does at every product.

To dequantise a weight, peft moves it to its device. bitsandbytes then returns the moved weight without its
scales, and the next product uses wrong ones.
"""

from __future__ import annotations

from typing import Any, cast

from bitsandbytes.nn.modules import Linear8bitLt
from torch import nn


class ScaleKeepingLinear8bitLt(Linear8bitLt):
    """A bitsandbytes layer that keeps its scales when its weight is moved."""

    def init_8bit_state(self) -> None:
        """Take weight and scales from the parameter only if it has both."""
        weight = cast(Any, self.weight)
        if weight.SCB is not None or self.state.SCB is None:
            super().init_8bit_state()  # type: ignore[no-untyped-call]
        else:
            weight.CB = None


def keep_scales(model: nn.Module) -> None:
    """Make every int8 layer keep its scales, in place; call before an adapter is attached."""
    for module in model.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = ScaleKeepingLinear8bitLt
