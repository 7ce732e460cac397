"""The page at `/`: built files -> routes with the headers that a browser needs.

Knows nothing of what the page does. The files in `assets/` are built from the directory `page/` of the
repository by `make page`, and are committed.
"""
