#!/usr/bin/env bash
# Train, export and measure one of the project's own models, as they were made.
#
#     examples/train_shapes.sh rtmdet-nano-shapes
#
# Everything goes to out/shapes; stopped, it goes on where it was. The model becomes a new version
# in triton_repo/, one more each time that this is run to its end.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-}
rtmdet=${BIN:-.venv/bin}/rtmdet
data=out/shapes/data
unseen=out/shapes/unseen

case $model in
rtmdet-nano-shapes | rtmdet-ins-nano-shapes | rtmdet-r-nano-shapes) ;;
*)
	echo "name a model: rtmdet-nano-shapes, rtmdet-ins-nano-shapes or rtmdet-r-nano-shapes" >&2
	exit 2
	;;
esac

test -d "$data" || "$rtmdet" data shapes "$data" --train 10000 --val 500 --size 320 --seed 0
# Of another seed: neither trained on nor used to choose the best weights.
test -d "$unseen" || "$rtmdet" data shapes "$unseen" --train 1 --val 500 --size 320 --seed 1

# The number of threads is fixed, for sums of more come out differently.
order=(--recipe "$model" --data "$data")
if test "$model" = rtmdet-nano-shapes; then
	order+=(--set runtime.num_threads=2)
else
	# Masks and rotated boxes begin with what the shipped box model has learned to see.
	boxes=$(printf '%s\n' triton_repo/rtmdet-nano-shapes/*/model.onnx | sort -V | tail -n 1)
	order+=(--set "model.init=$boxes" --set runtime.num_threads=1)
fi

# A run has begun once its folder holds what it is told.
run=out/shapes/$model
if test -f "$run/config.json"; then
	order=(--resume)
fi
"$rtmdet" train --out "$run" "${order[@]}"
# Larger than in training: the many shapes of a few pixels gain more than the few large ones lose. The
# threshold is near the best F1 of all three.
"$rtmdet" export "$run/best.safetensors" --name "$model" --input-size 448 --score-threshold 0.4
for settings in published serving; do
	"$rtmdet" eval "$model" --data "$unseen" --settings "$settings" --record
done
