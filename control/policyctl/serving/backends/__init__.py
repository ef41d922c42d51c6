"""What Triton's own processes run: one folder a runtime, over shared code.

Each folder is named as NVIDIA's native backend of that runtime, so that a
``config.pbtxt`` serves under both. Every import here is paid at every swap of
a release, so shared code imports numpy and the domain, and nothing heavier.
"""
