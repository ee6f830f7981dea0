"""anvil under control: blocks, reorganisations, faults; senders; the toolchain's bootstrap; the committee."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from contract_asking import Gateway

from kmsd.sandbox import requests
from kmsd.sandbox.accounts import BALANCE, Call, RawSender, Reverted, account, fund
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.cache import cache_root, open_to_everyone, shared_cache_root
from kmsd.sandbox.observer import Observer
from kmsd.sandbox.process import python_process
from kmsd.sandbox.rpc import RpcClient, RpcError
from kmsd.sandbox.world import REAL_CHAIN_IDS, Plan, World, toml

NOBODY = bytes(19) + b"\x01"


def test_blocks_on_demand_and_reorganisations(tmp_path: Path) -> None:
    """Blocks come when asked for; a reorganisation gives the same numbers other hashes and forgets transactions."""
    with Anvil(777, tmp_path, block_time=0) as chain:
        who = account("somebody")
        fund(chain.rpc, [who])
        assert int(chain.call("eth_getBalance", who.text, "latest"), 16) == BALANCE
        sender = RawSender(who, 777, chain.rpc)
        chain.mine(3)
        (sent,) = sender.submit([Call(NOBODY, b"", 50_000)])
        assert chain.call("eth_getTransactionReceipt", "0x" + sent.hex()) is None
        chain.mine(2)
        before = chain.block_hash(4)
        assert chain.call("eth_getTransactionReceipt", "0x" + sent.hex())["blockNumber"] == "0x4"
        chain.reorganise(2)
        assert chain.block_number() == 5
        assert chain.block_hash(4) != before
        snapshot = chain.snapshot()
        chain.mine(5)
        chain.revert(snapshot)
        assert chain.block_number() == 5
        with pytest.raises(RuntimeError, match="no snapshot"):
            chain.revert(snapshot)


def test_a_dropped_transaction(tmp_path: Path) -> None:
    """A node may forget what waits."""
    with Anvil(777, tmp_path, block_time=0) as chain:
        who = account("somebody")
        fund(chain.rpc, [who])
        (sent,) = RawSender(who, 777, chain.rpc).submit([Call(NOBODY, b"", 50_000)])
        chain.drop_transaction("0x" + sent.hex())
        chain.mine()
        assert chain.call("eth_getTransactionByHash", "0x" + sent.hex()) is None


def test_interval_blocks_and_restart(tmp_path: Path) -> None:
    """Blocks by the clock; a stopped node comes back with its chain on its port, a killed one does not come back so."""
    with Anvil(777, tmp_path, block_time=0.1) as chain:
        deadline = time.monotonic() + 10
        while chain.block_number() < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        first = chain.block_hash(2)
        port = chain.port
        chain.stop()
        with pytest.raises(OSError, match="refused"):
            chain.block_number()
        chain.start()
        assert chain.port == port
        assert chain.block_hash(2) == first
        chain.kill()
        assert not chain.process.alive()


def test_a_paused_node_answers_nothing(tmp_path: Path) -> None:
    """Its sockets stay open."""
    with Anvil(777, tmp_path) as chain:
        chain.pause()
        with pytest.raises(TimeoutError):
            RpcClient(chain.port, timeout=0.2).call("eth_blockNumber")
        chain.resume()
        assert chain.block_number() == 0


def test_errors_say_why(chains: Any) -> None:
    """A reverted transaction has its custom error; a batch has an error in its place."""
    d = chains.deployment
    sender = RawSender(d.parties[0].tx, chains.gateway.chain_id, chains.gateway.rpc)
    with pytest.raises(Reverted) as caught:
        sender.run([requests.prss_init(d)])
    assert caught.value.data.startswith("0x0e56cf3d")
    good, bad = chains.gateway.rpc.batch([("eth_chainId", []), ("eth_nonsense", [])])
    assert int(good, 16) == chains.gateway.chain_id
    assert isinstance(bad, RpcError)


def test_the_toolchain_bootstraps_without_home(tmp_path: Path) -> None:
    """npm by the lock file into an empty cache folder, by two processes at once, without HOME."""
    script = (
        "from kmsd.sandbox import toolchain, solidity\n"
        "tools = toolchain.prepare()\n"
        "import subprocess; print(subprocess.run([tools.anvil, '--version'], capture_output=True).returncode)"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    env["KMSD_CACHE"] = str(tmp_path / "cache")
    runs = [
        subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [run.communicate(timeout=200)[0].strip() for run in runs] == ["0", "0"]


def test_the_lock_file_has_hashes_and_no_addresses() -> None:
    """Every package by version and hash."""
    lock = json.loads((Path(toolchain_folder()) / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in packages.values())


def toolchain_folder() -> str:
    from kmsd.sandbox import toolchain

    return str(Path(toolchain.__file__).with_name("npm"))


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As told, else in the checkout; where others cannot reach it, programs of other users get a folder elsewhere."""
    monkeypatch.delenv("KMSD_CACHE", raising=False)
    assert cache_root().name == ".cache"
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("KMSD_CACHE", str(closed / "cache"))
    assert cache_root() == closed / "cache"
    assert not open_to_everyone(closed)
    if os.getuid() == 0:
        assert open_to_everyone(shared_cache_root())
        shared_cache_root().rmdir()


def test_no_sandbox_pretends_to_be_a_real_network() -> None:
    """Neither chain may have the id of a network with something at stake."""
    for chain_id in REAL_CHAIN_IDS:
        with pytest.raises(ValueError, match="real network"):
            World(Plan(gateway_chain_id=chain_id))
        with pytest.raises(ValueError, match="real network"):
            World(Plan(host_chain_id=chain_id))


def test_generated_toml() -> None:
    """What is written is what is read."""
    import tomllib

    settings = {
        "text": 'a "quoted" \\ text',
        "number": 3,
        "flag": True,
        "list": ["a", "b"],
        "table": {"x": "y"},
        "rows": [{"a": 1}, {"a": 2}],
    }
    assert tomllib.loads(toml(settings)) == settings


async def test_the_committee_answers_everything(
    chains: Any, tmp_path: Path, eventually: Callable[..., Awaitable[Any]]
) -> None:
    """Three scripted parties bring every kind to its consensus, with the clear values, and none of them twice."""
    gateway = Gateway(chains.gateway, chains.host, chains.deployment)
    gateway.prepare(delegated=True)
    d = gateway.deployment
    file = tmp_path / "deployment.json"
    file.write_text(d.to_json())
    options = ["--deployment", str(file), "--port", str(chains.gateway.port)]
    committee = python_process(
        "committee",
        "kmsd.sandbox.committee",
        [*options, "--from-block", str(chains.gateway.block_number() + 1)],
        tmp_path,
    )
    committee.start()
    try:
        assert committee.ready_line()["parties"] == [2, 3, 4]
        observer = Observer(
            RpcClient(chains.gateway.port), RpcClient(chains.host.port), d, d.parties[1], chains.gateway.block_number()
        )
        gateway.own(requests.keygen(d))
        gateway.own(requests.crsgen(d))
        gateway.ask(requests.public_burst(d, gateway.handles, rounds=5))
        gateway.ask(requests.user_request(d, gateway.user, gateway.handles, gateway.now))
        gateway.ask(requests.user_request(d, gateway.delegate, gateway.handles[:1], gateway.now))

        def done() -> bool:
            observer.look()
            return (
                len(observer.consensus) == 20
                and bool(observer.active_keys and observer.active_crs)
                and all(
                    len(observer.answers[kind]) == len(observer.requests[kind])
                    for kind in observer.answers
                    if kind not in ("prss_init", "key_reshare_same_set")
                )
            )

        await eventually(done, seconds=30, what="an answer of party 2 to everything")
        assert not observer.refused_by_the_verifier()
        assert not observer.answered_twice()
    finally:
        assert committee.stop() == 0
