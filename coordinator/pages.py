"""The pages that the public listener shows to people."""

from __future__ import annotations

from string import Template

_STYLE = """
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 4rem auto; padding: 0 1rem;
       color: #222; background: #fff }
pre { padding: 1rem; overflow-x: auto; border-radius: 6px; background: #f0f0f2 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #17171a } pre { background: #26262b } }
"""

# Tools read the command out of this page: keep its shape.
_REGISTER = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Node registration</title>
<style>$style</style>
</head>
<body>
<h1>Node registration</h1>
<p>A machine wants to join this network. To let it in, run this where the coordinator runs,
with the name of the user who shall own it:</p>
<pre><code>coordinator nodes register --key $registration_id --user USERNAME</code></pre>
<p>The machine goes on by itself once that is done. This offer is good for 15 minutes.</p>
</body>
</html>
""")

ROBOTS = "User-agent: *\nDisallow: /\n"


def register_page(registration_id: str) -> str:
    """How to approve a waiting machine. `registration_id` must be well-formed; it is not escaped."""
    return _REGISTER.substitute(style=_STYLE, registration_id=registration_id)
