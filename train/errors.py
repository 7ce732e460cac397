"""Errors of training. The run ends with exit status 1 and one sentence.

```
ShrotaError
└── TrainError
    ├── TrainConfigError(faults)   a configuration is invalid; all faults at once
    ├── DataError                  a manifest, a clip or a text source cannot be used
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


class ExportError(TrainError):
    """An artifact cannot be written."""
