"""Connections to Postgres: a bounded set that is held open, and single ones for locks and notifications.

Each verb runs on one held connection with its own statement cache. A connection on which anything went wrong (an
error, a deadline, a cancellation) is cut and never used again: with a server that has stopped, every polite way to end
a transaction or a connection would wait for it, shielded from cancellation, for ever.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import trio
import triopg

from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.ports import DependencyDown
from kmsd.redact import Redactor, endpoint, url_secrets
from kmsd.store.faults import Fault, classify, is_deadline, words_of
from kmsd.wire.ids import short

log = logging.getLogger("kmsd.store")

DATABASE = "database"
"""The name of this dependency."""
REPEATS = 5
"""Times that a transaction is repeated after a deadlock or a serialization failure."""
CONNECT_TIMEOUT = 5.0
"""Seconds within which a new connection must be usable."""
PAST_PIDS = 256
"""Backends of closed connections that are remembered as ours: their last notifications may come late."""

PLAN_LIFETIME = 15.0
"""Seconds for which a connection keeps its plans. One that was made while a table was empty is wrong after a burst, and
Postgres itself notices only at the next ANALYZE."""

T = TypeVar("T")

_SESSION = {
    "timezone": "UTC",  # `updated_at` has no time zone; the reference's sessions write UTC
    "kmsd.writer": "on",  # we complete requests ourselves, see sql/migrations
    # Plans are made while tables are empty and must still be right when they are large: every join of ours starts from
    # a batch and looks rows up by key.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "2",
}
_SET = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
_SET_TIMEOUTS = (
    "SELECT set_config('statement_timeout', $1, false), set_config('idle_in_transaction_session_timeout', $1, false)"
)


class Session:
    """One connection, used by one task at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._planned_at = trio.current_time()
        self.pid: int = connection.get_server_pid()

    @property
    def closed(self) -> bool:
        """True once the connection is known to be gone."""
        return bool(self._connection.is_closed())

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """All rows of a statement."""
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(sql, *arguments)
        return rows

    async def row(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def value(self, sql: str, *arguments: Any) -> Any:
        """The first value of the first row, None without rows."""
        row = await self.row(sql, *arguments)
        return row[0] if row is not None else None

    async def execute(self, sql: str) -> None:
        """A script without arguments."""
        await self._connection.execute(sql)

    async def refresh(self) -> None:
        """Forget plans that are old: they are made anew from the tables as they are now. Outside transactions."""
        if trio.current_time() - self._planned_at > PLAN_LIFETIME:
            await self.execute("DISCARD PLANS")
            self._planned_at = trio.current_time()

    async def listen(self, channel: str, callback: Callable[[Any, int, str, Any], None]) -> None:
        """LISTEN on `channel`; `callback(connection, pid, channel, payload)` runs inside the event loop."""
        await self._connection.add_listener(channel, callback)

    def on_end(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(connection)` when the connection ends, for whatever reason."""
        self._connection.add_termination_listener(callback)

    def cut(self) -> None:
        """Close without a word to the server; its locks are free as soon as it notices, which is at once."""
        self._connection.terminate()


class Database:
    """Up to `pool_size` held connections to one database, opened when needed, and dedicated ones besides."""

    def __init__(
        self,
        url: str,
        *,
        application: str = "kmsd",
        pool_size: int,
        statement_timeout: float,
        health: Health | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._application = application[:63]
        self._url = _without_foreign_options(url)
        self._redact = Redactor(url_secrets(url))
        self._where = endpoint(url)
        self._slots = trio.Semaphore(pool_size)
        self._pool_size = pool_size
        self._idle: list[Session] = []
        self._live_pids: set[int] = set()
        self._past_pids: deque[int] = deque(maxlen=PAST_PIDS)
        self._health = health
        self._metrics = metrics
        self.statement_timeout = statement_timeout
        self.answering_since: float | None = None
        """The clock of trio since when no verb was left without an answer; None while the last one was."""

    def owns_backend(self, pid: int) -> bool:
        """True for a backend that serves, or has lately served, a connection of ours."""
        return pid in self._live_pids or pid in self._past_pids

    async def run(self, verb: str, work: Callable[[Session], Awaitable[T]]) -> T:
        """`work` inside one transaction; it may run several times. Raises DependencyDown."""
        return await self._attempts(verb, work, transaction=True)

    async def single(self, verb: str, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """One statement, which is its own transaction. Raises DependencyDown."""
        return await self._attempts(verb, lambda session: session.fetch(sql, *arguments), transaction=False)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[Session]:
        """A connection of one's own, cut at the end. Raises DependencyDown when there is none to be had."""
        session = await self.connect()
        try:
            yield session
        finally:
            self.cut(session)

    async def connect(self) -> Session:
        """A new connection, to be ended with `cut`. Raises DependencyDown when there is none to be had."""
        with self.faults():
            return await self._connect()

    def cut(self, session: Session) -> None:
        """End a connection without a word to the server; its locks are free as soon as that notices."""
        if session.pid in self._live_pids:
            self._live_pids.discard(session.pid)
            self._past_pids.append(session.pid)
        session.cut()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Errors that mean "the database is away" come out as DependencyDown, others as they are."""
        try:
            yield
        except DependencyDown:
            raise
        except Exception as error:
            if classify(error) is Fault.DEFECT:
                raise
            words = self._redact(f"{self._where}: {words_of(error)}")
            down = DependencyDown(DATABASE, words, too_slow=is_deadline(error))
            self.answering_since = None
            if self._health is not None:
                self._health.fault(DATABASE, down.detail)
            raise down from error

    def answered(self) -> None:
        """The database has just answered."""
        if self.answering_since is None:
            self.answering_since = trio.current_time()
            if self._health is not None:
                self._health.ok(DATABASE)

    def diverging(self, keys: Sequence[tuple[Kind, int]]) -> None:
        """Say that our answers under these keys differ from what the committee agreed on (decisions.md 34)."""
        for kind, request_id in keys:
            words = f"our answer to {kind.value} {short(request_id)} differs from what the committee agreed on"
            log.error("%s: see kmsd show %s", words, short(request_id))
            if self._metrics is not None:
                self._metrics.inc("kms_connector_divergences", OPERATIONS[kind].label)
            if self._health is not None:
                self._health.alert("divergence", f"{words}: the Core may hold a wrong key; compare key digests")

    def close(self) -> None:
        """Cut all held connections."""
        while self._idle:
            self.cut(self._idle.pop())

    async def _attempts(self, verb: str, work: Callable[[Session], Awaitable[T]], *, transaction: bool) -> T:
        started = trio.current_time()
        try:
            with self.faults():
                result = await self._repeated(verb, work, transaction=transaction)
        except DependencyDown:
            if self._metrics is not None:
                self._metrics.inc("kms_connector_database_errors", verb)
            raise
        self.answered()
        if self._metrics is not None:
            self._metrics.observe("kms_connector_database_seconds", trio.current_time() - started, verb)
        return result

    async def _repeated(self, verb: str, work: Callable[[Session], Awaitable[T]], *, transaction: bool) -> T:
        for attempt in range(REPEATS):
            try:
                return await self._timed(work, transaction=transaction)
            except Exception as error:
                if classify(error) is not Fault.REPEAT:
                    raise
                log.info("%s is repeated: %s", verb, words_of(error))
                await trio.sleep(0.01 * 2**attempt)
        return await self._timed(work, transaction=transaction)

    async def _timed(self, work: Callable[[Session], Awaitable[T]], *, transaction: bool) -> T:
        with trio.fail_after(self.statement_timeout):
            return await self._once(work, transaction=transaction)

    async def _once(self, work: Callable[[Session], Awaitable[T]], *, transaction: bool) -> T:
        async with self._slots:
            session = await self._take()
            self._show()
            try:
                await session.refresh()
                if transaction:
                    await session.execute("BEGIN")
                    result = await work(session)
                    await session.execute("COMMIT")
                else:
                    result = await work(session)
            except BaseException as error:
                self.cut(session)
                if isinstance(error, trio.Cancelled | OSError | asyncpg.PostgresConnectionError):
                    # The others would each have to find out by a deadline of their own.
                    self._drop_idle()
                raise
            self._idle.append(session)
            return result

    async def _take(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if not session.closed:
                return session
            self.cut(session)
        return await self._connect()

    async def _connect(self) -> Session:
        timeout = min(CONNECT_TIMEOUT, self.statement_timeout)
        proxy = triopg.connect(
            self._url,
            statement_cache_size=1024,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": self._application},
        )
        with trio.fail_after(timeout):
            await proxy.__aenter__()
            session = Session(proxy)
            try:
                await session.fetch(_SET)
                await session.fetch(_SET_TIMEOUTS, str(int(self.statement_timeout * 1000)))
            except BaseException:
                session.cut()
                raise
        self._live_pids.add(session.pid)
        return session

    def _drop_idle(self) -> None:
        while self._idle:
            self.cut(self._idle.pop())

    def _show(self) -> None:
        if self._metrics is not None:
            self._metrics.set("kms_connector_database_connections", float(self._pool_size - self._slots.value))


def _without_foreign_options(url: str) -> str:
    """`url` without the options that only the Rust connector's library knows."""
    parts = urlsplit(url)
    if not parts.query:
        return url
    kept = [(key, value) for key, value in parse_qsl(parts.query) if key != "statement-cache-capacity"]
    return urlunsplit(parts._replace(query=urlencode(kept)))
