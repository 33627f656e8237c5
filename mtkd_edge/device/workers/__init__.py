"""Processes of our own, for what may hang or crash in somebody else's C code: decoders, drivers, engines.

child.py    the parent's end: start, watch over, end
main.py     the child's end: dies with its parent, then does what it was started for
wire.py     short messages over two pipes
shared.py   pixels, through anonymous memory that both have
"""
