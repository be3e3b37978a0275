#!/usr/bin/env bash
# What a fine-tune costs the embedded pair's drafter and what training brings back; and rope position P against P-1.
# Usage: bash benchmarks/adaptation/run.sh [WORK]     (default build/adaptation; some 50 minutes on two cores)
# Needs geminate with its [train] extra and the corpus of recipes/embedded_pair/README.md. Steps whose result is there are skipped.
set -euo pipefail
work=${1:-build/adaptation}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
corpus=build/embedded_pair/corpus/train.jsonl
[ -e "$corpus" ] || { echo "make build/embedded_pair/corpus first: recipes/embedded_pair/README.md" >&2; exit 1; }
mkdir -p "$work/prompts"

[ -e "$work/target/config.json" ] || "$python" recipes/embedded_pair/finetune_target.py --out "$work" --minutes 8
# 600 requests to learn from, 200 to measure with; 400 questions of the old kind, so that it is not forgotten.
head -n 600 "$work/requests.jsonl" > "$work/prompts/sql.jsonl"
tail -n 200 "$work/requests.jsonl" > "$work/held_out.jsonl"
"$python" "$here/questions.py" --corpus "$corpus" --count 400 --out "$work/prompts/questions.jsonl"

if [ ! -e "$work/drafter/config.json" ]; then
  began=$(date +%s)
  geminate train drafter --target "$work/target" --drafter embedded --data "$work/prompts" --out "$work/drafter" \
    --temperature 0 --hours 0.2 --json | tail -1 > "$work/training.json"
  echo $(($(date +%s) - began)) > "$work/seconds"
fi

# The same drafter from scratch, the same texts, order and weights to start with: only the rotary position differs.
for position in P P-1; do
  [ -e "$work/rope-$position/config.json" ] || geminate train drafter --data "$work/prompts/questions.jsonl" \
    --drafter none --init scratch --rope-position $position --updates 300 --temperature 0 \
    --out "$work/rope-$position" --json | tail -1 > "$work/rope-$position.json"
done

"$python" "$here/measure.py" --tuned "$work/target" --retrained "$work/drafter" --requests "$work/held_out.jsonl" \
  --seconds "$(cat "$work/seconds")" --rope "$work/rope-P" "$work/rope-P-1" --json benchmarks/adaptation/adaptation.json
