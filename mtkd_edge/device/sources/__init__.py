"""Where pictures come from: folders, videos, cameras, streams."""
