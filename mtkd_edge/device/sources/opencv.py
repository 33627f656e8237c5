"""What OpenCV's video reader needs, for files and cameras alike: quiet logs, bounded waits, and RGB.

Traps: `isOpened()` stays True after a camera was unplugged; without time limits an RTSP read blocks for 30 s and a
V4L2 read for 10 s; a dead stream ends like a finished file. So nothing here trusts `isOpened()` after the first frame.
"""

from __future__ import annotations

import os
from typing import cast

# read by OpenCV when the first video is opened; a user's own setting wins
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg would write its complaints to our stderr
# UDP tears pictures when packets are lost; and FFmpeg would study a new stream for 1.2 s, then give all of it at once
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|analyzeduration;200000")
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")

import cv2
import numpy as np

from mtkd_edge.errors import DataError
from mtkd_edge.frames import Photo


def to_rgb(picture: np.ndarray) -> Photo:
    """What VideoCapture gives (BGR, or grey) -> RGB photo [H, W, 3]: the one place where it is turned, once.

    Raises DataError for any other shape or type, for instance the raw bytes of an undecoded MJPEG camera.
    """
    if picture.dtype in (np.uint8, np.uint16) and picture.size:
        if picture.ndim == 3 and picture.shape[2] == 3:
            return cast(Photo, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        if picture.ndim == 2 or picture.shape[2] == 1:
            return cast(Photo, cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB))
    raise DataError(f"the camera gave {list(picture.shape)} of {picture.dtype}, wanted a BGR or grey picture")
