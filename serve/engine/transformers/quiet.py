"""Keep libraries from telling a user what is of no use to one. Real faults still reach the caller."""

from __future__ import annotations

import logging
import warnings

from transformers.utils.logging import disable_progress_bar


def quiet_libraries() -> None:
    """Silence what transformers, peft and bitsandbytes say on every load or product, for this process."""
    # bitsandbytes warns at every int8 product that fp32 activations are cast; on a CPU that is every product.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # On being imported, bitsandbytes misses a package for 4-bit products, and torch misses Triton.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    # transformers draws a bar for the seconds in which the weights are read, over the caller's own.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # peft would rather that saved layers stayed tied; adapters are loaded as they were trained.
    warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
    warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
    # peft reads an attribute that transformers has renamed.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
