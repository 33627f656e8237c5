#!/usr/bin/env bash
# Installs what the tests with real counterparts need, from Debian: GStreamer with its RTSP server and H.264 encoder as a
# camera, Aravis with its GigE Vision camera, mosquitto as an MQTT broker, Chromium as the browser of the page.
# Run twice it does nothing the second time. Without root or apt it says which tests will be skipped and ends with 0.
set -euo pipefail

packages=(
  python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
  gstreamer1.0-tools aravis-tools
  mosquitto chromium
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "no apt-get here: the tests with a real camera, broker and browser will be skipped (they need ${missing[*]})" >&2
  exit 0
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    echo "not root: the tests with a real camera, broker and browser will be skipped; to run them: sudo apt-get install ${missing[*]}" >&2
    exit 0
  fi
  sudo=(sudo -n)
fi
export DEBIAN_FRONTEND=noninteractive
if ! { "${sudo[@]}" apt-get update -q && "${sudo[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"; } >&2; then
  echo "the packages could not be installed: their tests will be skipped" >&2
fi
