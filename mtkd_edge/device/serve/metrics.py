"""The figures for Prometheus, in its text format: written by hand from one state.

A client library would keep counters of its own beside those of the ledger; here each figure has one owner, and the
format is a name, labels and a number a line (prometheus.io/docs/instrumenting/exposition_formats).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mtkd_edge.device.decisions.line import Answer
from mtkd_edge.device.health import Condition
from mtkd_edge.device.serve.state import Line, StationState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[str, Mapping[str, str], float]
HELP = {
    "build_info": ("gauge", "Always 1; what is running."),
    "uptime_seconds": ("gauge", "Since the start."),
    "ready": ("gauge", "1 while frames are really scored."),
    "frames_captured_total": ("counter", "Frames taken from a source."),
    "frames_scored_total": ("counter", "Frames with a normal or anomalous verdict."),
    "frames_invalid_total": ("counter", "Frames that could not be judged."),
    "frames_anomalous_total": ("counter", "Frames with an anomalous verdict."),
    "frames_dropped_total": ("counter", "Frames given up, by reason."),
    "decoders_replaced_total": ("counter", "Decoders of a source's photos that died, by what they died of."),
    "parts_total": ("counter", "Parts that were decided."),
    "part_windows_total": ("counter", "What went otherwise between triggers and frames, by what it was."),
    "frames_waiting": ("gauge", "Frames captured and not yet judged."),
    "answer": ("gauge", "1 for the answer a line gives now."),
    "answer_valid": ("gauge", "1 while the newest frame was judged and is fresh."),
    "alarm_latched": ("gauge", "1 while an alarm waits for its acknowledgement."),
    "source_condition": ("gauge", "1 for the condition a source is in now."),
    "frame_age_seconds": ("gauge", "Since the newest judged frame was captured."),
    "outages_total": ("counter", "Times a source was away."),
    "outage_seconds_total": ("counter", "Seconds for which a source was away."),
    "source_restarts_total": ("counter", "Times the process of a source crashed or hung and was started anew."),
    "engine_restarts_total": ("counter", "Times the engine crashed, hung or failed and was started anew."),
    "latency_seconds": ("gauge", "Of the latest frames, by stage and quantile."),
    "events_stored_total": ("counter", "Events written since the start."),
    "events_pruned_total": ("counter", "Events deleted by the limits since the start."),
    "events_waiting": ("gauge", "Events not yet on the disk."),
    "events_lost_total": ("counter", "Events that were never written, by reason."),
    "store_bytes": ("gauge", "Rows and pictures of all events."),
    "store_events": ("gauge", "Events in the store."),
    "store_failing": ("gauge", "1 while events cannot be written."),
    "disk_free_bytes": ("gauge", "On the disk of the store."),
    "sink_sent_total": ("counter", "Events delivered since the start."),
    "sink_waiting": ("gauge", "Events yet to be delivered."),
    "sink_failing": ("gauge", "1 while nothing gets through."),
    "sink_lost_total": ("counter", "Events that will never be delivered, by reason."),
    "process_resident_bytes": ("gauge", "Memory."),
    "process_open_files": ("gauge", "File descriptors."),
}


def text(state: StationState) -> str:
    """Every figure, grouped by name with its help."""
    by_name: dict[str, list[str]] = {}
    for name, labels, value in samples(state):
        inside = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
        by_name.setdefault(name, []).append(f"mtkd_edge_{name}{{{inside}}} {value:.10g}")
    lines: list[str] = []
    for name, (kind, words) in HELP.items():
        if name in by_name:
            lines += [f"# HELP mtkd_edge_{name} {words}", f"# TYPE mtkd_edge_{name} {kind}", *by_name[name]]
    return "\n".join(lines) + "\n"


def samples(state: StationState) -> Iterator[Sample]:
    """Every figure of a state and of this process."""
    labels = {"version": state.version, "station": state.station, "engine": state.engine, "sha256": state.engine_sha}
    yield "build_info", labels, 1
    yield "uptime_seconds", {}, state.up
    yield "ready", {}, state.ready
    yield "engine_restarts_total", {}, state.engine_restarts
    for line in state.lines:
        yield from _line(line)
    if store := state.store:
        yield "events_stored_total", {}, store.stored
        yield "events_pruned_total", {}, store.pruned
        yield "events_waiting", {}, store.waiting
        yield "store_bytes", {}, store.bytes
        yield "store_events", {}, store.events
        yield "store_failing", {}, bool(store.failing)
        yield "disk_free_bytes", {}, store.free
        for reason, count in store.lost.items():
            yield "events_lost_total", {"reason": reason}, count
    for sink in state.sinks:
        yield "sink_sent_total", {"sink": sink.name}, sink.sent
        yield "sink_waiting", {"sink": sink.name}, sink.waiting
        yield "sink_failing", {"sink": sink.name}, bool(sink.failing)
        for reason, count in sink.lost.items():
            yield "sink_lost_total", {"sink": sink.name, "reason": reason}, count
    yield from _process()


def _line(line: Line) -> Iterator[Sample]:
    labels = {"source": line.source}
    yield "frames_captured_total", labels, line.captured
    yield "frames_scored_total", labels, line.scored
    yield "frames_invalid_total", labels, line.invalid
    yield "frames_anomalous_total", labels, line.anomalous
    yield "frames_waiting", labels, line.waiting
    for reason, count in line.dropped.items():
        yield "frames_dropped_total", {**labels, "reason": reason}, count
    for reason, count in line.replaced.items():
        yield "decoders_replaced_total", {**labels, "reason": reason}, count
    yield "parts_total", labels, line.parts
    for what, count in line.part_windows.items():
        yield "part_windows_total", {**labels, "what": what}, count
    for answer in Answer:
        yield "answer", {**labels, "answer": answer.value}, line.answer == answer.value
    yield "answer_valid", labels, line.valid
    yield "alarm_latched", labels, line.latched
    for condition in Condition:
        yield "source_condition", {**labels, "condition": condition.value}, line.condition == condition.value
    if line.age is not None:
        yield "frame_age_seconds", labels, line.age
    yield "outages_total", labels, line.outages
    yield "outage_seconds_total", labels, line.outage_seconds
    yield "source_restarts_total", labels, line.restarts
    for stage, (median, worst) in line.latency.items():
        yield "latency_seconds", {**labels, "stage": stage, "quantile": "0.5"}, median / 1e3
        yield "latency_seconds", {**labels, "stage": stage, "quantile": "0.99"}, worst / 1e3


def _process() -> Iterator[Sample]:
    status = Path("/proc/self/status")
    if status.is_file():
        rows = dict(row.split(":", 1) for row in status.read_text().splitlines() if ":" in row)
        yield "process_resident_bytes", {}, int(rows["VmRSS"].split()[0]) * 1024
        yield "process_open_files", {}, len(list(Path("/proc/self/fd").iterdir()))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
