"""A real RTSP camera on loopback, for the tests: a red H.264 picture, 25 frames a second, a key frame each second.

Run by the system's Python, since GStreamer's bindings are no wheel:  /usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT
[basic|digest]; with the last word it wants the login operator, s3cret.
The address is rtsp://127.0.0.1:PORT/line; "ready" is printed once it listens. Ends when its standard input closes, so
that no server outlives its test.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def guard(server: GstRtspServer.RTSPServer, camera: GstRtspServer.RTSPMediaFactory, method: str) -> None:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "operator")
    if method == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest("operator", "s3cret", token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic("operator", "s3cret"), token)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("operator", "media.factory.access", True)
    permissions.add_permission_for_role("operator", "media.factory.construct", True)
    camera.set_permissions(permissions)
    server.set_auth(auth)


def serve(port: str, width: str, height: str, method: str = "") -> None:
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
    if method:
        guard(server, camera, method)
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    loop = GLib.MainLoop()
    threading.Thread(target=lambda: (sys.stdin.read(), GLib.idle_add(loop.quit)), daemon=True).start()
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    serve(*sys.argv[1:5])
