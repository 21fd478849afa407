"""Port mapping: asking the gateway at home for a port that others can reach (reference §6).

The protocols are pure cores: `pcp`, `natpmp`, `ssdp` and `igd`, with `timing` and `mapping` beside them.
`services` and `upnp` put sockets around them, `session` keeps a mapping in one network, and `client` is what
the node uses.
"""

from meshnode.portmap.client import PortMapper
from meshnode.portmap.mapping import Probed

__all__ = ["PortMapper", "Probed"]
