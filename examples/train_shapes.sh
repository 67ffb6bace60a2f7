#!/usr/bin/env bash
# Train, export and measure one of the project's own models, as they were made.
#
#     examples/train_shapes.sh rtmdet-nano-shapes
#
# Everything goes to out/shapes; stopped, it goes on where it was. The model becomes a new version
# in triton_repo/.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:?name a model: rtmdet-nano-shapes, rtmdet-ins-nano-shapes or rtmdet-r-nano-shapes}
rtmdet=${BIN:-.venv/bin}/rtmdet
data=out/shapes/data
unseen=out/shapes/unseen
run=out/shapes/$model

test -d "$data" || "$rtmdet" data shapes "$data" --train 10000 --val 500 --size 320 --seed 0
# Of another seed: neither trained on nor used to choose the best weights.
test -d "$unseen" || "$rtmdet" data shapes "$unseen" --train 1 --val 500 --size 320 --seed 1

init=()
if test "$model" != rtmdet-nano-shapes; then
	# Masks and rotated boxes begin with what the box model has learned to see.
	boxes=out/shapes/rtmdet-nano-shapes/best.safetensors
	test -f "$boxes" || { echo "$model starts from $boxes: train rtmdet-nano-shapes first" >&2; exit 2; }
	init=(--set "model.init=$boxes")
fi

# The number of threads is fixed, for sums of more come out differently.
if test -d "$run"; then
	"$rtmdet" train --out "$run" --resume
else
	"$rtmdet" train --recipe "$model" --data "$data" --out "$run" --set runtime.num_threads=2 "${init[@]}"
fi
"$rtmdet" export "$run/best.safetensors" --name "$model"
for settings in published serving; do
	"$rtmdet" eval "$model" --data "$unseen" --settings "$settings" --record
done
