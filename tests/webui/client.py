"""One request to a WebUI on this machine, from a process that may use the network: URL on argv, the rest on stdin."""

import base64
import json
import sys
import urllib.error
import urllib.request

given = json.load(sys.stdin)
headers = {"Content-Type": "application/json"}
if given["login"]:
    headers["Authorization"] = "Basic " + base64.b64encode(":".join(given["login"]).encode()).decode()
request = urllib.request.Request(sys.argv[1], json.dumps(given["body"]).encode(), headers)
try:
    with urllib.request.urlopen(request, timeout=float(sys.argv[2])) as answer:
        result = answer.status, json.load(answer)
except urllib.error.HTTPError as error:
    result = error.code, error.read().decode(errors="replace")
except OSError as error:
    result = 0, str(error)
json.dump(result, sys.stdout)
