#!/usr/bin/env bash
# All committed figures but the peers': run from the repository root, on an otherwise idle machine; a quarter of an hour.
# Usage: bash benchmarks/run.sh [PYTHON with geminate installed]
set -euo pipefail
python=${1:-python3}
run() {  # file, then the arguments of geminate
  local file=$1
  shift
  "$python" -c "from geminate.cli.app import app; app()" bench "$@" --json | tee /dev/stderr | tail -1 > "benchmarks/$file"
}
run step-e2b-int4.json step --weights int4 --repeats 15
run step-e2b-int8.json step --weights int8 --repeats 15
for kv in f16 int8; do
  for context in 128 8192 32768; do
    run "step-e2b-int4-$context-$kv.json" step --weights int4 --context $context --kv $kv --rows 1,3,5,8 --repeats 5
  done
done
run step-mobile-e2b.json step --weights mobile --rows 1,3,5,8 --repeats 7
run step-mobile-e4b.json step --shape gemma-4-E4B --weights mobile --rows 1,3,5,8 --repeats 5
for isa in avxvnni avx2; do
  for weights in int4 int8 mobile; do
    GEMINATE_ISA=$isa run step-$isa-e2b-$weights.json step --weights $weights --rows 1,3,5,8 --repeats 5
  done
done
"$python" benchmarks/attention.py --json benchmarks/attention.json
run step-26b-a4b-int4.json step --shape gemma-4-26B-A4B --layers 12 --repeats 7 --rows 1,2,3,5,8,16
shape=(decode --shape gemma-4-E2B --weights int4 --lengths 1,2,3,4 --max-tokens 96 --limit 4 --repeats 3)
run decode-e2b-high.json "${shape[@]}" --synthetic-acceptance 0.84,0.60,0.39,0.27
run decode-e2b-mobile.json decode --shape gemma-4-E2B --weights mobile --lengths 4 --max-tokens 96 --limit 3 --repeats 2 \
  --synthetic-acceptance 0.84,0.60,0.39,0.27
run decode-e2b-low.json "${shape[@]}" --synthetic-acceptance 0.35,0.10
run decode-e2b-none.json "${shape[@]}" --synthetic-acceptance 0.05,0.01
run decode-embedded.json decode --repeats 5
"$python" benchmarks/contended.py --json benchmarks/contended.json
"$python" benchmarks/busy.py --json benchmarks/busy.json
# Start and memory write a checkpoint of 10 GB: python benchmarks/start.py --dir DIR --json benchmarks/start.json
