"""Transcribe a corpus: recordings of a folder, a bucket or a manifest -> one result for each, in files.

Where the work is done (in this process, or by Ray's workers) is one module's matter, and the same files come
of it. Knows no web.
"""
