"""Device-bound sessions (DBSC): a browser binds its session to a key of the device.

`views` has the two endpoints that browsers call, and answers them before the app's own functions.
`proof` checks what a device has signed; only this module needs the extra `[device-bound]`. `checks`
looks at the app's settings. What the core needs to know of it is in the module `binding`.
"""

from __future__ import annotations

from .checks import install, require_endpoints
from .views import device_bound_blueprint, device_endpoints

__all__ = ["device_bound_blueprint", "device_endpoints", "install", "require_endpoints"]
