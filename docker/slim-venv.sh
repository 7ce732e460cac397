#!/bin/sh
# Take out of an environment what the image can make no use of: a fifth of it.
#
#   sh docker/slim-venv.sh /opt/venv
set -eu

# Triton wants a C compiler when it runs, and the image has none. Where torch finds Triton it hands it some products
# on GPUs, which would fail; where it does not, torch computes them itself.
"$1/bin/pip" uninstall --quiet --yes triton

cd "$1"/lib/python3.*/site-packages

# What only a compiler or linker reads, and tests.
find . -name '*.a' -delete
rm -rf torch/include
find . -type d -name tests -prune -exec rm -rf {} +

# A second make of CUDA's run-time compiler, and its solver for several GPUs: no library here names either.
rm -f nvidia/*/lib/libnvrtc*.alt.so.* nvidia/*/lib/libcusolverMg.so.*

# torch brings CUDA 13; bitsandbytes takes the library of the same major version.
rm -f bitsandbytes/libbitsandbytes_cuda1[12]*.so bitsandbytes/libbitsandbytes_rocm*.so \
    bitsandbytes/libbitsandbytes_xpu*.so

# Debian's ffmpeg stands in for the one inside a wheel.
rm -f imageio_ffmpeg/binaries/ffmpeg-*
