"""Which request an operator means."""

from collections.abc import Sequence

import click

from kmsd.commands.options import refuse
from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.wire.errors import WireError
from kmsd.wire.ids import IdType, id_type, parse_id, short

KINDS_OF_TYPES = {
    IdType.PUBLIC_DECRYPTION: Kind.PUBLIC_DECRYPTION,
    IdType.USER_DECRYPTION: Kind.USER_DECRYPTION,
    IdType.PREP_KEYGEN: Kind.PREP_KEYGEN,
    IdType.KEY: Kind.KEYGEN,
    IdType.CRS: Kind.CRSGEN,
    IdType.KEY_RESHARE: Kind.KEY_RESHARE,
}
"""What the first byte of an id says about its request. PRSS Init has ids without one: 1, 2, …"""

KIND_NAMES = {name: kind for kind, op in OPERATIONS.items() for name in (op.short, kind.value)}
"""How a kind may be named on the command line: `pub` or `public_decryption`."""

kind_option = click.option(
    "--kind",
    "kind_name",
    type=click.Choice(sorted(KIND_NAMES)),
    metavar="KIND",
    help=f"One of {', '.join(KIND_NAMES)}.",
)


def kind_named(name: str | None) -> Kind | None:
    """The kind that `--kind` names."""
    return KIND_NAMES[name] if name is not None else None


def parse(text: str, as_json: bool) -> tuple[int, Kind | None]:
    """An id and its kind if the text or the id tells it; a text that is no id ends the command."""
    prefix, _, rest = text.strip().partition(":")
    if prefix == OPERATIONS[Kind.PRSS_INIT].short and rest.isascii() and rest.isdigit():
        return int(rest), Kind.PRSS_INIT
    try:
        request_id = parse_id(text)
    except WireError as error:
        refuse(str(error), as_json, 2)
    known = id_type(request_id)
    return request_id, KINDS_OF_TYPES.get(known) if known is not None else None


def name(kind: Kind, request_id: int) -> str:
    """How a request is called in answers: `pub:12`."""
    return f"{OPERATIONS[kind].short}:{request_id}" if kind is Kind.PRSS_INIT else short(request_id)


def one_kind(kinds: Sequence[Kind], request_id: int, as_json: bool) -> Kind:
    """The only kind that knows the id; none or several end the command."""
    if not kinds:
        refuse(f"no request {short(request_id)} is known here; `kmsd list` shows which are", as_json)
    if len(kinds) > 1:
        several = ", ".join(kind.value for kind in kinds)
        refuse(f"{short(request_id)} is known as {several}: say which with --kind", as_json, 2)
    return kinds[0]
