"""`rtmdet detect` in this process: opens the repository and runs the model itself."""

from collections.abc import Sequence
from pathlib import Path

from service.codecs.drawing import draw_detections, encode_picture
from service.commands.detecting import (
    PictureFailed,
    listing,
    print_in_order,
    read_picture,
    shown,
    write_drawn,
)
from service.detection import DetectionResult, DetectOptions
from service.detector import Detector
from service.errors import ServiceError
from service.http_api.schemas import detection_json
from service.stages import Picture


async def detect_here(
    detector: Detector,
    images: Sequence[Path],
    options: DetectOptions,
    *,
    out: Path | None,
    as_json: bool,
) -> int:
    """Detect in one picture after the other; how many failed."""

    async def detect_one(path: Path, drawn_path: Path | None) -> str:
        def present(result: DetectionResult, picture: Picture) -> str:
            if drawn_path is not None:
                drawn = draw_detections(picture().pixels_bgr, result.detections)
                write_drawn(drawn_path, encode_picture(drawn, "jpeg"))
            if as_json:
                return detection_json(result, shown(path), options.mask_format).decode()
            return listing(
                path,
                result.detections,
                drawn_path,
                model_name=result.model.name,
                total_ms=1000 * result.timings.total_s,
            )

        try:
            content = read_picture(path, detector.limits.image.max_bytes)
            return await detector.detect(content, options, present)
        except ServiceError as error:
            raise PictureFailed(str(error)) from error

    detector.start()
    failed = await print_in_order(images, out, detect_one, at_once=1)
    await detector.stop()
    return failed
