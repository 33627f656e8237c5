"""Events: what was found on the line, kept in SQLite with its pictures, so that it can be proved weeks later.

recorder.py   the thread that writes; never waited for by the one who scores
database.py   the tables and the only SQL there is
pictures.py   photo and heat map as files, on disk before the row that names them
retention.py  what goes when there is too much of it, or it is too old
clock.py      an order that holds when somebody sets the clock
export.py     CSV, JSON lines and pictures for whoever asks
"""
