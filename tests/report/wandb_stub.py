"""A W&B server on loopback that keeps what it is sent, and can be told to go silent or to stop."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 40


class StubServer(ThreadingHTTPServer):
    """Answers what wandb asks during a run.

    Attributes:
        runs: Variables of the last ``UpsertBucket`` of each run, merged.
        lines: What each run streamed, by file: ``wandb-history.jsonl``, ``wandb-summary.json``.
        exit_codes: By run.
        artifacts: Variables of ``CreateArtifact`` in order.
        used: Identifiers of the artifacts that a run consumes.
        uploads: Files by name, as they arrived.
        views: Workspaces that were saved.
        operations: Names of all operations, in order.
        silent: While set, requests are taken and never answered.
        silent_from: Name of the operation with which the silence starts.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, dict[str, list[str]]] = {}
        self.exit_codes: dict[str, int] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.used: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.silent_from: str | None = None
        self.views: list[dict[str, Any]] = []
        self.silent = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""

    def stop(self) -> None:
        """Close the port, as a server does that dies."""
        self.shutdown()
        self.server_close()

    def history(self, run: str) -> list[dict[str, Any]]:
        """Return the rows of a run's history."""
        return [json.loads(line) for line in self.lines[run].get("wandb-history.jsonl", [])]

    def summary(self, run: str) -> dict[str, Any]:
        """Return a run's last summary."""
        summary: dict[str, Any] = json.loads(self.lines[run]["wandb-summary.json"][-1])
        return summary

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the data of a GraphQL reply."""
        self.operations.append(operation)
        if operation == self.silent_from:
            self.silent.set()
        reply = getattr(self, f"_{operation.lower()}", None)
        return reply(given) if reply else {}

    def _viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        me = {"id": "me", "entity": "team", "username": "me", "name": "Me", "flags": "{}", "admin": False}
        return {"viewer": me | {"teams": {"edges": [{"node": {"name": "team"}}]}}, "serverInfo": {}}

    def _runresumestatus(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["name"] not in self.runs:
            return {"model": {"id": "p", "name": "project", "entity": {"id": "e", "name": "team"}, "bucket": None}}
        lines = self.lines.get(given["name"], {})
        history, summary = lines.get("wandb-history.jsonl", []), lines.get("wandb-summary.json", ["{}"])
        bucket = {"id": given["name"], "name": given["name"], "displayName": self.runs[given["name"]]["displayName"]}
        bucket |= {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0, "tags": [], "notes": None}
        bucket |= {"historyTail": json.dumps(history[-1:]), "eventsTail": "[]", "summaryMetrics": summary[-1]}
        bucket |= {"config": self.runs[given["name"]].get("config", "{}"), "wandbConfig": '{"t": 1}'}
        return {"model": {"id": "p", "name": "project", "entity": {"id": "e", "name": "team"}, "bucket": bucket}}

    def _upsertbucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"]
        self.runs.setdefault(name, {}).update({key: value for key, value in given.items() if value is not None})
        project = {"id": "p", "name": given["project"] or "project", "entity": {"id": "e", "name": "team"}}
        bucket = {"id": name, "name": name, "displayName": given["displayName"], "config": "{}", "project": project}
        return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}

    def _createrunfiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": self._place(name)} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _artifacttype(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _createartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(given)
        state = {"state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": {"id": f"artifact-{len(self.artifacts) - 1}"} | state}}

    def _artifactbyid(self, given: dict[str, Any]) -> dict[str, Any]:
        made = self.artifacts[int(given["id"].removeprefix("artifact-"))]
        project = {"id": "p", "internalId": "1", "name": made["projectName"], "entity": {"name": "team"}}
        names = ("description", "commitHash", "historyStep", "updatedAt")
        reply: dict[str, Any] = {"__typename": "Artifact", "id": given["id"]} | dict.fromkeys(names)
        reply |= {"artifactSequence": {"__typename": "ArtifactSequence", "name": made["artifactCollectionName"]}}
        reply["artifactSequence"]["project"] = project
        reply |= {"artifactType": {"name": made["artifactTypeName"]}, "metadata": made["metadata"], "tags": []}
        reply |= {
            "versionIndex": 0,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "state": "COMMITTED",
            "size": 1,
            "fileCount": 1,
        }
        reply |= {"digest": made["digest"], "digestAlgorithm": "MANIFEST_MD5", "createdAt": "2026-01-01", "aliases": []}
        return {"artifact": reply}

    def _createartifactmanifest(self, given: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "name": "m", "displayName": "m", "uploadHeaders": []}
        file["uploadUrl"] = self._place(f"{given['artifactID']}/manifest")
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _createartifactfiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in given["artifactFiles"]:
            file = {"id": "f", "name": spec["name"], "displayName": spec["name"], "uploadHeaders": []}
            place = {"uploadUrl": self._place(f"{spec['artifactID']}/{spec['name']}"), "storagePath": spec["name"]}
            edges.append({"node": file | place | {"artifact": {"id": spec["artifactID"]}, "uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commitartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def _useartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.used.append(given["artifactID"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def _upsertview2(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(given)
        return {"upsertView": {"view": {"id": "view", "name": given.get("name") or "view"}, "inserted": True}}

    def _place(self, name: str) -> str:
        return f"{self.url}/uploads/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self.server.uploads[self.path.removeprefix("/uploads/")] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            request = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = request.get("operationName") or (named.group(1) if named else "")
            self._reply({"data": self.server.answer(operation, _variables(request))})
            return
        if self.path.endswith("/file_stream"):
            self._stream(self.path.split("/")[-2], json.loads(body))
        self._reply({})

    def _stream(self, run: str, sent: dict[str, Any]) -> None:
        files = self.server.lines.setdefault(run, {})
        for name, part in (sent.get("files") or {}).items():
            files.setdefault(name, []).extend(part["content"])
        if sent.get("complete"):
            self.server.exit_codes[run] = sent.get("exitcode", 0)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, data: dict[str, Any]) -> None:
        while self.server.silent.is_set():
            threading.Event().wait(0.05)
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _variables(request: dict[str, Any]) -> dict[str, Any]:
    variables: dict[str, Any] = request.get("variables") or {}
    return variables.get("input", variables)
