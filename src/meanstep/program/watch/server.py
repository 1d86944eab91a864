"""One page on the loopback: the page itself and its version, nothing else of any folder. Knows no runs."""

import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from meanstep.program.errors import UserError

HOST = "127.0.0.1"
SCRIPT = """<script>
(() => {
  const key = "watch", held = JSON.parse(sessionStorage.getItem(key) || "null");
  if (held) {
    sessionStorage.removeItem(key);
    for (const id of held.open) { const x = document.getElementById(id); if (x) x.open = true; }
    document.documentElement.style.scrollBehavior = "auto";
    requestAnimationFrame(() => { scrollTo(0, held.y); document.documentElement.style.scrollBehavior = ""; });
  }
  setInterval(async () => {
    try {
      const now = await (await fetch("/version")).text();
      if (now === "VERSION") return;
      const open = [...document.querySelectorAll("details[id]")].filter((x) => x.open).map((x) => x.id);
      sessionStorage.setItem(key, JSON.stringify({ y: scrollY, open }));
      location.reload();
    } catch { /* the command has ended: the page stays as it is */ }
  }, EVERY);
})();
</script>
"""
Page = Callable[[], tuple[str, str]]
"""The page's version and text, at this moment."""


def serving(page: Page, port: int, every: float) -> ThreadingHTTPServer:
    """A server of the page at /, which looks for a newer one every so many seconds; `port` 0: a free one. `UserError` for one in use."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            version, text = page()
            names = {f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"}  # type: ignore[attr-defined]
            if self.headers.get("Host") not in names:  # a page elsewhere that made its name point here
                self._give(403, "text/plain", "not here")
            elif self.path == "/":
                self._give(200, "text/html", scripted(text, version, every))
            elif self.path == "/version":
                self._give(200, "text/plain", version)
            elif self.path == "/favicon.ico":  # which browsers ask for: none, and no error in their console
                self._give(204, "image/x-icon", "")
            else:
                self._give(404, "text/plain", "there is one page, /")

        def _give(self, status: int, kind: str, text: str) -> None:
            body = text.encode(errors="backslashreplace")
            self.send_response(status)
            for name, value in (("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal is the command's."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror or error}; leave it out for a free one, or give another") from None
    server.daemon_threads = True
    return server


def scripted(text: str, version: str, every: float) -> str:
    """The page with what reloads it, where its body ends."""
    script = SCRIPT.replace("VERSION", version).replace("EVERY", str(round(1000 * every)))
    head, end, tail = text.rpartition("</body>")
    return f"{head}{script}{end}{tail}" if end else text + script


def fresh() -> str:
    """A version that no other page has."""
    return secrets.token_hex(8)
