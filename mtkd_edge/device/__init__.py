"""The device: bundle -> engine -> verdicts. Never imports torch or onnx."""
