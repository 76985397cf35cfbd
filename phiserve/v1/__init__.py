"""Stubs of `proto/phiserve/v1/`, made by protoc and never edited: what both ends of the gRPC wire import."""
