"""Log as JSON lines on standard error, ours and the libraries' alike."""

from __future__ import annotations

import logging
import sys
import threading

import structlog


def configure_logs(level: str) -> None:
    """Set up logging for the process, and log the error of a thread that dies of one.

    Lines hold events and figures, never audio, text or bodies.
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
    # Of WebSockets it writes the query, and at debug every frame.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    threading.excepthook = _log_dead_thread


def _log_dead_thread(args: threading.ExceptHookArgs) -> None:
    """Log the error that nobody who waits for the thread would read."""
    structlog.get_logger(__name__).error(
        "thread.failed",
        thread=args.thread.name if args.thread else None,
        error=args.exc_type.__name__,
        exc_info=args.exc_value,
    )
