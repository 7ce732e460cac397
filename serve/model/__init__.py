"""Names and directories -> checked artifacts, adapters and base models. Knows no audio, runs no model."""
