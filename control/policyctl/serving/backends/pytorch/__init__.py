"""The backend that serves TorchScript artifacts; `model.py` is what Triton loads."""
