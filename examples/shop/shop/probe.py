"""`python -m shop.probe [REVISION]`: print the revision that is served here; exit 1 if it is another, or none."""

import http.client
import sys

from shop.environment import BIND

host, _, port = BIND.rpartition(":")
connection = http.client.HTTPConnection(host, int(port), timeout=10)
try:
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    body = answer.read().decode().strip()
except OSError as error:
    sys.exit(f"nothing answers at http://{BIND}/healthz: {error}")
if answer.status != 200:
    sys.exit(f"http://{BIND}/healthz answers {answer.status}")
print(body)
if sys.argv[1:] not in ([], [body]):
    sys.exit(f"http://{BIND} serves {body}, not {sys.argv[1]}")
