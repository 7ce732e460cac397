"""Errors of training. The run ends with exit status 1 and one sentence.

```
ShrotaError
└── TrainError
    ├── TrainConfigError(faults)   a configuration is invalid; all faults at once
    ├── DataError                  a manifest, a clip or a text source cannot be used
    │   └── UnreadBatch            no clip of one batch can be read; several in a row end the run
    └── ExportError                an artifact cannot be written
```
"""

from __future__ import annotations

from serve.errors import ConfigError, ShrotaError


class TrainError(ShrotaError):
    """Root of all errors that end a training run on purpose."""


class TrainConfigError(TrainError, ConfigError):
    """A configuration is invalid; all faults are reported together."""


class DataError(TrainError):
    """A manifest, a clip or a text source cannot be used; the message names file and line."""


class UnreadBatch(DataError):
    """No clip of a batch can be read; a run goes on without the batch, unless several in a row are so."""


class ExportError(TrainError):
    """An artifact cannot be written."""
