"""The documents made from code are in step with it, and the example is a configuration."""

import re
from pathlib import Path

import attrs

from kmsd import documents
from kmsd.config import CHAPTERS, INPUTS, Settings, default_of, keys_of
from kmsd.configuring.document import example_toml
from kmsd.configuring.load import load
from kmsd.configuring.values import Table, Tables


def test_documents_are_in_step_with_the_code() -> None:
    assert documents.stale() == [], "run python -m kmsd.documents"


def test_the_example_loads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kmsd.toml"
    path.write_text(example_toml())
    loaded = load(str(path), {"KMS_CONNECTOR_PRIVATE_KEY": "11" * 32})
    defaults = Settings("postgresql://kmsd@127.0.0.1:5432/connector")
    for name, key in keys_of(Settings).items():
        if default_of(Settings, name) is not attrs.NOTHING and not key.needed_by and name != "private_key":
            assert getattr(loaded.settings, name) == getattr(defaults, name), name


def test_every_line_of_the_example_is_right_when_uncommented(tmp_path: Path) -> None:
    text = re.sub(r"^# (\[|[a-z_0-9]+ = )", r"\1", example_toml(), flags=re.MULTILINE)
    for left_out in ("gateway_url", "private_key", "private_key_file", "keystore_file", "keystore_password_file"):
        text = re.sub(rf"^{left_out} = ", f"# {left_out} = ", text, flags=re.MULTILINE)
    text = re.sub(r"^database_password_file = ", "# x = ", text, flags=re.MULTILINE)
    text = text.replace('["http://127.0.0.1:50051"]', '["https://127.0.0.1:50051"]')
    path = tmp_path / "kmsd.toml"
    path.write_text(text)
    settings = load(str(path), {}).settings
    assert settings.aws_kms_config is not None
    assert settings.max_fee_per_gas == 5 * 10**9
    assert settings.gateway_nodes[0].ws_url is not None


def test_every_key_is_in_the_example_with_its_variable() -> None:
    text = example_toml()
    for name, key in {**keys_of(Settings), **INPUTS}.items():
        if isinstance(key.value, (Table, Tables)):
            assert f"[{name}]" in text
        else:
            assert re.search(rf"^(# )?{name} = ", text, re.MULTILINE), name
            assert f"KMS_CONNECTOR_{name.upper()})" in text


def test_chapters_name_keys() -> None:
    assert set(CHAPTERS) <= set(keys_of(Settings))
    for cls in (
        Settings,
        *(key.value.cls for key in keys_of(Settings).values() if isinstance(key.value, (Table, Tables))),
    ):
        for key in keys_of(cls).values():
            assert key.doc.endswith(".")
