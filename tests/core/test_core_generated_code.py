"""The committed messages are exactly what `make protos` makes, and speak the golden vectors byte for byte."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import betterproto2
import pytest

from kmsd.core.pb.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse
from kmsd.core.pb.kms import v1 as kms

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "kms-core.json").read_text())


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protos_generate", ROOT / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_committed_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    generator = _generator()
    generator.generate(tmp_path / "pb")
    assert _files(tmp_path / "pb") == _files(generator.OUTPUT)


def _message(message_type: type[betterproto2.Message], fields: dict[str, Any]) -> betterproto2.Message:
    """A message from a vector's fields: 0x text is bytes, {enum, number} is an enum, dicts and lists are messages."""
    hints = message_type._type_hints()
    return message_type(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_value(hint.__args__[0], item) for item in value]
    classes = [hint, *getattr(hint, "__args__", ())]
    if isinstance(value, dict):
        if "number" in value:
            enum = next(c for c in classes if isinstance(c, type) and issubclass(c, betterproto2.Enum))
            return enum(value["number"])
        nested = next(c for c in classes if isinstance(c, type) and issubclass(c, betterproto2.Message))
        return _message(nested, value)
    if isinstance(value, str) and bytes in classes:
        return bytes.fromhex(value.removeprefix("0x"))
    return value


@pytest.mark.parametrize("vector", VECTORS["protobuf"], ids=lambda vector: vector["name"])
def test_golden_vector(vector: dict[str, Any]) -> None:
    message_type = getattr(kms, vector["message"].removeprefix("kms.v1."))
    wire = bytes.fromhex(vector["wire_hex"])
    message = _message(message_type, vector["fields"])
    assert bytes(message) == wire
    assert message_type.parse(wire) == message
    assert bytes(message_type.parse(wire)) == wire


def test_all_vectors_are_here() -> None:
    assert len(VECTORS["protobuf"]) == 26


def test_health_vectors() -> None:
    health = VECTORS["health"]
    request = HealthCheckRequest(service=health["request"]["service"])
    assert bytes(request).hex() == health["request"]["wire_hex"]
    for name, wire in health["responses"].items():
        response = HealthCheckResponse.parse(bytes.fromhex(wire))
        assert f"{response.status.name}({response.status.value})" == name
        assert bytes(response).hex() == wire


def test_frame_vector() -> None:
    example = VECTORS["grpc"]["frame_example"]
    body = bytes.fromhex(example["body"])
    assert kms.RequestId.parse(body).request_id.endswith("07")
    assert b"\0" + len(body).to_bytes(4, "big") + body == bytes.fromhex(example["frame_hex"])
