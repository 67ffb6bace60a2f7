"""Every kind of finding: a code that stays, how grave it is, and what to do about it.

The codes are what programs read in the JSON; they are never renamed.
"""

from dataclasses import dataclass
from typing import Literal

#: `error`: training is refused, or replaces the image by another. `warning`: training accepts it
#: and will be the worse for it. `note`: worth knowing, often intended.
Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """`title` names one of them: "image that cannot be decoded"."""

    code: str
    severity: Severity
    title: str
    advice: str


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    by_code = {kind.code: kind for kind in kinds}
    assert len(by_code) == len(kinds)
    return by_code


_REFUSED = _kinds(
    Kind(
        "broken-file",
        "error",
        "file of annotations that cannot be read",
        "Mend or export it again.",
    ),
    Kind(
        "broken-annotation",
        "error",
        "annotation that cannot be read",
        "Mend the record that is named, or remove it.",
    ),
    Kind(
        "missing-image",
        "error",
        "image whose file is missing",
        "Put the file there, or remove the image from the annotations.",
    ),
    Kind(
        "unreadable-image",
        "error",
        "image whose file says no size",
        "The file is damaged or no image: replace it, or remove the image from the annotations.",
    ),
    Kind(
        "wrong-size",
        "error",
        "image that has another size than stated",
        "Boxes count the stated pixels: find out which of both is right before changing either.",
    ),
    Kind(
        "unknown-image",
        "error",
        "annotation for an image that is none",
        "Remove the annotation, or list its image.",
    ),
    Kind(
        "stray-labels",
        "error",
        "label file without an image",
        "Add the image of that name, or remove the label file.",
    ),
    Kind(
        "shared-label-file",
        "error",
        "image that shares its label file with another",
        "Two images have one stem: rename or remove one.",
    ),
    Kind(
        "unknown-category",
        "error",
        "annotation of a class that is not listed",
        "Correct its class, or list it among the classes; ids of YOLO count from 0.",
    ),
    Kind(
        "broken-categories",
        "error",
        "list of classes that cannot be used",
        "Every class needs an id and a name of its own.",
    ),
    Kind(
        "untrained-class",
        "error",
        "class of val that train has not",
        "Spell it as in train, or move some of its images to train.",
    ),
    Kind("repeated-id", "error", "id that stands twice", "Number the entries anew."),
    Kind(
        "not-finite",
        "error",
        "annotation with NaN, infinity or coordinates beyond any image",
        "The tool that wrote it failed: annotate anew or remove it.",
    ),
    Kind(
        "negative-box",
        "error",
        "box of negative size",
        "COCO's boxes are x, y, width, height: were corners written instead?",
    ),
    Kind(
        "short-polygon",
        "error",
        "polygon of fewer than three points",
        "Remove the polygon, or draw it anew.",
    ),
    Kind(
        "missing-outline",
        "error",
        "box without the outline that the task needs",
        "Annotate outlines, or train a model of boxes (--task detect).",
    ),
    Kind(
        "broken-mask",
        "error",
        "mask whose run lengths do not fit the image",
        "Encode it anew from the mask, with the size of the image.",
    ),
    Kind(
        "pixel-coordinates",
        "error",
        "line with pixels where shares are meant",
        "Divide x by the width and y by the height of the image.",
    ),
    Kind(
        "nothing-to-train-on",
        "error",
        "split without any box to train on",
        "Look at the other findings: what there is was left out.",
    ),
)

_REPLACED = _kinds(
    Kind(
        "truncated-image",
        "error",
        "image whose file is cut off",
        "Copy it again from where it came from; training takes another image in its place.",
    ),
    Kind(
        "undecodable-image",
        "error",
        "image that cannot be decoded",
        "Replace the file, or remove the image; training takes another one in its place.",
    ),
    Kind(
        "pixels-of-another-size",
        "error",
        "image whose pixels have another size than its file states",
        "Save the image anew; training takes another one in its place.",
    ),
)

_IMAGES = _kinds(
    Kind(
        "image-without-label-file",
        "warning",
        "image without a label file, trained as empty",
        "Write an empty label file where nothing is to be found; else annotate the image.",
    ),
    Kind(
        "unlisted-image",
        "warning",
        "image file that the annotations do not list",
        "List it (without annotations if nothing is on it), or move it elsewhere.",
    ),
    Kind(
        "image-listed-twice",
        "warning",
        "image file that is listed more than once",
        "Join the entries: as it is, each has a part of the annotations alone.",
    ),
    Kind(
        "image-without-boxes",
        "note",
        "image without any annotation",
        "Right where nothing is to be found; recipes that end in -finetune train on them.",
    ),
    Kind(
        "only-crowd-or-difficult",
        "note",
        "image with crowds or difficult instances alone",
        "Nothing on it is trained on.",
    ),
    Kind(
        "turned-image",
        "warning",
        "image that its EXIF data ask to turn or mirror",
        "Save it upright, without orientation, and see that the boxes fit that picture.",
    ),
    Kind(
        "grey-image",
        "note",
        "greyscale image among colour images",
        "Its channels are made equal; fine where such images will be met in use too.",
    ),
    Kind(
        "deep-image",
        "warning",
        "image of 16 bits a channel, read as 8",
        "Stretch the range that matters to 8 bits yourself.",
    ),
    Kind(
        "cmyk-image",
        "warning",
        "image in CMYK",
        "Convert it to RGB: decoders differ in what they make of it.",
    ),
    Kind(
        "transparent-image",
        "note",
        "image with an alpha channel, which is dropped",
        "What is transparent shows whatever colour the file has there: flatten it.",
    ),
    Kind(
        "large-image",
        "warning",
        "image far larger than the input",
        "Cut it into patches (DOTA: rtmdet data tile), or train with a larger input size.",
    ),
    Kind(
        "short-sided-image",
        "warning",
        "image with too short a side, left out",
        "Remove it, or lower data.min_image_side.",
    ),
)

_BOXES = _kinds(
    Kind(
        "box-outside",
        "warning",
        "box wholly outside of its image, not trained on",
        "Boxes of another image, another size, or before cropping?",
    ),
    Kind(
        "box-partly-outside",
        "warning",
        "box that reaches outside of its image, clipped",
        "Clip it in the annotations, if it belongs there at all.",
    ),
    Kind(
        "box-larger-than-image",
        "warning",
        "box larger than its image",
        "Was the image made smaller, and its boxes not?",
    ),
    Kind(
        "degenerate-box",
        "warning",
        "box of less than a pixel on a side, not trained on",
        "Remove it, or draw it anew.",
    ),
    Kind(
        "no-area",
        "warning",
        "annotation without area, not trained on",
        "Leave 'area' out or state it, and give the mask pixels.",
    ),
    Kind(
        "wrong-area",
        "warning",
        "area that disagrees with the outline or box",
        "Evaluation by size goes by it: compute it anew.",
    ),
    Kind(
        "duplicate-annotation",
        "warning",
        "annotation that stands twice",
        "Keep one: the network cannot find both.",
    ),
    Kind(
        "near-duplicate-annotation",
        "warning",
        "annotation that nearly equals another of its class",
        "Keep the better one, unless there are two objects.",
    ),
    Kind(
        "conflicting-annotation",
        "warning",
        "box that has two classes",
        "Keep the class that is right.",
    ),
    Kind(
        "extreme-aspect",
        "note",
        "box twenty times as long as wide",
        "Look at it: a slip of the mouse, or a thing to be annotated in parts?",
    ),
    Kind(
        "crowded-image",
        "note",
        "image with more than 100 instances, which is what COCO's figures count",
        "Cut images into patches, or do not go by AR and AP at 100 detections.",
    ),
    Kind(
        "overfull-image",
        "warning",
        "image with more than 300 instances, which is what serving gives at most",
        "Cut images into patches.",
    ),
    Kind(
        "tiny-instances",
        "warning",
        "instance smaller than the finest stride at the input's size",
        "Train with a larger input size, or cut images into patches.",
    ),
)

_OUTLINES = _kinds(
    Kind(
        "mask-disagrees",
        "warning",
        "mask that disagrees with its box",
        "One of both is of another instance or size: draw it anew.",
    ),
    Kind(
        "crossing-polygon",
        "warning",
        "polygon that crosses itself",
        "Draw it anew: what lies between the crossings counts as outside.",
    ),
    Kind(
        "not-a-rectangle",
        "warning",
        "polygon that fills little of the rectangle it is trained as",
        "Rotated models learn the smallest rectangle around it: draw four corners.",
    ),
    Kind(
        "anticlockwise-corners",
        "note",
        "four corners that run anticlockwise",
        "Nothing here depends on it, but DOTA's own corners run clockwise.",
    ),
)

_CLASSES = _kinds(
    Kind(
        "unused-category",
        "warning",
        "class without an instance in train",
        "Remove it from the classes, or annotate it: it is never learned.",
    ),
    Kind(
        "rare-class",
        "warning",
        "class with fewer than 10 instances in train",
        "Annotate more, or join it with another.",
    ),
    Kind(
        "class-missing-in-val",
        "warning",
        "class without an instance in val",
        "Move some of its images to val: its precision is unknown.",
    ),
    Kind(
        "class-imbalance",
        "note",
        "class a hundred times rarer than the most frequent",
        "Expect little of it: annotate more, or repeat its images.",
    ),
    Kind(
        "similar-names",
        "warning",
        "class whose name differs by case or blanks alone",
        "Join both classes if they mean the same.",
    ),
    Kind(
        "different-classes",
        "warning",
        "class that one split alone lists",
        "Export all splits with one list of classes.",
    ),
)

_SPLITS = _kinds(
    Kind(
        "missing-val",
        "warning",
        "split missing: val",
        "Keep a part of the images aside: without it nothing is evaluated.",
    ),
    Kind(
        "duplicate-image",
        "warning",
        "image whose file equals another's",
        "Keep one.",
    ),
    Kind(
        "near-duplicate-image",
        "note",
        "image that looks like another",
        "Frames of a film, or copies saved anew: keep them in one split.",
    ),
    Kind(
        "leaked-image",
        "warning",
        "image of val that is in train too",
        "Remove it from one: figures on it mean nothing.",
    ),
    Kind(
        "near-leaked-image",
        "warning",
        "image of val that looks like one in train",
        "Keep copies and frames of one film in one split.",
    ),
    Kind(
        "same-file-name",
        "note",
        "file name that train and val share",
        "Look whether the pictures are the same.",
    ),
)

KINDS: dict[str, Kind] = _REFUSED | _REPLACED | _IMAGES | _BOXES | _OUTLINES | _CLASSES | _SPLITS

#: Kinds for which training takes another image instead, up to `data.max_unreadable` times, and
#: evaluation leaves as many out.
REPLACED = frozenset(_REPLACED)
