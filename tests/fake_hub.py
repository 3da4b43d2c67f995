"""A Hugging Face hub on loopback, which holds in memory what is pushed to it.

It speaks as much of the protocol as the client needs:

    with FakeHub() as hub:
        hub.address                    # for HF_ENDPOINT
        hub.files["owner/name"]        # {path: content}
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class FakeHub:
    def __init__(self):
        self.files, self.private, self.tokens = {}, {}, set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name):
        """The hash of a repository's state."""
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.files.setdefault(name, {})
            self.hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return self._json({"url": f"{self.hub.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/(.+?)/(preupload|commit)/main(\?.*)?", self.path)
        if found and found[2] == "preupload":
            asked = json.loads(body)["files"]
            return self._json({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False,
                                          "oid": None} for one in asked]})
        if found:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = line["value"]["content"]
                    self.hub.files[found[1]][line["value"]["path"]] = base64.b64decode(content)
            oid = self.hub.commit(found[1])
            return self._json({"commitUrl": f"{self.hub.address}/{found[1]}/commit/{oid}", "commitOid": oid,
                               "pullRequestUrl": None, "success": True})
        return self._json({"error": f"unknown {self.path}"}, 404)

    def do_GET(self, body=True):
        asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+|/tree/.+)?", self.path.partition("?")[0])
        if asked and asked[1] in self.hub.files:
            name, files = asked[1], self.hub.files[asked[1]]
            if (asked[2] or "").startswith("/tree"):
                return self._json([{"type": "file", "path": path, "size": len(content),
                                    "oid": hashlib.sha1(content).hexdigest()} for path, content in files.items()])
            return self._json({"id": name, "sha": self.hub.commit(name), "private": self.hub.private[name], "tags": [],
                               "siblings": [{"rfilename": path} for path in files]})
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", unquote(self.path.partition("?")[0]))
        content = asked and self.hub.files.get(asked[1], {}).get(asked[2])
        if content is None:
            missing = "EntryNotFound" if asked and asked[1] in self.hub.files else "RepoNotFound"
            return self._json({"error": missing}, 404, {"X-Error-Code": missing})
        return self._send(content if body else b"", 200, {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.hub.commit(asked[1]),
            "Content-Length": str(len(content))})

    def do_HEAD(self):
        self.do_GET(body=False)

    def _json(self, value, status=200, headers=None):
        content = json.dumps(value).encode()
        self._send(b"" if self.command == "HEAD" else content, status,
                   {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {}))

    def _send(self, content, status, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
