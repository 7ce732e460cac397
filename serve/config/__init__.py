"""Read settings from files, environment and flags; log and show progress. Knows no model and no audio."""
