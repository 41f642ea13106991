"""`launch_vllm.sh` among programs that pretend: vllm, ray, srun and the rest, in a folder that is first on PATH.

Each writes what it was called with to `calls.log`. The fake vLLM answers /health from when the file `healthy` is there.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from endpoints.reading import HERE

SCRIPT = HERE / "launch_vllm.sh"
PATIENCE = 60.0
"""Seconds, for scripts that start dozens of processes one after the other."""
_VLLM = """#!{python}
import http.server, os, pathlib, signal, subprocess, sys
here = pathlib.Path(__file__).resolve().parent.parent
with (here / "calls.log").open("a") as log:
    log.write(" ".join(["vllm", *sys.argv[1:]]) + "\\n")
(here / "environment.log").write_text("\\n".join(f"{{k}}={{v}}" for k, v in os.environ.items()))
if (here / "broken").exists():
    sys.exit(7)
# An engine of its own, as vLLM has, which outlives it unless somebody sees to it.
engine = subprocess.Popen(["sleep", "1000"])
(here / "pids").open("a").write(f"{{os.getpid()}} {{engine.pid}}\\n")
if (here / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if (here / "healthy").exists() else 503)
        self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""
_RAY = """#!/bin/bash
here=$(dirname "$(dirname "$(readlink -f "$0")")")
echo "ray $* on ${FAKE_NODE:-head}" >>"$here/calls.log"
case $1 in
  start)
    [ -e "$here/ray-broken-on-${FAKE_NODE:-head}" ] && exit 5
    echo "${FAKE_NODE:-head}" >>"$here/joined"
    echo $$ >>"$here/pids"
    exec sleep 1000 ;;
  status)
    echo "Active:"
    sed 's/^/ 1 node_/' "$here/joined"
    echo "Pending:"
    echo " (no pending nodes)" ;;
esac
"""
# srun, mpiexec and ssh: on the node named, which is this machine.
_REACH = """#!/bin/bash
here=$(dirname "$(dirname "$(readlink -f "$0")")")
case " $* " in *" --version "*) [ -e "$here/openmpi" ] && echo "mpiexec (OpenRTE) 4.1"; exit ;; esac
echo "$(basename "$0") $*" >>"$here/calls.log"
while [ $# -gt 0 ]; do
  case $1 in
    --nodelist=*) node=${1#*=} ;;
    --host | --hosts) node=$2; shift ;;
    -n | -o) shift ;;
    -*) ;;
    *) break ;;
  esac
  shift
done
[ "$(basename "$0")" = ssh ] && { node=$1; shift; FAKE_NODE=$node exec bash -c "$*"; }
FAKE_NODE=$node exec "$@"
"""
_SCONTROL = '#!/bin/bash\necho "$3" | tr , "\\n"\n'
_HOSTNAME = "#!/bin/bash\ncase ${1:-} in -I) echo 10.1.2.3 ;; *) echo head ;; esac\n"


class Launched:
    """One run of the script, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        reach = dict.fromkeys(("srun", "mpiexec", "ssh"), _REACH)
        programs = {"vllm": _VLLM.format(python=sys.executable), "ray": _RAY, "scontrol": _SCONTROL, **reach}
        for name, text in {**programs, "hostname": _HOSTNAME}.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str, environ: dict[str, str] | None = None) -> None:
        """Starts the script as a worker does: in a session of its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PBS_", "WEFT_"))}
        environment = {**inherited, "PATH": f"{self.bin}:{os.environ['PATH']}", **(environ or {})}
        with (self.folder / "script.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", str(SCRIPT), *words], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def run(self, *words: str, environ: dict[str, str] | None = None) -> int:
        """Starts it, and gives its exit status."""
        self.start(*words, environ=environ)
        return self.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the script still runs\n{self.said}") from None

    def terminate(self) -> int:
        """SIGTERM to the script alone; its exit status."""
        self.process.terminate()
        return self.wait()

    def mark(self, name: str) -> None:
        """Leaves a file that the fakes look for."""
        (self.folder / name).touch()

    @property
    def said(self) -> str:
        return self._read("script.log")

    @property
    def calls(self) -> list[str]:
        return self._read("calls.log").splitlines()

    @property
    def environment(self) -> dict[str, str]:
        """What vLLM found in its environment."""
        return dict(line.split("=", 1) for line in self._read("environment.log").splitlines() if "=" in line)

    @property
    def alive(self) -> list[int]:
        """The fakes' processes that still run."""
        return [pid for pid in map(int, self._read("pids").split()) if running(pid)]

    def until(self, text: str) -> None:
        """Waits until the script has said this."""
        for _ in deadline(f"the script says {text!r}"):
            if text in self.said:
                return
            if self.process.poll() is not None:
                raise AssertionError(f"the script ended with {self.process.returncode}\n{self.said}")

    def close(self) -> None:
        """Ends what a failed test left."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def deadline(awaited: str) -> Iterator[None]:
    """Polls until something is so; fails when it never is."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
    raise AssertionError(f"never: {awaited}")
