"""A Hub in memory on loopback: create, commit (LFS too), tag, branch, resolve. Standard library only."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LocalHub(ThreadingHTTPServer):
    """`with LocalHub() as hub:` serves `hub.endpoint`; `hub.repos[repo_id]` holds refs, trees and messages.

    A client needs `environment` before it imports huggingface_hub, which reads it once.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict] = {}
        self.blobs: dict[str, bytes] = {}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info):
        self.shutdown()
        self.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": "anything",
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
        }

    def commit(self, repo: dict, ref: str, message: str, files: dict[str, bytes | None]) -> str:
        tree = {**repo["trees"].get(repo["refs"].get(ref), {}), **files}
        tree = {path: data for path, data in tree.items() if data is not None}
        sha = hashlib.sha1(f"{len(repo['messages'])} {ref} {message}".encode()).hexdigest()
        repo["trees"][sha], repo["refs"][ref] = tree, sha
        repo["messages"].append(message)
        return sha


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *args):
        pass

    def reply(self, payload=None, status=200, headers=None, data=None):
        data = json.dumps({} if payload is None else payload).encode() if data is None else data
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, code: str):
        self.reply({"error": code}, 404, {"X-Error-Code": code})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def dispatch(self):
        body, path = self.read_body(), unquote(urlsplit(self.path).path)
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                found = match.groupdict()
                if "repo" in found:
                    if found["repo"] not in self.server.repos:
                        return self.fail("RepoNotFound")
                    found["repo"] = self.server.repos[found["repo"]]
                if "rev" in found:
                    revision = found["rev"] or "main"
                    found["sha"] = found["repo"]["refs"].get(revision, revision)
                    if found["sha"] not in found["repo"]["trees"]:
                        return self.fail("RevisionNotFound")
                return getattr(self, method)(body, **found)
        self.fail("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = dispatch  # noqa: N815, names that http.server looks for

    def create(self, body):
        args = json.loads(body)
        repo_id = f"{args.get('organization') or 'user'}/{args['name']}"
        if repo_id in self.server.repos:
            return self.reply({"url": f"{self.server.endpoint}/{repo_id}"}, 409)
        repo = {"id": repo_id, "visibility": args.get("visibility"), "refs": {}, "trees": {}, "messages": []}
        self.server.repos[repo_id] = repo
        self.server.commit(repo, "main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.reply({"url": f"{self.server.endpoint}/{repo_id}", "id": repo_id})

    def whoami(self, body):
        self.reply({"type": "user", "name": "user", "orgs": []})

    def info(self, body, repo, rev, sha):
        readme = repo["trees"][sha].get("README.md", b"").decode()
        fields = dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)$", readme, re.MULTILINE))
        files = [{"rfilename": path} for path in repo["trees"][sha]]
        self.reply({"_id": "0", "id": repo["id"], "sha": sha, "tags": [], "siblings": files, **fields})

    def tree(self, body, repo, rev, sha):
        tree = repo["trees"][sha]
        self.reply([{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in tree.items()])

    def validate_yaml(self, body):
        self.reply({"errors": [], "warnings": []})

    def preupload(self, body, repo, rev, sha):
        def mode(path):
            return "lfs" if path.endswith((".safetensors", ".bin")) else "regular"

        files = [{"path": f["path"], "uploadMode": mode(f["path"])} for f in json.loads(body)["files"]]
        self.reply({"files": [{**f, "shouldIgnore": False, "oid": None} for f in files]})

    def lfs_batch(self, body, repo):
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in self.server.blobs:
                item["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}"}}
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, body, oid):
        self.server.blobs[oid] = body
        self.reply()

    def push(self, body, repo, rev, sha):
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.blobs[value["oid"]]
                case "deletedFile":
                    files[value["path"]] = None
        sha = self.server.commit(repo, rev, message, files)
        self.reply({"commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo['id']}/commit/{sha}"})

    def tag(self, body, repo, rev, sha):
        self.add_ref(repo, json.loads(body)["tag"], sha)

    def branch(self, body, repo, name):
        self.add_ref(repo, name, repo["refs"]["main"])

    def add_ref(self, repo, name, sha):
        exists = name in repo["refs"]
        repo["refs"].setdefault(name, sha)
        self.reply(status=409 if exists else 200)

    def resolve(self, body, repo, rev, sha, path):
        data = repo["trees"][sha].get(path)
        if data is None:
            return self.fail("EntryNotFound")
        self.reply(data=data, headers={"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})


REPO, REV = r"(?P<repo>[^/]+/[^/]+)", r"(?P<rev>[^/]+)"
ROUTES = [
    ("POST /api/repos/create", "create"),
    ("GET /api/whoami-v2", "whoami"),
    ("POST /api/validate-yaml", "validate_yaml"),
    (f"GET /api/models/{REPO}(/revision/{REV})?", "info"),
    (f"GET /api/models/{REPO}/tree/{REV}", "tree"),
    (f"POST /api/models/{REPO}/preupload/{REV}", "preupload"),
    (f"POST /api/models/{REPO}/commit/{REV}", "push"),
    (f"POST /api/models/{REPO}/tag/{REV}", "tag"),
    (f"POST /api/models/{REPO}/branch/(?P<name>[^/]+)", "branch"),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs/(?P<oid>\w+)", "lfs_put"),
    (f"(GET|HEAD) /{REPO}/resolve/{REV}/(?P<path>.+)", "resolve"),
]
