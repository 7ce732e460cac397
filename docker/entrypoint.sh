#!/bin/sh
# Entry point of the image: SageMaker starts `serve` or `train`; anything else runs as it stands.
# Every branch ends in exec, so that the program is process 1 and gets SageMaker's SIGTERM itself.
set -eu

case "${1:-}" in
    serve)
        shift
        # Nothing outside answers an isolated endpoint: without these, each look at a hub waits for its time limit.
        export SHROTA_OFFLINE="${SHROTA_OFFLINE:-true}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
        # What is converted at start goes below /tmp, the one place that is always writable; the base model that is
        # built into the image is linked there.
        if [ -z "${SHROTA_CACHE_DIR:-}" ]; then
            export SHROTA_CACHE_DIR="${TMPDIR:-/tmp}/shrota"
            built_in="${XDG_CACHE_HOME:-/opt/cache}/shrota/base"
            mkdir -p "$SHROTA_CACHE_DIR"
            if [ -d "$built_in" ] && [ ! -e "$SHROTA_CACHE_DIR/base" ]; then ln -s "$built_in" "$SHROTA_CACHE_DIR/base"; fi
        fi
        exec python -m serve "$@"
        ;;
    train)
        shift
        exec python -m train.container "$@"
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
