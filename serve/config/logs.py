"""Log JSON lines on standard error, the libraries' logs included."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading

import structlog

STDERR = 2
MAX_LINE_BYTES = 1_024


def configure_logs(level: str) -> None:
    """Set up logging for the process, uncaught exceptions of threads included.

    Lines hold events and numbers, never audio, text or bodies.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpcore", "urllib3", "filelock", "transformers", "huggingface_hub", "peft"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # For WebSockets, uvicorn logs the query, and at debug level every frame.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    threading.excepthook = _log_dead_thread


def keep_libraries_out() -> None:
    """Log what C libraries write to standard error, as debug lines; they would break up the lines of JSON.

    Decoders tell there about damaged recordings, once for each fault. What Python writes is not affected.
    Call it once in a process, before `configure_logs`.
    """
    own = os.dup(sys.stderr.fileno())
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    faulthandler.enable(sys.stderr)
    reading, writing = os.pipe()
    os.dup2(writing, STDERR)
    os.close(writing)
    threading.Thread(target=_log_lines, args=(reading,), name="library-log", daemon=True).start()


def _log_lines(reading: int) -> None:
    """Log lines from a pipe until it is closed."""
    log = structlog.get_logger(__name__)
    pending = b""
    while piece := os.read(reading, MAX_LINE_BYTES):
        *lines, pending = (pending + piece).split(b"\n")
        lines += [pending] * (len(pending) > MAX_LINE_BYTES)
        pending = b"" if len(pending) > MAX_LINE_BYTES else pending
        for line in lines:
            if line.strip():
                log.debug("library", line=line[:MAX_LINE_BYTES].decode(errors="backslashreplace"))


def _log_dead_thread(args: threading.ExceptHookArgs) -> None:
    """Log a thread's uncaught exception."""
    structlog.get_logger(__name__).error(
        "thread.failed",
        thread=args.thread.name if args.thread else None,
        error=args.exc_type.__name__,
        exc_info=args.exc_value,
    )
