"""A small production line, rendered: parts, defects, a video."""
