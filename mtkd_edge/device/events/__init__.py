"""Events: what was found on the line, kept in SQLite with its pictures, so that it can be proved weeks later.

record.py       what one event is;  draft.py  before it is coded
recorder.py     the thread that writes; never waited for by the one who scores
store.py        a folder as its only watch writes it: pictures, then rows, in one transaction
database.py     the tables and the only SQL there is;  row.py  a row as an event and back;  connection.py
pictures.py     photo and heat map as files, on disk before the row that names them;  naming.py  where they lie
progress.py     how far each file is, written with the events of its frames
retention.py    what goes when there is too much of it, or it is too old
clock.py        an order that holds when somebody sets the clock
acknowledge.py  somebody has seen an alarm
export.py       CSV, JSON lines and pictures for whoever asks
"""
