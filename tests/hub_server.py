"""The Hub's HTTP interface on loopback, in memory: repositories, commits, branches, files, access.

Large files can go the three ways that the Hub knows: within the commit, by Git LFS, and by Xet, whose client
is given a folder in place of a storage server.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import ModelCard

from tests.serving import serving

TOKEN = "hf_of_the_tests"


@dataclass(frozen=True)
class Pointer:
    """A file that lies in the large file storage."""

    sha256: str
    size: int


class Repository:
    """A history of whole folders: {commit: {path: content}}, and branches that point into it."""

    def __init__(self, private: bool = False):
        self.private = private
        self.commits: dict[str, dict[str, bytes | Pointer]] = {}
        self.branches: dict[str, str] = {}
        self.add({})

    def add(self, files: dict[str, bytes | Pointer], branch: str = "main") -> str:
        commit = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Fault:
    """What goes wrong with a file.

    Attributes:
        kind: a status, or what `Handler.go_wrong` knows.
        method: the requests that it befalls; "": all.
        times: how often; -1: always.
        after: the header Retry-After.
        code: the Hub's name of an error.
    """

    kind: int | str
    method: str = ""
    times: int = -1
    after: str | None = None
    code: str = "Fault"


class Hub:
    """What a server knows. Files in `cut` break off in the middle; `faults` are by the path of a file.

    `large` says how .safetensors files travel: "regular" (in the commit), "lfs" or "xet". Of Xet's files the
    server knows the hashes, {sha256: hash}, and the folder that stands for their storage.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.cut: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.before_commit = lambda: None
        self.after_file = lambda path: None
        self.large = "regular"
        self.objects: dict[str, bytes] = {}
        self.xet_hashes: dict[str, str] = {}
        self.xet_folder = ""
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def answer(self, status: int, content=None, headers=(), raw: bytes = b"", cut: bool = False):
        body = raw if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def refuse(self, status: int, code: str):
        self.answer(status, {"error": code}, [("X-Error-Code", code), ("X-Error-Message", code)])

    @property
    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def serve(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                return method(self, body, *match.groups())
        return self.refuse(404, f"no route {self.command} {path}")

    def create(self, body: bytes):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        if not self.is_known:
            return self.refuse(401, "Unauthorized")
        address = {"url": f"{self.address}/{name}"}
        with self.hub.lock:
            if name in self.hub.repositories:
                return self.answer(409, {"error": "exists", **address})
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository(private)
        return self.answer(200, address)

    def validate(self, body: bytes):
        self.answer(200, {"errors": [], "warnings": []})

    def repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.is_known):
            self.refuse(404 if self.is_known else 401, "RepoNotFound")
            return None
        return found

    def commit_of(self, repository: Repository, revision: str) -> str | None:
        commit = repository.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
        return commit

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def info(self, body: bytes, name: str, revision: str | None = None):
        if (repository := self.repository(name)) and (
            commit := self.commit_of(repository, revision or "main")
        ):
            files = repository.commits[commit]
            siblings = [{"rfilename": path} for path in sorted(files)]
            about = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
            self.answer(200, {**of_card(files.get("README.md")), **about})

    def tree(self, body: bytes, name: str, revision: str, folder: str = ""):
        if (repository := self.repository(name)) and (commit := self.commit_of(repository, revision)):
            above = f"{folder}/" if folder else ""
            files = {
                path: each for path, each in repository.commits[commit].items() if path.startswith(above)
            }
            if folder and not files:
                return self.refuse(404, "EntryNotFound")
            listed = []
            if parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() not in (
                "true",
                "1",
            ):
                inside = {path[len(above) :].partition("/")[0] for path in files if "/" in path[len(above) :]}
                listed = [{"type": "directory", "path": above + each, "oid": blob(b"")} for each in inside]
                files = {path: each for path, each in files.items() if "/" not in path[len(above) :]}
            listed += [entry(path, content) for path, content in files.items()]
            self.answer(200, sorted(listed, key=lambda each: each["path"]))
        return None

    def preupload(self, body: bytes, name: str, revision: str):
        files = [
            {"path": path, "uploadMode": "lfs" if self.is_large(path) else "regular", "shouldIgnore": False}
            for path in (each["path"] for each in json.loads(body)["files"])
        ]
        self.answer(200, {"files": files})

    def is_large(self, path: str) -> bool:
        return self.hub.large != "regular" and path.endswith(".safetensors")

    def lfs_batch(self, body: bytes, name: str):
        asked = json.loads(body)
        if self.hub.large == "xet" and "xet" in asked["transfers"]:
            return self.answer(200, {"transfer": "xet", "objects": asked["objects"]})
        objects = [
            {
                **each,
                "actions": {
                    "upload": {"href": f"{self.address}/lfs/{each['oid']}"},
                    "verify": {"href": f"{self.address}/lfs/verify"},
                },
            }
            for each in asked["objects"]
        ]
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_object(self, body: bytes, sha256: str):
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != sha256:
                return self.refuse(422, "another content")
            self.hub.objects[sha256] = body
            return self.answer(200)
        return self.answer(200, raw=self.hub.objects[sha256], cut=sha256 in self.hub.cut)

    def lfs_verify(self, body: bytes):
        asked = json.loads(body)
        there = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        return self.answer(200, {}) if there else self.refuse(404, "never uploaded")

    def xet_token(self, body: bytes, name: str):
        if not self.is_known:
            return self.refuse(401, "Unauthorized")
        place = {"casUrl": f"local://{self.hub.xet_folder}", "accessToken": "of the storage", "exp": 2**40}
        headers = [
            ("X-Xet-Cas-Url", place["casUrl"]),
            ("X-Xet-Access-Token", place["accessToken"]),
            ("X-Xet-Token-Expiration", str(place["exp"])),
        ]
        return self.answer(200, place, headers)

    def branch(self, body: bytes, name: str, branch: str):
        if repository := self.repository(name):
            if branch in repository.branches:
                return self.refuse(409, "exists")
            repository.branches[branch] = repository.branches["main"]
            self.answer(200, {})
        return None

    def commit(self, body: bytes, name: str, revision: str):
        if not self.is_known:
            return self.refuse(401, "Unauthorized")
        self.hub.before_commit()
        with self.hub.lock:
            repository = self.hub.repositories[name]
            files = dict(repository.commits[repository.branches[revision]])
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header" and value.get("parentCommit") not in (
                    None,
                    repository.branches[revision],
                ):
                    return self.refuse(412, "the branch has moved")
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if entry["key"] == "lfsFile":
                    if value["oid"] not in (*self.hub.objects, *self.hub.xet_hashes):
                        return self.refuse(400, "a pointer to nothing")
                    files[value["path"]] = Pointer(value["oid"], value["size"])
                if entry["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                    return self.refuse(404, "EntryNotFound")
            commit = repository.add(files, revision)
        return self.answer(200, {"commitOid": commit, "commitUrl": f"{self.address}/{name}/commit/{commit}"})

    def file(self, body: bytes, name: str, revision: str, path: str):
        if (repository := self.repository(name)) and (commit := self.commit_of(repository, revision)):
            content = repository.commits[commit].get(path)
            if content is None:
                return self.refuse(404, "EntryNotFound")
            if isinstance(content, Pointer):
                return self.redirect(content, name, commit)
            headers = [("ETag", f'"{blob(content)}"'), ("X-Repo-Commit", commit), ("Accept-Ranges", "bytes")]
            fault = self.hub.faults.get(path)
            if fault is not None and fault.times and fault.method in ("", self.command):
                fault.times -= 1
                return self.go_wrong(fault, content, headers)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and self.command == "GET" and asked[1] + asked[2] != "0":
                first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
                headers.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
                part = content[first : last + 1]
                return self.answer(206, headers=headers, raw=part, cut=path in self.hub.cut)
            self.answer(200, headers=headers, raw=content, cut=path in self.hub.cut)
            if self.command == "GET":
                self.hub.after_file(path)
        return None

    def go_wrong(self, fault: Fault, content: bytes, headers: list[tuple[str, str]]) -> None:
        kind, extra = fault.kind, [] if fault.after is None else [("Retry-After", fault.after)]
        if isinstance(kind, int):
            extra += [("X-Error-Code", fault.code), ("X-Error-Message", fault.code)]
            return self.answer(kind, {"error": fault.code}, extra)
        if kind in ("reset", "time-out"):
            if kind == "time-out":
                threading.Event().wait(1.5)
            else:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if kind == "redirect loop":
            return self.answer(302, headers=[("Location", self.path)])
        if kind == "no Hub":
            return self.answer(200, raw=b"<html>Log in to this network</html>")
        bodies = {
            "cut": content,
            "no length": content,
            "short": content[:-10],
            "long": content + b"0123456789",
            "wrong hash": bytes([*content[:-40], content[-40] ^ 1, *content[-39:]]),
            "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
            % (hashlib.sha256(content).hexdigest().encode(), len(content)),
            "HTML": b"<html>502</html>",
            "{}": b"{}",
        }
        body = bodies[kind]
        if kind == "no length":
            self.send_response(200)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            return None if self.command == "HEAD" else self.wfile.write(body)
        return self.answer(200, headers=headers, raw=body, cut=kind == "cut")

    def redirect(self, pointer: Pointer, name: str, commit: str):
        # Another host: clients follow redirects within the Hub when they ask for a file's metadata.
        storage = self.address.replace("127.0.0.1", "localhost")
        headers = [
            ("X-Repo-Commit", commit),
            ("X-Linked-ETag", f'"{pointer.sha256}"'),
            ("X-Linked-Size", str(pointer.size)),
            ("Location", f"{storage}/lfs/{pointer.sha256}"),
        ]
        if self.hub.large == "xet":
            refresh = f"{self.address}/api/models/{name}/xet-read-token/{commit}"
            headers += [
                ("X-Xet-Hash", self.hub.xet_hashes[pointer.sha256]),
                ("X-Xet-Refresh-Route", refresh),
            ]
        self.answer(302, headers=headers)

    do_GET = do_POST = do_PUT = do_HEAD = serve


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/(?:models|datasets)/{NAME}", Handler.info),
    (rf"/api/(?:models|datasets)/{NAME}/revision/(.+)", Handler.info),
    (rf"/api/(?:models|datasets)/{NAME}/tree/([^/]+)", Handler.tree),
    (rf"/api/(?:models|datasets)/{NAME}/tree/([^/]+)/(.+)", Handler.tree),
    (rf"/api/(?:models|datasets)/{NAME}/preupload/(.+)", Handler.preupload),
    (rf"/{NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"/lfs/([0-9a-f]{64})", Handler.lfs_object),
    (r"/lfs/verify", Handler.lfs_verify),
    (rf"/api/models/{NAME}/xet-(?:read|write)-token/.+", Handler.xet_token),
    (rf"/api/(?:models|datasets)/{NAME}/branch/(.+)", Handler.branch),
    (rf"/api/(?:models|datasets)/{NAME}/commit/(.+)", Handler.commit),
    (rf"(?:/datasets)?/{NAME}/resolve/([^/]+)/(.+)", Handler.file),
)


def of_card(readme: bytes | Pointer | None) -> dict[str, str]:
    """Return what the Hub takes from the metadata of a card."""
    known = ModelCard(readme.decode()).data.to_dict() if isinstance(readme, bytes) else {}
    return {key: known[key] for key in ("library_name", "pipeline_tag") if key in known}


def blob(content: bytes) -> str:
    """Return the name that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes | Pointer) -> dict:
    """Return what the tree says of a file."""
    if isinstance(content, Pointer):
        lfs = {"oid": content.sha256, "size": content.size, "pointerSize": 130}
        return {"type": "file", "path": path, "size": content.size, "oid": blob(b""), "lfs": lfs}
    return {"type": "file", "path": path, "size": len(content), "oid": blob(content)}


@contextmanager
def running() -> Iterator[tuple[Hub, str]]:
    """Serve an empty Hub; gives it and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    with serving(server):
        yield hub, f"http://127.0.0.1:{server.server_port}"
