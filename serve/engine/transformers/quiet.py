"""Silence library messages that a user cannot act on. Real errors still reach the caller."""

from __future__ import annotations

import logging
import warnings

from transformers.utils.logging import disable_progress_bar


def quiet_libraries() -> None:
    """Silence what transformers, peft and bitsandbytes print on every load or product, for this process."""
    # On a CPU, bitsandbytes warns at every int8 product that fp32 activations are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # On import, torch warns of missing Triton.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    # transformers draws a progress bar while weights are read, over the caller's own.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # peft warns that saved layers are untied; adapters are loaded as they were trained.
    warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
    warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
    # peft reads an attribute that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
