"""glibc's allocator in a process of its own: whatever it is told lasts to the end of a process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing to tell another allocator")

ARENAS = """
import ctypes, sys, threading
from serve.model.allocator import share_arenas

if sys.argv[1] == "shared":
    share_arenas(1)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(20)

def allocate():
    together.wait()
    libc.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w")))
libc.fflush(None)
"""

FREED = """
import ctypes
from serve.model.allocator import return_freed_memory
from serve.service.memory import resident_bytes

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(1_000)]
[ctypes.memset(block, 1, 100_000) for block in blocks]
[libc.free(block) for block in blocks[:-1]]  # what lies above keeps the rest from going by itself
before = resident_bytes()
return_freed_memory()
print(before - resident_bytes())
"""


def run(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def n_arenas(path):
    return path.read_text().count("<heap nr=")


def test_many_threads_share_few_arenas(tmp_path):
    run(ARENAS, "each its own", str(tmp_path / "own"))
    run(ARENAS, "shared", str(tmp_path / "shared"))
    assert n_arenas(tmp_path / "shared") <= 3 < n_arenas(tmp_path / "own")


def test_what_was_freed_goes_back_though_something_lies_above_it():
    assert int(run(FREED)) > 80e6
