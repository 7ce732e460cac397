"""Convert a model in a process of its own, so that the one that serves keeps its memory and its pace.

    python -m serve.engine.ctranslate2.apart        # what to convert comes by standard input

torch and transformers are imported, and the base model is held in fp32, in that process alone: for
whisper-base 660 MB that end with it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from serve.errors import ConversionError
from serve.model.artifact import Artifact

if TYPE_CHECKING:
    from serve.engine.ctranslate2.merging import Storage

_log = structlog.get_logger(__name__)


def convert_apart(
    base_dir: Path,
    artifact: Artifact | None,
    storage: Storage,
    into: Path,
    scripts: Sequence[str] | None = None,
) -> None:
    """Do what `convert` does; see there.

    Raises:
        ConversionError: Base and adapter do not fit each other, CTranslate2 does not support the model, or
            the process was ended.
        OSError: The files cannot be written.
    """
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=pickle.dumps((base_dir.absolute(), artifact, storage, into.absolute(), scripts)),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if child.returncode == 0:
        return
    try:
        told = json.loads(child.stdout)
    except ValueError:  # ended by the system, or by a fault of ours
        lines = child.stderr.decode(errors="replace").strip().splitlines() or [""]
        _log.error("conversion.failed", status=child.returncode, error=lines[-1][:500])
        raise ConversionError(
            f"the conversion of {base_dir} ended early, perhaps for want of memory: give it more"
        ) from None
    raise OSError(told["errno"], told["message"]) if "errno" in told else ConversionError(told["message"])


def main() -> int:
    """Convert what standard input asks for; tell by standard output why not."""
    from serve.engine.ctranslate2.merging import convert  # which starts this program

    base_dir, artifact, storage, into, scripts = pickle.load(sys.stdin.buffer)
    try:
        convert(base_dir, artifact, storage, into, scripts)
    except ConversionError as error:
        told: dict[str, object] = {"message": str(error)}
    except OSError as error:
        told = {"errno": error.errno or 0, "message": error.strerror or str(error)}
    else:
        return 0
    print(json.dumps(told))
    return 1


if __name__ == "__main__":
    sys.exit(main())
