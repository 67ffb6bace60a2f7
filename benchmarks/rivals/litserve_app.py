"""The same model behind LitServe (the extra `rivals`).

    python -m benchmarks.rivals.litserve_app REPOSITORY PORT DEADLINE_S

Batches as LitServe makes them; its own time-out is the deadline, so that it gives up what has
waited for longer. A worker process has the whole engine, as one worker for each device is meant.
"""

import sys
from pathlib import Path

import litserve
from starlette.responses import Response

from benchmarks.rivals.plain_detector import BATCH_WAIT_S, MAX_BATCH, PlainDetector


class Detection(litserve.LitAPI):
    """Decodes one by one, infers a batch, answers one by one, as LitServe calls it."""

    def __init__(self, repository: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S, api_path="/detect")
        self._repository = repository

    def setup(self, device: str) -> None:
        """In the worker process."""
        self._detector = PlainDetector(self._repository)

    def decode_request(self, request):
        """The part `image` of a form."""
        return self._detector.prepare(request["image"].file.read())

    def batch(self, inputs):
        """As they are."""
        return inputs

    def predict(self, x):
        """Outputs and geometry of each."""
        outputs = self._detector.infer([pixels for pixels, _ in x])
        return [(each, geometry) for each, (_, geometry) in zip(outputs, x, strict=True)]

    def unbatch(self, output):
        """As they are."""
        return output

    def encode_response(self, output):
        """JSON."""
        return Response(self._detector.answer(*output), media_type="application/json")


if __name__ == "__main__":
    folder, port, deadline_s = sys.argv[1:]
    server = litserve.LitServer(
        Detection(Path(folder)), accelerator="cpu", devices=1, timeout=float(deadline_s)
    )
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="error")
