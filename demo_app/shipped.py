"""The networks shipped with the package, so that the demo runs right after installation."""

from pathlib import Path

#: A bundle with ``lineage.json`` and ``README.md``, its card for people; ``fer card``.
SHIPPED = Path(__file__).parent / "student"

#: The face detector YuNet, of OpenCV's model zoo; ``detector/README.md`` is its card.
YUNET = Path(__file__).parent / "detector" / "face_detection_yunet_2023mar.onnx"
