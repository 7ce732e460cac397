#!/bin/sh
# Entry point of the image: SageMaker starts `serve` or `train`; anything else runs as it stands.
# Every branch ends in exec, so that the program is process 1 and gets SageMaker's SIGTERM itself.
set -eu

home=$(dirname "$(dirname "$(readlink -f "$0")")")
ml=${SAGEMAKER_BASE_DIR:-/opt/ml}

case "${1:-}" in
    serve)
        shift
        # Nothing outside answers an isolated endpoint: without these, each look at a hub waits for its time limit.
        export SHROTA_OFFLINE="${SHROTA_OFFLINE:-true}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
        exec python -m serve "$@"
        ;;
    train)
        shift
        case "${1:-}" in
            --config)
                [ $# -ge 2 ] || { echo "usage: train --config FILE [flags]" >&2; exit 64; }
                config=$2 && shift 2
                ;;
            --config=*) config=${1#--config=} && shift ;;
            *) config=${TRAIN_CONFIG:-$home/train/configs/whisper-base-mr.yaml} ;;
        esac
        # Of two flags the later one wins, so the caller's override the default.
        exec python "$home/train/run.py" --config "$config" --output-dir "$ml/output/data" "$@"
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
