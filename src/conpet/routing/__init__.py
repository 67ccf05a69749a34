"""Routers: functions that turn what is known of a batch into Routing."""
