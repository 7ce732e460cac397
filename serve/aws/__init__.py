"""Requests to AWS, built as plain dictionaries, priced, and sent. Nothing that is served imports this."""
