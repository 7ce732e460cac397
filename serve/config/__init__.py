"""Settings, command lines, progress bars and logs. Knows no model and no audio."""
