"""What can run: EfficientNet variants as ONNX graphs, with provenance, accuracy and measured latency.

Knows nothing of requests, queues or the network. ARCHITECTURE.md has the map.
"""
