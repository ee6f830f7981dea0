"""No secret is in any output (PR4): the whole party on one machine at debug level, a secret in every place that can
hold one, everything broken once, and everything read that an operator could read.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account

from kmsd.operations.kinds import Kind
from kmsd.sandbox.progress import Progress
from kmsd.sandbox.world import DATABASE, PARTY, World

SECRETS = {
    "key in the query of the Gateway's URL": "gateway-query-key-4f21",
    "key in the path of the Gateway's backup": "gateway-path-key-77aa01",
    "key in the path of the WebSocket's URL": "websocket-path-key-31bd",
    "password in the URL of the host chain": "host-chain-password-90cc",
    "key in the path of the host chain's backup": "host-path-key-5512ef",
    "secret of the S3 account": "s3SecretAccessKey+/0123456789abcdefABCDEF",
    "session token of the S3 account": "s3-session-token-aabbccddeeff",
    "password of the keystore": "keystore pass phrase 123",
}
PAGES = ("/", "/overview", "/status", "/healthz", "/metrics", "/version", "/liveness", "/nothing")


class Party:
    """A world whose configuration is full of secrets, and everything that was printed or served in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.outputs: dict[str, str] = {}
        self.key = world.deployment.parties[PARTY - 1].tx.key.hex()
        password = re.search(r"://[^:]+:([^@]+)@", world.database_url)
        assert password is not None
        self.password = password[1]
        self.observer = world.observer()
        self.requester = world.requester()
        self.progress = Progress(self.observer, world.postgres, DATABASE)
        self._plain = world.config_file.read_text()
        self._starts = 0
        self._environment: dict[str, str] = {}

    def configure(self, wallet: str, environment: dict[str, str]) -> None:
        """Secrets in every URL; the wallet as a line of the file, or by `environment`."""
        world, secrets = self.world, list(SECRETS.values())
        host, port = "127.0.0.1", world.gateway.port
        text = re.sub(r"^private_key_file = .*\n", wallet, self._plain, flags=re.MULTILINE)
        text = text.replace(f'"{world.gateway.url}"', f'"http://{host}:{port}/?apikey={secrets[0]}"')
        text = text.replace(
            f'"{world.gateway.ws_url}"',
            f'"ws://{host}:{port}/{secrets[2]}"\nbackup_urls = ["http://{host}:{port}/v3/{secrets[1]}"]',
        )
        text = text.replace(
            f'"{world.host.url}"',
            f'"http://user:{secrets[3]}@{host}:{world.host.port}"\n'
            f'backup_urls = ["http://{host}:{world.host.port}/{secrets[4]}"]',
        )
        extra = 'log_level = "debug"\nhealthcheck_interval = "500ms"\ngauge_update_interval = "500ms"\n'
        extra += f's3_fallback_urls = ["s3://private-bucket/prefix"]\ns3_endpoint = "http://{host}:9"\n'
        world.config_file.write_text(extra + text)
        s3 = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": secrets[5], "AWS_SESSION_TOKEN": secrets[6]}
        self._environment = s3 | {"AWS_DEFAULT_REGION": "eu-west-1"} | environment

    def start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start kmsd with the configuration of now."""
        for name, value in self._environment.items():
            monkeypatch.setenv(name, value)
        self.world.start_daemon()
        self._starts += 1

    def until_settled(self, kind: Kind, wanted: int) -> None:
        """Wait until so many requests of a kind were accepted."""
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            while self.observer.look():
                pass
            self.progress.refresh()
            if self.progress.counts[kind].accepted >= wanted:
                return
            assert self.world.daemon.alive(), self.world.daemon.log_tail()
            time.sleep(0.1)
        raise AssertionError(f"{self.progress.missing()} {self.progress.last_errors()}")

    def read_pages(self, when: str) -> None:
        """Everything that is served."""
        for path in PAGES:
            url = f"http://127.0.0.1:{self.world.monitoring_port}{path}"
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    body = answer.read()
            except urllib.error.HTTPError as refused:
                body = refused.read()
            self.outputs[f"{path} {when}"] = body.decode()

    def command(self, *arguments: str) -> None:
        """What a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "kmsd", "-c", str(self.world.config_file), *arguments],
            env=os.environ | self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr, done.stderr
        self.outputs["kmsd " + " ".join(arguments)] = done.stdout + done.stderr

    def stop(self) -> None:
        """Stop kmsd and keep what it wrote."""
        self.world.stop_daemon()
        daemon = self.world.daemon
        for path in (daemon.stdout_path, daemon.stderr_path):
            self.outputs[f"{path.name} of start {self._starts}"] = path.read_text(errors="replace")

    def words_of_the_database(self) -> str:
        """Every text that kmsd wrote into its tables."""
        tables = self.world.postgres.execute(
            "SELECT string_agg(format('(SELECT string_agg(t::text, chr(10)) FROM %I t)', relname), ' || chr(10) || ') "
            "FROM pg_class WHERE relkind = 'r' AND relname IN ('public_decryption_requests', 'keygen_requests', "
            "'kmsd_quarantine', 'kmsd_operator_actions', 'kmsd_keys', 'kmsd_owners')",
            DATABASE,
        )
        parts = re.findall(r"\(SELECT .*? t\)", tables)
        return "\n".join(self.world.postgres.execute("SELECT " + part, DATABASE) for part in parts)


@pytest.fixture
def party() -> Iterator[Party]:
    with World() as world:
        yield Party(world)


@pytest.mark.guarantee("PR4")
def test_no_secret_is_in_any_output(party: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = party.world
    password_file, keystore = tmp_path / "password", tmp_path / "keystore.json"
    for path in (password_file, keystore):
        path.touch(mode=0o600)
    password_file.write_text(SECRETS["password of the keystore"] + "\n")
    keystore.write_text(json.dumps(Account.encrypt(party.key, password_file.read_text().strip(), "pbkdf2", 1)))

    # By variable: a key, decryptions, and everything that an operator reads.
    party.configure("", {"KMS_CONNECTOR_PRIVATE_KEY": "0x" + party.key})
    party.start(monkeypatch)
    party.requester.prss_init()
    party.requester.keygen()
    party.until_settled(Kind.KEYGEN, 1)
    key_id = party.observer.active_keys[0]
    party.requester.send(party.requester.calls(party.requester.prepare(3, 3, key_id), burst=True))
    party.until_settled(Kind.PUBLIC_DECRYPTION, 3)
    party.read_pages("well")
    for arguments in (("check",), ("status", "--json"), ("doctor", "--json"), ("show", "pub:1", "--all")):
        party.command(*arguments)

    # Everything breaks: what is said then?
    world.core.kill()
    world.buckets.stop()
    world.postgres.pause()
    for chain in (world.gateway, world.host):
        chain.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        party.read_pages("broken")
        known = json.loads(party.outputs["/healthz broken"])["dependencies"]
        if sum(one["up"] is False for one in known.values()) >= 4:
            break
        time.sleep(0.2)
    else:
        raise AssertionError(known)
    party.command("doctor")
    world.postgres.resume()
    party.stop()

    # By file and by keystore; a database that refuses the password.
    party.configure(f'private_key_file = "{world.folder / "tx.key"}"\n', {})
    monkeypatch.delenv("KMS_CONNECTOR_PRIVATE_KEY")
    party.start(monkeypatch)
    wrong = "wrong-database-password-88"
    until_it_answers(party)
    party.stop()
    party.configure(f'keystore_file = "{keystore}"\nkeystore_password_file = "{password_file}"\n', {})
    text = world.config_file.read_text()
    world.config_file.write_text(text.replace(f":{party.password}@", f":{wrong}@"))
    party.start(monkeypatch)
    until_it_answers(party)
    party.read_pages("by keystore")
    party.stop()
    party.outputs["tables"] = party.words_of_the_database()

    secrets = SECRETS | {"transaction key": party.key, "database password": party.password, "wrong password": wrong}
    assert '"level": "debug"' in party.outputs["kmsd.err of start 1"], list(party.outputs)
    found = [
        f"{what} in {where}: …{output[max(0, output.lower().find(secret.lower()) - 200) :][:300]}…"
        for where, output in party.outputs.items()
        for what, secret in secrets.items()
        if secret.lower() in output.lower()
    ]
    assert not found, "\n".join(found)
    assert sum(map(len, party.outputs.values())) > 100_000, {name: len(text) for name, text in party.outputs.items()}


def until_it_answers(party: Party) -> None:
    """Wait until kmsd serves its endpoint."""
    deadline = time.monotonic() + 60
    while True:
        try:
            party.read_pages("started")
            return
        except OSError:
            assert party.world.daemon.alive(), party.world.daemon.log_tail()
            assert time.monotonic() < deadline
            time.sleep(0.1)
