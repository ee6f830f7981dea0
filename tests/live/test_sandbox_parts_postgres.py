"""The embedded Postgres: faults and what survives them, cold start, two bootstraps at once."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from kmsd.sandbox.postgres import Postgres


def test_a_database_of_its_own(postgres_server: Postgres, empty_database_url: str) -> None:
    """Version 18, reachable by TCP with a password only, and run by an unprivileged user."""
    name = empty_database_url.rsplit("/", 1)[1]
    assert int(postgres_server.execute("SHOW server_version_num", name)) >= 180000
    assert postgres_server.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == "0"
    assert postgres_server.execute("SHOW unix_socket_directories") == ""
    assert postgres_server.execute("SHOW listen_addresses") == "127.0.0.1"
    wrong = Postgres()
    wrong._bin, wrong._port, wrong._password = postgres_server._bin, postgres_server.port, "wrong"
    with pytest.raises(RuntimeError, match="password authentication failed"):
        wrong.execute("SELECT 1")
    if os.getuid() == 0:
        assert os.stat(f"/proc/{postgres_server.pid}").st_uid != 0


def test_databases_from_a_template(postgres_server: Postgres, empty_database_url: str) -> None:
    """A copy has what the template has; names that would need quotes are refused."""
    template = empty_database_url.rsplit("/", 1)[1]
    postgres_server.execute("CREATE TABLE t (i int); INSERT INTO t VALUES (7)", template)
    postgres_server.create_database("copy_of_it", template)
    assert postgres_server.execute("SELECT i FROM t", "copy_of_it") == "7"
    postgres_server.drop_database("copy_of_it")
    with pytest.raises(ValueError, match="not a plain database name"):
        postgres_server.create_database("a b")


def test_what_is_committed_survives_a_kill(new_postgres: Callable[[], Postgres]) -> None:
    """SIGKILL of every process, and a start on the same port right after."""
    server = new_postgres()
    url = server.create_database("kept")
    server.execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)", "kept")
    server.kill()
    with pytest.raises(RuntimeError, match="psql"):
        server.execute("SELECT 1", "kept")
    server.start()
    assert server.url("kept") == url
    assert server.execute("SELECT i FROM t", "kept") == "1"
    server.restart(immediate=True)
    server.restart()
    assert server.execute("SELECT i FROM t", "kept") == "1"


async def test_a_paused_server_keeps_connections_and_answers_nothing(new_postgres: Callable[[], Postgres]) -> None:
    """What a hanging database looks like from outside; after `resume` the same question is answered."""
    server = new_postgres()
    server.pause()
    answers: list[str] = []
    answered = trio.Event()

    async def ask() -> None:
        answers.append(await trio.to_thread.run_sync(server.execute, "SELECT 1"))
        answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with trio.move_on_after(0.3) as waiting:
            await answered.wait()
        assert waiting.cancelled_caught
        server.resume()
    assert answers == ["1"]


def test_it_dies_with_its_parent() -> None:
    """A test run that is killed leaves no server behind."""
    script = (
        "import time\nfrom kmsd.sandbox.postgres import Postgres\n"
        "p = Postgres(); p.start(); print(p.pid, p._folder, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    words = parent.stdout.readline().split()
    pid, folder = int(words[0]), Path(words[1])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)
    shutil.rmtree(folder)


def test_two_bootstraps_at_once() -> None:
    """An empty cache folder, no HOME, two processes that start together: one initialises, both serve."""
    script = "from kmsd.sandbox.postgres import Postgres\nwith Postgres() as p: print(p.execute('SELECT 40 + 2'))"
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    with tempfile.TemporaryDirectory(prefix="kmsd-test-") as cache:
        Path(cache).chmod(0o755)
        env["KMSD_CACHE"] = cache
        argv = [sys.executable, "-c", script]
        runs = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [run.communicate(timeout=60)[0].strip() for run in runs] == ["42", "42"]


def _runs(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
