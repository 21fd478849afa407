"""Hypothesis strategies for every control message, read off the types of its fields."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_network
from typing import Any

import msgspec
from hypothesis import strategies as st

from meshproto import messages
from meshproto.addresses import AddrPort, AddrPorts, IPAddress, IPNetwork, OptionalIPAddress
from meshproto.gotime import ZERO_TIME, OptionalTime, Time
from meshproto.keys import PublicKey
from meshproto.messages import Message

MESSAGE_TYPES: list[type[Message]] = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
times = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
addresses = st.ip_addresses()
prefixes = st.builds(
    lambda address, bits: ip_network((address, bits % (address.max_prefixlen + 1)), strict=False),
    addresses,
    st.integers(0, 128),
)
addr_ports = st.builds(lambda host, port: AddrPort(str(host), port), addresses, st.integers(0, 65535))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)

_CUSTOM: dict[Any, st.SearchStrategy[Any]] = {
    Time: times | st.just(ZERO_TIME),
    OptionalTime: times | st.none(),
    IPAddress: addresses,
    OptionalIPAddress: addresses | st.none(),
    IPNetwork: prefixes,
    AddrPorts: st.lists(addr_ports, max_size=3).map(AddrPorts),
}


def _values(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case msgspec.inspect.CustomType(cls=cls):
            if issubclass(cls, PublicKey):
                return st.binary(min_size=32, max_size=32).map(cls)
            return _CUSTOM[cls]
        case msgspec.inspect.StructType(cls=cls):
            return messages_of(cls)
        case msgspec.inspect.VarTupleType(item_type=item):
            return st.lists(st.deferred(lambda: _values(item)), max_size=2).map(tuple)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_values(key), st.deferred(lambda: _values(value)), max_size=2)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([_values(one) for one in types])
        case msgspec.inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
    return _SCALARS[type(kind)]


_SCALARS: dict[type, st.SearchStrategy[Any]] = {
    msgspec.inspect.StrType: texts,
    msgspec.inspect.BoolType: st.booleans(),
    msgspec.inspect.BytesType: st.binary(max_size=8),
    msgspec.inspect.FloatType: st.floats(allow_nan=False, allow_infinity=False),
    msgspec.inspect.NoneType: st.none(),
    msgspec.inspect.AnyType: json_values,
}


def fields_of(kind: type[Message]) -> tuple[msgspec.inspect.Field, ...]:
    """The fields of a message class with their types and wire names."""
    described = msgspec.inspect.type_info(kind)
    assert isinstance(described, msgspec.inspect.StructType)
    return described.fields


@cache
def messages_of(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Messages of this class with any of their fields set."""
    required = {field.name: _values(field.type) for field in fields_of(kind) if field.required}
    optional = {field.name: _values(field.type) for field in fields_of(kind) if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: kind(**values))
