"""The reader of each format."""

from training.data.formats.checks import Findings
from training.data.formats.coco import read_coco
from training.data.formats.dota import read_dota
from training.data.formats.layouts import DataSource
from training.data.formats.records import RecordStream
from training.data.formats.yolo import read_yolo


def open_records(source: DataSource, findings: Findings, *, with_outlines: bool) -> RecordStream:
    """Begin to read `source`; what is wrong with it goes to `findings`.

    Raises BrokenData where nothing can be read at all.
    """
    if source.format == "coco":
        return read_coco(source, findings, with_outlines=with_outlines)
    if source.format == "dota":
        return read_dota(source, findings)
    return read_yolo(source, findings)
