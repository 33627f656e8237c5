"""mtkd-edge: visual anomaly detection at the edge by multi-teacher knowledge distillation."""

__version__ = "0.1.0"
