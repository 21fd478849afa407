"""A real nginx in front of a relay, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.derp.listening import free_port, until_it_listens
from tests.derp.relays import Certificate
from tests.lacking import lacking

ONLY_WEBSOCKETS = """
    map $http_upgrade $passed { default ""; ~*^websocket$ $http_upgrade; }
    server {
        listen 127.0.0.1:%(port)d %(tls)s;
        location / {
            proxy_pass http://127.0.0.1:%(relay)d;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $passed;
            proxy_set_header Connection $passed_connection;
        }
    }
    map $passed $passed_connection { default upgrade; "" close; }
"""
"""As a proxy that knows WebSockets and no other upgrade, which it drops from the request."""

_AROUND = """
pid %(directory)s/nginx.pid;
error_log %(directory)s/error.log;
daemon off;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path %(directory)s/body;
    proxy_temp_path %(directory)s/proxy;
    fastcgi_temp_path %(directory)s/fastcgi;
    uwsgi_temp_path %(directory)s/uwsgi;
    scgi_temp_path %(directory)s/scgi;
    %(servers)s
}
"""


@asynccontextmanager
async def running_nginx(
    directory: Path, servers: str, relay_port: int, tls: Certificate | None = None
) -> AsyncIterator[int]:
    """Its port, once it listens. `servers` is what stands in the block `http`."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        lacking("nginx is not installed")
    port = free_port()
    settings = directory / "nginx.conf"
    with_tls = f"ssl; ssl_certificate {tls.chain}; ssl_certificate_key {tls.key}" if tls else ""
    filled = servers % {"port": port, "relay": relay_port, "tls": with_tls}
    settings.write_text(_AROUND % {"directory": directory, "servers": filled})
    process = await asyncio.create_subprocess_exec(program, "-e", "stderr", "-c", str(settings))
    try:
        await until_it_listens(port)
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
