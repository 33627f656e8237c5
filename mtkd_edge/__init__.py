"""mtkd-edge: visual anomaly detection at the edge by multi-teacher knowledge distillation."""

import os

__version__ = "0.1.0"

MAX_PIXELS = 100_000_000
"""A larger photo is refused before it is decoded: 875 kB of PNG can unpack to 5 GB (a decompression bomb)."""
# OpenCV reads this once, when it is first imported: here no module of the package can have imported it yet
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
