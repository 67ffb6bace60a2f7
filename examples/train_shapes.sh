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
run=out/shapes/$model
boxes=out/shapes/rtmdet-nano-shapes/best.safetensors

# The number of threads is fixed, for sums of more come out differently.
order=(--recipe "$model" --data "$data" --set runtime.num_threads=2)
case $model in
rtmdet-nano-shapes) ;;
rtmdet-ins-nano-shapes | rtmdet-r-nano-shapes)
	# Masks and rotated boxes begin with what the box model has learned to see.
	test -f "$boxes" || { echo "$model starts from $boxes: train rtmdet-nano-shapes first" >&2; exit 2; }
	order+=(--set "model.init=$boxes")
	;;
*)
	echo "name a model: rtmdet-nano-shapes, rtmdet-ins-nano-shapes or rtmdet-r-nano-shapes" >&2
	exit 2
	;;
esac

test -d "$data" || "$rtmdet" data shapes "$data" --train 10000 --val 500 --size 320 --seed 0
# Of another seed: neither trained on nor used to choose the best weights.
test -d "$unseen" || "$rtmdet" data shapes "$unseen" --train 1 --val 500 --size 320 --seed 1

# A run has begun once its folder holds what it is told.
if test -f "$run/config.json"; then
	order=(--resume)
fi
"$rtmdet" train --out "$run" "${order[@]}"
"$rtmdet" export "$run/best.safetensors" --name "$model"
for settings in published serving; do
	"$rtmdet" eval "$model" --data "$unseen" --settings "$settings" --record
done
