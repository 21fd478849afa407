"""The client of the control protocol: Noise upgrade, HTTP/2 inside, register and map poll."""
