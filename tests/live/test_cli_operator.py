"""Operator commands as processes on a real database: what they show, what they change, what they refuse."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from chain_pair import Chains
from store_world import answer, arrival, block, hear, lease_of, leased, log_of, request_id

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import Failed, QuarantinedLog, RangeRecord
from kmsd.sandbox.postgres import Postgres
from kmsd.store.postgres import PostgresStore
from kmsd.wire.ids import to_db

PUBLIC = Kind.PUBLIC_DECRYPTION


class Run:
    """One finished command."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)


Kmsd = Callable[..., Awaitable[Run]]


@pytest.fixture
def kmsd(database_url: str) -> Kmsd:
    """Runs `kmsd` on the test's database; the database's password is in no output."""
    password = database_url.partition("://")[2].rpartition("@")[0].partition(":")[2]

    async def run(*arguments: str, **variables: str) -> Run:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KMS_", "PG", "KMSD"))}
        environment |= {"KMS_CONNECTOR_DATABASE_URL": database_url, "KMS_CONNECTOR_MONITORING_ENDPOINT": "127.0.0.1:1"}
        done = await trio.run_process(
            [sys.executable, "-m", "kmsd", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment | variables,
        )
        result = Run(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not password or password not in result.out + result.err
        assert "Traceback" not in result.err, result.err
        return result

    return run


async def failed_request(store: PostgresStore, owner: int, counter: int, words: str) -> None:
    """A public decryption that failed with words."""
    (claimed,) = await leased(store, owner, arrival(PUBLIC, counter))
    await store.failed([Failed(lease_of(claimed), words)])


@pytest.mark.guarantee("QU8")
async def test_a_failed_request_is_listed_shown_and_retried_with_one_command(
    kmsd: Kmsd, store: PostgresStore, owner: int
) -> None:
    await failed_request(store, owner, 12, "access denied to 0xabc")
    listed = await kmsd("list")
    assert listed.status == 0
    assert "pub:12" in listed.out
    assert "access denied to 0xabc" in listed.out
    (row,) = (await kmsd("list", "--json")).json["rows"]
    assert (row["kind"], row["status"], row["id"]) == (PUBLIC.value, "failed", f"{request_id(PUBLIC, 12):064x}")

    for text in ("pub:12", hex(request_id(PUBLIC, 12)), str(request_id(PUBLIC, 12)), f"{request_id(PUBLIC, 12):064x}"):
        shown = await kmsd("show", text)
        assert shown.status == 1  # it failed
        assert "request: failed, access denied to 0xabc" in shown.out
        assert "block_number   112" in shown.out
    (story,) = (await kmsd("show", "pub:12", "--json")).json["stories"]
    assert story["request"]["last_error"] == "access denied to 0xabc"

    refused = await kmsd("retry", "pub:12")
    assert refused.status == 1
    assert "say --yes" in refused.err
    assert (await kmsd("list", "--json")).json["rows"]
    retried = await kmsd("retry", "pub:12", "--yes")
    assert (retried.status, retried.out) == (0, "pub:12: request back in the queue\n")
    assert (await kmsd("list", "--json")).json["rows"] == []
    (story,) = (await kmsd("show", "pub:12", "--json")).json["stories"]
    assert story["request"]["status"] == "pending"
    assert story["actions"][0]["action"] == "retry"
    assert "@" in story["actions"][0]["done_by"]


async def test_retrying_what_cannot_be_retried(kmsd: Kmsd, store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.answered([answer(lease_of(claimed))])
    done = await kmsd("retry", "pub:1", "--yes", "--json")
    assert done.status == 0  # the response is pending: due at once
    assert done.json["results"][0]["words"] == "response back in the queue"
    unknown = await kmsd("retry", "pub:1", "pub:99", "--yes")
    assert unknown.status == 1
    assert "no request pub:99 is known here" in unknown.err
    assert (await kmsd("retry", "nonsense", "--yes")).status == 2
    assert (await kmsd("retry", "--yes")).status == 2
    assert (await kmsd("retry", "pub:1", "--unconfirmed", "--yes")).status == 1


async def test_all_failed_of_a_kind(kmsd: Kmsd, store: PostgresStore, owner: int) -> None:
    for counter in (1, 2, 3):
        await failed_request(store, owner, counter, "x")
    assert (await kmsd("retry", "--all-failed", "--kind", "user", "--yes", "--json")).json["rows"] == 0
    assert (await kmsd("retry", "--all-failed", "--kind", "pub", "--yes")).out == "3 rows back in the queue\n"


async def test_giving_up(kmsd: Kmsd, store: PostgresStore) -> None:
    await hear(store, arrival(Kind.KEYGEN, 1))
    assert (await kmsd("fail", "key:1", "--yes")).status == 2  # without a reason
    done = await kmsd("fail", "key:1", "--reason", "the ceremony was called off", "--yes")
    assert done.status == 0, done.err
    shown = await kmsd("show", "key:1")
    assert "the ceremony was called off" in shown.out
    assert (await kmsd("fail", "key:1", "--reason", "again", "--yes")).status == 1


async def test_a_ceremony_of_one_node_goes_by_the_operators_word(kmsd: Kmsd, store: PostgresStore) -> None:
    await hear(store, arrival(Kind.CRSGEN, 1), needs_confirmation=True)
    assert (await kmsd("status", "--json")).json["database"]["unconfirmed"] == 1
    done = await kmsd("retry", "crs:1", "--unconfirmed", "--yes")
    assert (done.status, done.out) == (0, "crs:1: it goes on the word of one node\n")
    assert (await kmsd("status", "--json")).json["database"]["unconfirmed"] == 0


async def test_prss_is_named_by_its_number(kmsd: Kmsd, store: PostgresStore) -> None:
    await hear(store, arrival(Kind.PRSS_INIT, 1))
    shown = await kmsd("show", "prss:1")
    assert shown.status == 0, shown.err
    assert shown.out.startswith("prss_init prss:1 ")
    assert "prss:1" in (await kmsd("list", "--state", "pending")).out


async def test_status_counts_without_a_daemon(kmsd: Kmsd, store: PostgresStore, owner: int) -> None:
    await failed_request(store, owner, 1, "x")
    await hear(store, arrival(PUBLIC, 2), arrival(PUBLIC, 3))
    done = await kmsd("status", "--json")
    assert done.status == 1  # nobody answers on the endpoint
    queues = {(one["kind"], one["queue"], one["state"]): one for one in done.json["database"]["queues"]}
    assert queues[PUBLIC.value, "request", "pending"]["rows"] == 2
    assert queues[PUBLIC.value, "request", "failed"]["rows"] == 1
    assert queues[PUBLIC.value, "request", "pending"]["oldest_age_seconds"] > 1e6
    assert "no kmsd answers" in done.json["daemon"]["error"]
    shown = await kmsd("status")
    assert "public_decryption" in shown.out
    assert "no kmsd answers" in shown.out


async def test_rewinding(kmsd: Kmsd, store: PostgresStore, chains: Chains, sql: Callable[[str], str]) -> None:
    chains.gateway.mine(60)
    head = chains.gateway.block_number()
    for stream in Stream:
        await store.record_range(RangeRecord("main", stream, None, block(head)))
    nodes = [{"name": "main", "url": chains.gateway.url}, {"name": "dead", "url": "http://127.0.0.1:1"}]
    variables = {
        "KMS_CONNECTOR_GATEWAY_NODES": json.dumps(nodes),
        "KMS_CONNECTOR_GATEWAY_CHAIN_ID": str(chains.deployment.gateway_chain_id),
    }
    target = head - 20
    done = await kmsd("rewind", "--to-block", str(target), "--yes", "--stream", "decryption", **variables)
    assert done.status == 1  # the dead node could not be asked
    assert "gateway node dead" in done.err
    cursor = await store.cursor("main", Stream.DECRYPTION)
    assert cursor is not None
    assert cursor.number == target - 1
    assert cursor.hash.hex() == chains.gateway.rpc.call("eth_getBlockByNumber", hex(target - 1), False)["hash"][2:]
    untouched = await store.cursor("main", Stream.KEY_MANAGEMENT)
    assert untouched == block(head)
    done = await kmsd("rewind", "--to-block", str(target + 5), "--node", "main", "--yes", "--json", **variables)
    assert done.status == 0, done.err
    assert done.json["moved"] == {"decryption": [], "key_management": ["main"]}
    assert (await kmsd("rewind", "--to-block", "1", "--node", "nobody", "--yes", **variables)).status == 2
    assert sql("SELECT count(*) FROM kmsd_operator_actions WHERE action = 'rewind'") == "2"


@pytest.mark.guarantee("EV6")
async def test_the_quarantine_is_shown_replayed_and_discarded(kmsd: Kmsd, store: PostgresStore) -> None:
    good, bad = arrival(PUBLIC, 1, log_index=0), arrival(PUBLIC, 2, log_index=1)
    entries = [
        QuarantinedLog("main", log_of(good), "an older kmsd could not read it"),
        QuarantinedLog("main", log_of(bad, b"\1"), "truncated"),
    ]
    await store.record_range(RangeRecord("main", Stream.DECRYPTION, None, block(200), quarantined=entries))
    shown = await kmsd("replay-quarantine", "--show")
    assert "an older kmsd could not read it" in shown.out
    assert len((await kmsd("replay-quarantine", "--show", "--json")).json["entries"]) == 2
    assert (await kmsd("replay-quarantine")).status == 1  # nobody was asked
    done = await kmsd("replay-quarantine", "--yes", "--json")
    assert done.status == 1
    first, second = done.json["results"]
    assert (first["done"], first["words"]) == (True, "stored")
    assert not second["done"]
    assert "still not decodable" in second["words"]
    assert "pub:1" in (await kmsd("list", "--state", "pending")).out
    number = str(second["number"])
    assert (await kmsd("replay-quarantine", "--discard", "sent by nobody", "--yes")).status == 2
    assert (await kmsd("replay-quarantine", number, "--discard", "sent by nobody", "--yes")).status == 0
    assert (await kmsd("replay-quarantine", "--show")).out == "nothing is in quarantine\n"
    assert (await kmsd("replay-quarantine", "9999", "--yes")).status == 1


async def test_keys_and_their_states(kmsd: Kmsd, store: PostgresStore) -> None:
    assert (await kmsd("keys")).out == "no keys and no CRSs are known yet\n"
    await hear(store, arrival(Kind.KEYGEN, 1))
    listed = await kmsd("keys")
    assert "key:1" in listed.out
    assert "pre-activation" in listed.out
    early = await kmsd("keys", "set", "key:1", "active", "--reason", "x", "--yes")
    assert (early.status, "activation follows the chain" in early.out) == (1, True)
    await store.key_activated(request_id(Kind.KEYGEN, 1), "test")
    assert (await kmsd("keys", "set", "key:1", "suspended", "--yes")).status == 2  # without a reason
    assert "say --yes" in (await kmsd("keys", "set", "key:1", "suspended", "--reason", "x")).err
    done = await kmsd("keys", "set", "key:1", "suspended", "--reason", "audit of the vault", "--yes")
    assert (done.status, done.out) == (0, "key:1: active → suspended\n")
    one = await kmsd("keys", "show", "key:1")
    assert "suspended (decryption only, for a while)" in one.out
    assert "audit of the vault" in one.out
    assert "preparation           prep:" in one.out
    jump = await kmsd("keys", "set", "key:1", "destroyed", "--reason", "x", "--yes", "--json")
    assert (jump.status, jump.json["ok"]) == (1, False)
    assert "leads to active, deactivated, compromised" in jump.json["words"]
    for state in ("deactivated", "destroyed"):
        assert (await kmsd("keys", "set", "key:1", state, "--reason", "x", "--yes")).status == 0
    await store.key_activated(request_id(Kind.KEYGEN, 1), "the chain says so again")
    assert (await kmsd("keys", "set", "key:1", "compromised", "--reason", "x", "--yes")).status == 1
    document = (await kmsd("keys", "show", "key:1", "--json")).json
    assert document["keys"][0]["state"] == "destroyed"
    assert [change["after"] for change in document["changes"]] == ["active", "suspended", "deactivated", "destroyed"]
    assert (await kmsd("keys", "set", "crs:7", "compromised", "--reason", "of another party", "--yes")).status == 0
    assert "crs:7      compromised" in (await kmsd("keys")).out
    assert (await kmsd("keys", "show", "key:9")).status == 1
    assert (await kmsd("keys", "show", "pub:1")).status == 2


@pytest.mark.guarantee("PR7")
async def test_migrating_from_the_command_line(kmsd: Kmsd, empty_database_url: str) -> None:
    variables = {"KMS_CONNECTOR_DATABASE_URL": empty_database_url}
    assert "run kmsd migrate" in (await kmsd("list", **variables)).err
    missing = await kmsd("migrate", "--check", **variables)
    assert missing.status == 1
    assert "0001" in missing.out
    done = await kmsd("migrate", "--json", **variables)
    assert (done.status, done.json["ok"]) == (0, True)
    assert (await kmsd("migrate", **variables)).out == "the schema is up to date\n"
    assert (await kmsd("migrate", "--check", **variables)).status == 0
    assert (await kmsd("list", **variables)).status == 0


@pytest.mark.guarantee("PR4")
@pytest.mark.parametrize("command", [["list"], ["show", "pub:1"], ["retry", "pub:1", "--yes"], ["migrate"], ["keys"]])
async def test_a_database_that_is_down_is_exit_69_without_its_password(kmsd: Kmsd, command: list[str]) -> None:
    url = "postgresql://kmsd:down-secret-password@127.0.0.1:1/connector"
    done = await kmsd(*command, KMS_CONNECTOR_DATABASE_URL=url)
    assert done.status == 69
    assert "127.0.0.1:1" in done.err
    assert "down-secret-password" not in done.out + done.err


async def test_a_wrong_password_is_not_printed(kmsd: Kmsd, postgres_server: Postgres, database_url: str) -> None:
    scheme, _, rest = database_url.partition("://")
    hosts = rest.rpartition("@")[2]
    done = await kmsd("list", KMS_CONNECTOR_DATABASE_URL=f"{scheme}://nobody:wrong-secret-password@{hosts}")
    assert done.status == 69
    assert "wrong-secret-password" not in done.out + done.err


async def test_answers_that_differ_from_the_committees_are_listed_and_shown(
    kmsd: Kmsd, store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    assert "is the committee's" in (await kmsd("list", "--diverging")).out
    await leased(store, owner, arrival(PUBLIC, 9))
    key = to_db(request_id(PUBLIC, 9)).hex()
    sql(
        "INSERT INTO kmsd_divergences (kind, id, ours, theirs, block_number) "
        f"VALUES ('public_decryption', '\\x{key}', '\\x0a0b', '\\x{'cc' * 32}', 7)"
    )
    listed = await kmsd("list", "--diverging")
    assert "pub:9" in listed.out
    assert "ours 0x0a0b, agreed 0xcccccccccccccccc… (32 bytes)" in listed.out
    document = (await kmsd("list", "--diverging", "--json")).json
    assert (document["ok"], document["diverging"][0]["theirs"]) == (False, "0x" + "cc" * 32)
    shown = await kmsd("show", "pub:9")
    assert "OUR ANSWER DIFFERS FROM THE COMMITTEE'S" in shown.out


async def test_a_terminal_is_asked(kmsd: Kmsd, store: PostgresStore, owner: int, database_url: str) -> None:
    await failed_request(store, owner, 1, "x")

    def type_into_terminal(keys: bytes) -> tuple[int, str]:
        master, slave = pty.openpty()
        environment = {**os.environ, "KMS_CONNECTOR_DATABASE_URL": database_url}
        process = subprocess.Popen(
            [sys.executable, "-m", "kmsd", "retry", "pub:1"],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        os.close(slave)
        os.write(master, keys)
        out, err = process.communicate(timeout=60)
        os.close(master)
        return process.returncode, (out + err).decode()

    status, printed = await trio.to_thread.run_sync(type_into_terminal, b"n\n")
    assert status == 1
    assert "Retry pub:1?" in printed
    assert "nothing was changed" in printed
    status, printed = await trio.to_thread.run_sync(type_into_terminal, b"y\n")
    assert status == 0, printed
    assert "request back in the queue" in printed
