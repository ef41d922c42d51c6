"""The backend that serves OpenVINO artifacts; `model.py` is what Triton loads."""
