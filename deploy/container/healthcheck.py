"""What a container engine asks: does phiserve in this container take requests? Exit status 0 if so, else 1.

Only Python's own library, since nothing else is in the image for it. It reads the same `PHISERVE_*` variables as the
server, so a port or TLS set there needs no second setting; flags after `serve` it cannot see. Where the server asks
callers for certificates (`PHISERVE_TLS_CLIENT_CA`) it has none to show: run such a container with --no-healthcheck.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

TIMEOUT_S = 2.0


def main() -> int:
    """Ask `/readyz` on the loopback interface."""
    port = int(os.environ.get("PHISERVE_PORT", "8000"))
    connection: http.client.HTTPConnection
    if os.environ.get("PHISERVE_TLS_CERT"):
        # The certificate is for the name that callers use, which is not the one used here.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 - the public way to write this is longer
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"/readyz on port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
