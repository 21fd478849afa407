"""Go's reading of JSON null: whatever the type, it leaves the zero value.

Fields where null has a meaning of its own are typed to allow it; everywhere else this removes it, so that the
field's default applies.
"""

from __future__ import annotations

from typing import Any

import msgspec

Type = msgspec.inspect.Type


def without_nulls(value: Any, kind: Type) -> Any:
    """`value`, as decoded from JSON, without the nulls that `kind` has no room for.

    An object loses the member, a map loses the entry. A null inside a list stays, and will be refused.
    """
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    if isinstance(value, dict) and isinstance(kind, msgspec.inspect.StructType):
        types = {field.encode_name: field.type for field in kind.fields}
        return {
            name: without_nulls(member, types[name])
            for name, member in value.items()
            if name in types and not (member is None and not _allows_null(types[name]))
        }
    if isinstance(value, dict) and isinstance(kind, msgspec.inspect.DictType):
        return {
            key: without_nulls(member, kind.value_type)
            for key, member in value.items()
            if not (member is None and not _allows_null(kind.value_type))
        }
    if isinstance(value, list) and isinstance(kind, msgspec.inspect.VarTupleType):
        return [without_nulls(member, kind.item_type) for member in value]
    return value


def _allows_null(kind: Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(_allows_null(one) for one in kind.types)
    return isinstance(kind, msgspec.inspect.NoneType | msgspec.inspect.AnyType)
