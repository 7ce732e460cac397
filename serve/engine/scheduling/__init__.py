"""Which windows the engine decodes next: places, queues, batches and retries."""
