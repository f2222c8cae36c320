"""A chat model on loopback that speaks chat completions, and misbehaves as it is told."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import serving

KEY = "sk-secret-of-the-tests-0123456789"


def record(number: int, name: str) -> dict[str, Any]:
    """What this model knows of a class."""
    return {
        "number": number,
        "name": name,
        "synonyms": [f"{name} synonym", f"other {name}"],
        "descriptors": [f"seen on {name}"],
    }


def completion(content: str | None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {
        "id": "1",
        "created": 0,
        "model": "m",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, **more}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def answer(classes: list[dict[str, Any]]) -> dict[str, Any]:
    return completion(json.dumps({"classes": [record(each["number"], each["name"]) for each in classes]}))


class Handler(BaseHTTPRequestHandler):
    """One connection; `server.behave` answers, or returns True to answer as a good model does."""

    protocol_version = "HTTP/1.1"
    server: "ChatServer"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        asked, _ = json.JSONDecoder().raw_decode(text)
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.asked.update(each["number"] for each in asked["classes"])
            self.server.batches.append([each["number"] for each in asked["classes"]])
        time.sleep(self.server.delay)
        try:
            if self.server.behave(self, asked["classes"], body):
                self.reply(200, answer(asked["classes"]))
        except OSError:
            self.close_connection = True

    def reply(self, status: int, content: Any, **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def say(self, content: str | None, **choice: Any) -> None:
        self.reply(200, completion(content, **choice))


class ChatServer(ThreadingHTTPServer):
    """What was asked of it, and how it behaves."""

    daemon_threads = True
    behave: Callable[[Handler, list[dict[str, Any]], dict[str, Any]], bool]

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.asked: Counter[int] = Counter()
        self.batches: list[list[int]] = []
        self.delay = 0.0
        self.behave = lambda handler, classes, body: True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


def chat_server() -> AbstractContextManager[ChatServer]:
    return serving(ChatServer())
