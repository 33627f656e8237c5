"""Seeing it: a page, health and metrics, on threads beside the scorer, which never waits for any of them.

viewfinder.py       a sink that remembers the newest frames and verdicts
state.py            everything there is to show, as one value
pictures.py         a frame or an event as a JPEG, drawn when somebody looks
metrics.py          the same figures for Prometheus
access.py           who may look
app_starlette.py    the routes;  server_uvicorn.py  the thread that serves them
open.py             all of it put together and started
page/               the page itself: HTML, CSS and JavaScript of our own, nothing from elsewhere
"""
