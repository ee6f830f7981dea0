"""The status page in a headless Chromium: it shows what is, keeps itself up to date, runs nothing that came from
outside, fits a phone, and says so when nobody answers.

`KMSD_PICTURES=docs/pictures` writes its pictures there.
"""

import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import chromium
import pytest
import trio

from kmsd.clock import SystemTime
from kmsd.config import GatewayNode, HostChain, Settings
from kmsd.observe.board import Board
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.monitoring import Monitoring

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202eevil"


class Served:
    """A monitoring endpoint with its facts."""

    def __init__(self) -> None:
        self.metrics, self.health, self.board = Metrics(), Health(SystemTime()), Board()
        settings = Settings(
            "postgresql://h/d",
            monitoring_endpoint="127.0.0.1:0",
            gateway_nodes=(GatewayNode("main", "http://h"),),
            host_chains=(HostChain(12345, "http://h", b"\1" * 20),),
            kms_core_endpoints=("http://core:1",),
            gateway_chain_id=54321,
        )
        self.monitoring = Monitoring(settings, self.metrics, self.health, {}, board=self.board)

    @property
    def url(self) -> str:
        """Where the page is."""
        assert self.monitoring.address is not None
        return "http://{}:{}/".format(*self.monitoring.address)

    def all_is_well(self) -> None:
        """Every dependency answers, and there is something to see."""
        for name in ("database", "gateway node main", "host chain 12345", "core http://core:1"):
            self.health.ok(name)
        self.metrics.set("kms_connector_queue_depth", 41.0, "public_decryption", "request", "pending")
        self.metrics.set("kms_connector_queue_oldest_age_seconds", 12.0, "public_decryption", "request", "pending")
        self.metrics.set("kms_connector_tx_sender_balance_wei", 1.25e18)
        self.metrics.set("kms_connector_tx_sender_nonce", 1007.0)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Served, chromium.Page]]:
    made = Served()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.monitoring.run)
        async with chromium.page() as page:
            yield made, page
        nursery.cancel_scope.cancel()


async def text(page: chromium.Page, selector: str) -> str:
    """What a reader sees of an element."""
    return str(await page.value(f"document.querySelector({json.dumps(selector)}).innerText"))


async def test_it_shows_what_is_and_follows_it() -> None:
    async with served() as (made, page):
        made.all_is_well()
        await page.open(made.url)
        await page.until("document.getElementById('verdict').textContent === 'healthy'")
        assert "41" in await text(page, "#flow")
        assert "1.25 ETH" in await text(page, "#wallet")
        assert "waiting for" not in await text(page, "#dependencies")
        assert "the database has not been read yet" in await text(page, "#keys")
        made.health.fault("core http://core:1", "UNAVAILABLE connection refused")
        made.board.keys = [key("active"), key("destroyed", by_operator=True, reason="lost a share")]
        made.board.keys_at = made.health.now()
        await page.until("document.getElementById('verdict').textContent === 'not healthy'")
        assert "A KMS Core shard does not answer" in await text(page, "#findings")
        assert "Requests wait for it" in await text(page, "#findings")
        assert "UNAVAILABLE connection refused" in await text(page, "#dependencies")
        assert "lost a share" in await text(page, "#keys")
        assert "not healthy" in await page.value("document.title")
        assert page.said == []
        assert {url.removeprefix(made.url) for url in page.asked if not url.startswith("data:")} == {"", "overview"}


def key(state: str, **more: Any) -> Mapping[str, Any]:
    """A row of the registry."""
    facts = {"kind": "key", "id": f"{4 << 248 | 1:064x}", "state": state, "reason": "", "by_operator": False}
    return facts | {"changed_by": "me@here", "generated_at": 1.0, "activated_at": 2.0, "reshared_at": None} | more


async def test_nothing_from_outside_is_taken_for_markup() -> None:
    async with served() as (made, page):
        made.health.fault("core http://core:1", EVIL)
        made.health.fault(f"bucket {EVIL}", EVIL)
        made.health.alert(EVIL, EVIL)
        made.metrics.set("kms_connector_core_window", 3.0, EVIL)
        made.board.keys = [key("active", reason=EVIL, changed_by=EVIL, by_operator=True, crs_digest=EVIL)]
        made.board.keys_at = made.health.now()
        await page.open(made.url)
        await page.until("document.body.innerText.includes('<img src=x onerror')")
        await page.until("document.querySelector('#keys').innerText.includes('<script>')")
        assert await page.value("document.querySelectorAll('img, main script, iframe').length") == 0
        assert "owned" not in await page.value("document.title")
        assert "\u202e" not in await page.value("document.body.innerText")
        assert page.said == []


async def test_the_policy_forbids_what_the_page_does_not_contain() -> None:
    async with served() as (made, page):
        await page.open(made.url)
        await page.until("document.getElementById('verdict') !== null")
        await page.value(
            "(() => { const s = document.createElement('script'); s.textContent = 'document.title = \"owned\"';"
            " document.head.append(s); })()"
        )
        refused = "fetch('http://127.0.0.1:1/').then(() => 'asked', () => 'refused')"
        assert await page.value(refused) == "refused"
        assert await page.value("document.title") != "owned"
        await page.until("true")
        assert any("Content Security Policy" in line for line in page.said), page.said


@pytest.mark.parametrize("width", [320, 390, 768, 1440, 2560])
async def test_it_fits_every_screen(width: int) -> None:
    async with served() as (made, page):
        made.all_is_well()
        made.health.fault("host chain 12345", "x" * 300)
        await page.open(made.url, width=width, height=900)
        await page.until("document.querySelectorAll('#dependencies tr').length > 3")
        assert await page.value("document.documentElement.scrollWidth") <= width


async def test_it_says_so_when_nobody_answers() -> None:
    made = Served()
    async with chromium.page() as page:
        async with trio.open_nursery() as nursery:
            await nursery.start(made.monitoring.run)
            made.all_is_well()
            await page.open(made.url)
            await page.until("document.getElementById('verdict').textContent === 'healthy'")
            nursery.cancel_scope.cancel()
        await page.until("document.body.classList.contains('gone')")
        assert "has not answered for" in await text(page, "#fresh")


async def test_it_is_light_or_dark_as_the_reader_has_it() -> None:
    async with served() as (made, page):
        await page.open(made.url)
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await page.value(ground)
        await page.look(width=1440, height=900, dark=True)
        assert await page.value(ground) != light
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(os.environ.get("KMSD_PICTURES") or folder, "empty.png")
            await page.picture(picture)
            assert picture.stat().st_size > 10_000  # noqa: ASYNC240 - a file of ours
