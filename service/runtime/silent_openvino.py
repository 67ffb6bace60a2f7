"""OpenVINO without its reporter.

Importing OpenVINO imports its conversion tools too, and these report the import to a web service
and write to the user's home. Where their reporter cannot be imported they stay silent.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

import openvino as ov  # noqa: E402 - only after the line above

__all__ = ["ov"]
