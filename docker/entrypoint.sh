#!/bin/sh
# Entry point of the image: SageMaker starts `serve` or `train`; anything else runs as it stands.
# Every branch ends in exec, so that the program is process 1 and gets SageMaker's SIGTERM itself.
set -eu

case "${1:-}" in
    serve)
        shift
        # Nothing outside answers an isolated endpoint: without these, each look at a hub waits for its time limit.
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
            echo "'$1' is no command of this image; it knows 'serve', 'train' and what lies on PATH" >&2
            exit 127
        }
        exec "$@"
        ;;
esac
