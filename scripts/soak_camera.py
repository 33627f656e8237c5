"""A real RTSP camera on loopback that numbers its frames: `soak_picture.py` as H.264, a key frame each second.

Run by the system's Python, since GStreamer's bindings are no wheel:
    /usr/bin/python3 soak_camera.py PORT BEGAN OFFSET SHOWN
BEGAN: the monotonic time at which frame 0 was due. SHOWN: a file to which the number of every frame that somebody was
connected for is appended. "ready" is printed once rtsp://127.0.0.1:PORT/line listens. Ends with its standard input.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import gi
from soak_picture import RATE, SIDE, is_bad, picture

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

LAUNCH = (
    "( appsrc name=frames is-live=true do-timestamp=true format=time "
    f"caps=video/x-raw,format=RGB,width={SIDE},height={SIDE},framerate={RATE}/1 "
    "! videoconvert ! video/x-raw,format=I420 "
    f"! x264enc tune=zerolatency speed-preset=ultrafast pass=quant quantizer=20 key-int-max={RATE} "
    "! rtph264pay name=pay0 config-interval=1 )"
)


class Camera:
    """Pushes the frame that is due into whatever pipeline a client has opened."""

    def __init__(self, began: float, offset: int, shown: Path) -> None:
        self._began, self._offset = began, offset
        self._last = -1
        self._frames: Gst.Element | None = None
        self._shown = shown.open("ab", buffering=0)

    def configure(self, factory: object, media: GstRtspServer.RTSPMedia) -> None:
        """A client has come, and the pipeline is new."""
        self._frames = media.get_element().get_child_by_name("frames")

    def push(self) -> bool:
        """True: GLib calls again."""
        number = int((time.monotonic() - self._began) * RATE)
        if self._frames is not None and number > self._last:
            self._last = number
            pixels = picture(number, is_bad(number, self._offset))
            if self._frames.emit("push-buffer", Gst.Buffer.new_wrapped(pixels)) == Gst.FlowReturn.OK:
                self._shown.write(b"%d\n" % number)
        return True


def serve(port: str, began: str, offset: str, shown: str) -> None:
    """Until standard input closes."""
    Gst.init(None)
    camera = Camera(float(began), int(offset), Path(shown))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(LAUNCH)
    factory.set_shared(True)
    factory.connect("media-configure", camera.configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/line", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    loop = GLib.MainLoop()
    GLib.timeout_add(1000 // RATE // 2, camera.push)
    threading.Thread(target=lambda: (sys.stdin.read(), GLib.idle_add(loop.quit)), daemon=True).start()
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    serve(*sys.argv[1:5])
