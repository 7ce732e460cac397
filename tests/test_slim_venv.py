"""`docker/slim-venv.sh` on an environment of empty files."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docker" / "slim-venv.sh"
KEPT = {
    "bitsandbytes/libbitsandbytes_cpu.so",
    "bitsandbytes/libbitsandbytes_cuda130.so",
    "imageio_ffmpeg/__init__.py",
    "numpy/testing/__init__.py",
    "nvidia/cu13/lib/libcusolver.so.12",
    "nvidia/cu13/lib/libnvrtc.so.13",
    "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9",
    "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
    "torch/lib/libtorch_cuda.so",
    "torch/testing/_internal/common_utils.py",
}
LEFT_OUT = {
    "bitsandbytes/libbitsandbytes_cuda118.so",
    "bitsandbytes/libbitsandbytes_cuda128.so",
    "bitsandbytes/libbitsandbytes_rocm72.so",
    "bitsandbytes/libbitsandbytes_xpu2026.so",
    "imageio_ffmpeg/binaries/ffmpeg-linux-x86_64-v7.0.2",
    "numpy/_core/lib/libnpymath.a",
    "numpy/_core/tests/data/umath.csv",
    "nvidia/cu13/lib/libcusolverMg.so.12",
    "nvidia/cu13/lib/libnvrtc.alt.so.13",
    "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.alt.so.12.9",
    "nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",
    "torch/include/ATen/ATen.h",
}


def slim(tmp_path: Path, files: set[str]) -> tuple[set[str], str]:
    """Return what is left of an environment with these files in its packages, and what pip was asked."""
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    for file in files:
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "bin" / "pip").chmod(0o755)
    subprocess.run(["sh", SCRIPT, tmp_path], check=True)
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    return left, (tmp_path / "asked").read_text()


def test_only_what_the_image_cannot_use_is_taken_out(tmp_path):
    left, asked = slim(tmp_path, KEPT | LEFT_OUT)
    assert left == KEPT
    assert asked.split()[0] == "uninstall" and asked.split()[-1] == "triton"


def test_an_environment_without_cuda_is_fine_too(tmp_path):
    left, _ = slim(tmp_path, {"torch/lib/libtorch_cpu.so"})
    assert left == {"torch/lib/libtorch_cpu.so"}
