"""What this network is like: whether UDP gets out, how it is translated, and how far each DERP region is."""
