from __future__ import annotations

import ipaddress
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from authz_sidecar.config import Config, config_reference
from authz_sidecar.config.overlay import Setting, lay_over, name_origins
from authz_sidecar.config.values import (
    TcpAddress,
    UnixAddress,
    format_duration,
    parse_address,
    parse_duration,
    parse_tcp_address,
)
from authz_sidecar.documents import DocumentError, parse_yaml, validate
from tests.support.config import PRODUCTION

PORTS = st.integers(0, 65535)
KEYS = [key.name for key in config_reference() if "[]" not in key.name]


@given(st.builds(TcpAddress, st.ip_addresses().filter(lambda ip: "%" not in str(ip)).map(str), PORTS))
def test_a_written_tcp_address_reads_back(address: TcpAddress) -> None:
    assert parse_address(str(address)) == address
    assert address.is_loopback == ipaddress.ip_address(address.host).is_loopback


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(lambda p: f"/{p}"))
def test_a_written_socket_path_reads_back(path: str) -> None:
    address = UnixAddress(Path(path))
    # `unix:///x` is gRPC's spelling of `unix:/x`, so a doubled leading slash is not kept.
    if not str(address.path).startswith("//"):
        assert parse_address(str(address)) == address


@given(st.text())
def test_no_text_breaks_the_address_parsers(text: str) -> None:
    for parse in (parse_address, parse_tcp_address):
        with suppress(ValueError):
            parse(text)


@given(st.integers(0, 10**8).map(lambda ms: timedelta(milliseconds=ms)))
def test_a_written_duration_reads_back(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@given(st.sampled_from(KEYS), st.text(st.characters(), max_size=40) | st.just("\udcff"))
def test_whatever_a_variable_holds_is_a_value_or_a_problem_under_its_name(key: str, text: str) -> None:
    settings = [Setting("environment X", tuple(key.split(".")), text)]
    document = parse_yaml("authz.yaml", PRODUCTION.encode())
    try:
        laid = lay_over(document, settings, Config)
        validate(laid, Config)
    except DocumentError as error:
        named = name_origins(error, settings)
        assert {problem.file for problem in named.problems} == {"environment X"}
