"""Files, environment and flags -> settings; logs and progress bars. Knows no model and no audio."""
