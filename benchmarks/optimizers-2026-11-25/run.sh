#!/usr/bin/env bash
# run.sh OUT: the runs of this study, each into a folder below OUT; those that are there already are not repeated. About two
# minutes a run on two cores. Then: python3 table.py OUT
set -euo pipefail
out=$1
cd "$(dirname "$0")/../.."
cargo build --release --workspace
run() {
    local name=$1 seed=$2 steps=$3
    shift 3
    local settings=(seed="$seed" train.steps="$steps" train.eval_every=3 train.sample_every=0 train.checkpoint_every=0
        eval.problems=256 eval.greedy=false optimizer.schedule=constant "$@")
    [ -f "$out/$name-seed$seed/summary.json" ] ||
        target/release/tinylora train recipes/quickstart.toml --out "$out/$name-seed$seed" "${settings[@]/#/--set=}"
}
natural=(optimizer.kind=natural optimizer.fisher_samples=4 optimizer.damping=0.1)
# The learning rate of each, by seed 1.
for rate in 0.006 0.012 0.02; do run adamw-$rate 1 24 optimizer.kind=adamw optimizer.learning_rate=$rate; done
for rate in 0.02 0.05 0.1; do run sgd-$rate 1 24 optimizer.kind=sgd optimizer.learning_rate=$rate; done
for rate in 1 2 4; do run natural-$rate 1 18 "${natural[@]}" optimizer.kl_bound=0.05 optimizer.learning_rate=$rate; done
# What is compared.
for seed in 2 3; do
    run adamw-0.02 $seed 18 optimizer.kind=adamw optimizer.learning_rate=0.02
    run sgd-0.02 $seed 18 optimizer.kind=sgd optimizer.learning_rate=0.02
    run natural-2 $seed 18 "${natural[@]}" optimizer.kl_bound=0.05 optimizer.learning_rate=2
done
# A tighter trust region, tried after the rest was known.
for seed in 1 2 3; do
    run natural-4-bound0.005 $seed 18 "${natural[@]}" optimizer.kl_bound=0.005 optimizer.learning_rate=4
done
