"""The admin API: Headscale's `/api/v1` over the coordinator's state."""

from coordinator.api.app import create_app

__all__ = ["create_app"]
