"""Thin translations between a wire protocol and `service.core.engine`. No business logic lives here."""
