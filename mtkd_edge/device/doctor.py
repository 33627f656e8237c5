"""What this machine has, what it lacks, and the line that fixes it.

Each check is a function that looks and returns findings; nothing here changes anything. Vendor runtimes are imported in
a child process: one that crashes or hangs while it loads is a finding, not the end of the doctor.
This file knows the order of the checks; `doctor_*.py` know the parts of the machine.
"""

from __future__ import annotations

from collections.abc import Callable

from mtkd_edge.device import doctor_machine, doctor_nvidia, doctor_python
from mtkd_edge.device.doctor_report import Finding, Report

Check = Callable[[], list[Finding]]

CHECKS: tuple[Check, ...] = (
    doctor_python.python,
    doctor_python.packages,
    doctor_python.openvino,
    doctor_nvidia.driver,
    doctor_nvidia.tensorrt,
    doctor_nvidia.toolkit,
    doctor_nvidia.jetson,
    doctor_machine.cameras,
    doctor_machine.gstreamer,
    doctor_machine.disk,
    doctor_machine.models,
)
"""In the order in which a person reads them."""


def examine(checks: tuple[Check, ...] = CHECKS) -> Report:
    """Run the checks in order."""
    findings = tuple(finding for check in checks for finding in check())
    return Report(ok=all(finding.status != "fail" for finding in findings), findings=findings)
