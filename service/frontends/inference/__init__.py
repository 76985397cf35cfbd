"""Stubs of `proto/inference/`, made by `make proto` and never edited.

Protobuf knows one definition of a message in a process, and Triton's, KServe's and MLServer's packages each bring one
of this protocol. So only the server's gRPC front imports these; the `phiserve` client package, which people use beside
those, never does.
"""
