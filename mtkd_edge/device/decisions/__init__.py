"""Decisions on a line: from one verdict a frame to one answer a machine can act on.

focus.py   which part of the picture counts: region of interest, areas to ignore, millimetres
rules.py   what the user sets: votes, hysteresis, latch, rate of alarms, freshness
line.py    the rules as pure functions over a frozen memory
window.py  the frames of one part: from its trigger to its decision
parts.py   all triggered lines: opened from any thread, decided exactly once
board.py   all lines of a station, shared by the scorer, the clock and the outputs
"""
