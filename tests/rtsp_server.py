"""A real RTSP camera on loopback, for the tests: a red H.264 picture, 25 frames a second, a key frame each second.

Run by the system's Python, since GStreamer's bindings are no wheel:  /usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT
The address is rtsp://127.0.0.1:PORT/line; "ready" is printed once it listens. Ends when its standard input closes, so
that no server outlives its test.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def serve(port: str, width: str, height: str) -> None:
    Gst.init(None)
    camera = GstRtspServer.RTSPMediaFactory()
    camera.set_launch(
        "( videotestsrc is-live=true pattern=red "
        f"! video/x-raw,format=I420,width={width},height={height},framerate=25/1 "
        "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 config-interval=1 )"
    )
    camera.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/line", camera)
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    loop = GLib.MainLoop()
    threading.Thread(target=lambda: (sys.stdin.read(), GLib.idle_add(loop.quit)), daemon=True).start()
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    serve(*sys.argv[1:4])
