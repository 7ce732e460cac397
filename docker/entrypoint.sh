#!/bin/sh
# Entry point of the image: SageMaker starts `serve` or `train`; any other command is run unchanged.
# Every branch ends in exec, so that the program is process 1 and gets SageMaker's SIGTERM itself.
set -eu

case "${1:-}" in
    serve)
        shift
        # An isolated endpoint reaches no hub: without these, each request to one would wait for its timeout.
        export SHROTA_OFFLINE="${SHROTA_OFFLINE:-true}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
        exec python -m serve "$@"
        ;;
    train)
        shift
        exec python -m train.sagemaker.container "$@"
        ;;
    "")
        echo "usage: serve [flags] | train [flags] | command [arguments]" >&2
        exit 64
        ;;
    *)
        command -v "$1" >/dev/null || {
            echo "'$1' is not a command of this image; the commands are 'serve', 'train' and the programs on PATH" >&2
            exit 127
        }
        exec "$@"
        ;;
esac
