"""Single questions to the network, each asked once: names, HTTP, ICMP echo. Who asks has the deadline."""
