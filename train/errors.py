"""Errors of training: the run ends with exit status 1 and one sentence.

```
ShrotaError
└── TrainError
    ├── TrainConfigError(faults)   all faults of a configuration at once
    ├── DataError                  a manifest, a clip or a text source that cannot be used
    └── ExportError                an artifact that cannot be written
```
"""

from __future__ import annotations

from serve.errors import ConfigError, ShrotaError


class TrainError(ShrotaError):
    """Root of everything that ends a training run on purpose."""


class TrainConfigError(TrainError, ConfigError):
    """A configuration with faults; all of them are reported together."""


class DataError(TrainError):
    """A manifest, a clip or a text source that cannot be used; names the file and the line."""


class ExportError(TrainError):
    """An artifact that cannot be written."""
