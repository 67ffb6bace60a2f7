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

# train RUN SETTING...: begin a run of the model's recipe, or go on with it.
train() {
	local run=$1 settings=()
	shift
	# A run has begun once its folder holds what it is told.
	if test -f "$run/config.json"; then
		"$rtmdet" train --out "$run" --resume
		return
	fi
	for setting in "$@"; do settings+=(--set "$setting"); done
	"$rtmdet" train --out "$run" --recipe "$model" --data "$data" "${settings[@]}"
}

# The number of threads is fixed, for sums of more come out differently.
if test "$model" = rtmdet-nano-shapes; then
	train "out/shapes/$model-first" runtime.num_threads=2
	run=out/shapes/$model
	train "$run" runtime.num_threads=1 "model.init=out/shapes/$model-first/best.safetensors" \
		optimizer.lr=0.001 schedule.epochs=2 schedule.last_stage_epochs=2
else
	# Masks and rotated boxes begin with what the shipped box model has learned to see.
	boxes=$(ls -d triton_repo/rtmdet-nano-shapes/[0-9]* | sort -V | tail -n 1)
	run=out/shapes/$model
	train "$run" runtime.num_threads=1 "model.init=$boxes/model.onnx"
fi
"$rtmdet" export "$run/best.safetensors" --name "$model"
for settings in published serving; do
	"$rtmdet" eval "$model" --data "$unseen" --settings "$settings" --record
done
