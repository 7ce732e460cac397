"""Decoders in processes of their own: hostile bytes can end only the process that reads them.

    bytes of one file -> blocks of float32

A child gets one file and a pipe, and limits on memory, processor time and files. Knows no resampling, and no
limit on a recording's length.
"""
