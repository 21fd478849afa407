"""The asyncio shells that move packets between TUN, UDP and the WireGuard core.

To put one together: `Tun(open_tun(name))`, `UdpSockets.open(port, fwmark=…)`, a `Device` and its `Paths` go
into an `Engine`; `configure` and `start` it. `limit_segments(name, segments_per_unit(mtu))` makes bulk TCP
fit one send.
"""

from meshnode.engine.engine import Engine
from meshnode.engine.tun import Tun
from meshnode.engine.udp import UdpOptions, UdpPortInUse, UdpSockets, UdpUnavailable

__all__ = ["Engine", "Tun", "UdpOptions", "UdpPortInUse", "UdpSockets", "UdpUnavailable"]
