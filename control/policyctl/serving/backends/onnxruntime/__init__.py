"""The backend that serves ONNX Runtime artifacts; `model.py` is what Triton loads."""
