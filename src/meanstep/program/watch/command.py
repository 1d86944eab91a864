"""`meanstep watch`: the page of a run, built again while records come in, on the loopback."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from meanstep.program.console import UserError, put_json, say, stage, takes_json
from meanstep.program.errors import first_line
from meanstep.program.flags import Json, hinted
from meanstep.program.pages.page import require
from meanstep.program.ranges import Ranged
from meanstep.program.watch.server import HOST, fresh, serving


@dataclass(frozen=True)
class Watch(Ranged):
    """Show the page of a run in a browser while the run goes on: it is built again when there are new records, and reloads itself.

    It is served on this machine's loopback only, and nothing else of the folder is. In the run's folder only report.html is written, as
    `meanstep report` does. Ctrl-C ends it; the run goes on.

    Examples: meanstep watch runs/digits; meanstep watch runs/digits --port 8000 --every 10
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder."""
    port: Annotated[int | None, hinted("Where the page is: the port on 127.0.0.1.", "a free one", "N from 1 to 65535")] = None
    every: Annotated[float, tyro.conf.arg(metavar="SECONDS from 0.1 to 3600")] = 2.0
    """Seconds between two looks at the records."""
    once: bool = False
    """Build the page once and end: nothing is served."""
    json: Json = None

    def run(self) -> int:
        """0 when it is ended by Ctrl-C, or with --once when the page is written. `UserError` for a folder that holds no run."""
        require()
        takes_json(self.json)
        folder = self.folder.expanduser()
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{self.folder} holds no run: give the folder of a run of `meanstep train`")
        live = Live(folder)
        server = None if self.once else serving(live.page, self.port or 0, self.every)
        with stage("writing the report"), contextlib.ExitStack() as ends:
            if server:
                ends.callback(server.server_close)
            live.build()
            ends.pop_all()
        if server is None:
            if not put_json(self.json, {"command": "watch", "report": str(folder / "report.html")}):
                say(f"report: {folder / 'report.html'}")
            return 0
        address = f"http://{HOST}:{server.server_port}/"
        put_json(self.json, {"command": "watch", "address": address})
        say(f"{address} shows {self.folder}; Ctrl-C ends it")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            live.follow(self.every, say)
        except KeyboardInterrupt:
            say("ended: the run itself goes on")
        finally:
            server.shutdown()
            server.server_close()
        return 0


@dataclass
class Live:
    """The newest page of a run, which whoever serves it may ask for at any moment."""

    folder: Path
    version: str = field(default_factory=fresh)
    text: str = ""
    state: tuple[int, ...] = ()

    def page(self) -> tuple[str, str]:
        """Its version and text."""
        return self.version, self.text

    def stamp(self) -> tuple[int, ...]:
        """What changes when a record is written."""
        found: list[int] = []
        for name in ("records.jsonl", "evaluations.jsonl"):
            with contextlib.suppress(OSError):
                about = (self.folder / name).stat()
                found += [about.st_mtime_ns, about.st_size, about.st_ino]
        return tuple(found)

    def build(self) -> None:
        """Write the page anew. `UserError` for a folder that holds no run, or a damaged file."""
        from meanstep.program.runs.report.page import build

        state = self.stamp()  # before it is read: what comes meanwhile is another change
        self.text = build(self.folder).read_text(encoding="utf-8")
        self.version, self.state = fresh(), state

    def follow(self, every: float, told: Callable[[str], None], wait: Callable[[float], None] = time.sleep) -> None:
        """Build it again whenever there are new records, until Ctrl-C; what goes wrong is told once, and tried again."""
        said = ""
        while True:
            wait(every)
            if self.stamp() == self.state:
                continue
            try:
                self.build()
                said = ""
            except (UserError, OSError) as error:
                if said != (said := first_line(error)):
                    told(f"the page stays as it was: {said}")
