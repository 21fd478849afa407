"""Adapters to the host: TUN, addresses, routes, rules, firewall, sysctls; declarative, undone in full."""
