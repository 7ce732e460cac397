"""The command `shrota`, with the subcommands of serving and training.

A subcommand is imported when it is called. So `shrota --help` and tab completion are quick, and a machine
without training's packages can serve. The module lies here because training imports serving, never the
reverse.
"""

from __future__ import annotations

from serve.config.command_line import Commands, exit_with

COMMANDS = {
    "serve": ("serve.__main__:command", "serve speech recognition over HTTP", ""),
    "transcribe": ("serve.transcribe.__main__:command", "transcribe recordings on disk", ""),
    "batch": ("serve.transcribe.batch.__main__:command", "transcribe a corpus of many recordings", "ray"),
    "client": ("serve.remote.client:command", "have a service elsewhere transcribe a recording", ""),
    "deploy": ("serve.remote.deploy:command", "deploy a model on SageMaker", ""),
    "capacity": ("serve.remote.capacity.command:command", "say how many instances traffic needs", "capacity"),
    "data": ("train.data.synthesis.__main__:command", "speak a Marathi corpus", "train"),
    "prepare": ("train.data.prepare:command", "decode a source of speech once, for training", "train"),
    "train": ("train.run:command", "train, evaluate and export an adapter", "train"),
    "evaluate": ("train.evaluate.__main__:command", "score a model on test sets", "train"),
    "report": ("train.report.__main__:command", "write the page of a run again", "train"),
    "export": ("train.export.__main__:command", "merge an adapter, or push it to the hub", "train"),
    "select": ("train.pseudo_labels.__main__:command", "choose transcripts to train on", "train"),
    "selftrain": ("train.pseudo_labels.rounds:command", "train on transcripts of the model's own", "train"),
    "launch": ("train.sagemaker.launch:command", "start a training job on SageMaker", "train"),
}
"""Name -> (location of the command, what it does, the extra of the package that it needs)."""

command = Commands(
    COMMANDS,
    about="Teach Whisper a language it hears badly, and serve it.",
    examples="""\
shrota serve --model-dir model_artifacts/whisper-base-mr
shrota transcribe speech.mp3
shrota train --config train/configs/whisper-base-mr.yaml
shrota evaluate --help

eval "$(shrota --completion bash)"       # the Tab key completes commands, flags and values
""",
)


def main() -> None:
    """Run the command line of this process."""
    exit_with(command)


if __name__ == "__main__":
    main()
