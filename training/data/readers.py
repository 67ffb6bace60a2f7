"""The reader of each format."""

from training.data.checks import Findings
from training.data.coco import read_coco
from training.data.dota import read_dota
from training.data.layouts import DataSource
from training.data.records import RecordStream
from training.data.yolo import read_yolo


def open_records(source: DataSource, findings: Findings, *, with_outlines: bool) -> RecordStream:
    """Begin to read `source`; what is wrong with it goes to `findings`.

    Raises BrokenData where nothing can be read at all.
    """
    if source.format == "coco":
        return read_coco(source, findings, with_outlines=with_outlines)
    if source.format == "dota":
        return read_dota(source, findings)
    return read_yolo(source, findings)
