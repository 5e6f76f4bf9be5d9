"""One request to a WebUI on this machine, from a process that may use the network: URL on argv, the rest on stdin.

With a body it is a POST, without one a GET.
"""

import base64
import json
import sys
import urllib.error
import urllib.request

given = json.load(sys.stdin)
headers = {"Content-Type": "application/json"}
if given["login"]:
    headers["Authorization"] = "Basic " + base64.b64encode(":".join(given["login"]).encode()).decode()
body = None if given["body"] is None else json.dumps(given["body"]).encode()
request = urllib.request.Request(sys.argv[1], body, headers)
try:
    with urllib.request.urlopen(request, timeout=float(sys.argv[2])) as answer:
        text = answer.read()
        result = answer.status, json.loads(text) if text else None  # SD.Next has nothing to say to "interrupt"
except urllib.error.HTTPError as error:
    result = error.code, error.read().decode(errors="replace")
except OSError as error:
    result = 0, str(error)
json.dump(result, sys.stdout)
