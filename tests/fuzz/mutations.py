"""Valid input, damaged: values of a document, parts of a message, bytes. What to damage is asked of `pick`."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import onnx
import yaml
from valid import EXAMPLES

T = TypeVar("T")
Pick = Callable[[Sequence[T]], T]  # one of these
Path = tuple[Any, ...]

NUMBERS: list[Any] = [0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, 1.5, 1e-320,
                      1e308, float("inf"), float("-inf"), float("nan"), True, False]
TEXTS = ["", " ", "a", "1", "1.5", "nan", "-", "../../x", "../home/x", "/etc/passwd", "a\0b", "a\0b.yaml", "x.yaml",
         "\ud800", "\U0001f600", "[/bold]", "[red]", "</script>", "50%", "3x", "2ms", "1e-999ms", "9" * 400, "0" * 9000,
         "a" * 5000, "host-cpu", "ethos-u55-256", "lab", "0" * 64, "f" * 64 + ".tflite", "complete", "final:x",
         "latency_ms@host-cpu", "accuracy", "{}", "[]", "null", '{"version":1,"steps":[]}', "2026-01-01", "*a", "é"]
ODD: list[Any] = [None, [], {}, [None], [[]], [[[[]]]], {"a": None}, {"": {}}, [1, "a", None], [0.5, 2.5]]
VALUES = [*NUMBERS, *TEXTS, *ODD]
LINES = ["&a [*a]", "<<: {a: 1}", "!!python/object/apply:os.system [ls]", "!!int x", "!!timestamp x", "!!bool x",
         "!!binary x", "? [a]\n: b", "2026-99-99", "1:99:99", "0x" + "f" * 5000, "- - - -", "a: b: c", "---", "...",
         "'", '"\\ud800"', "{", "[" * 3000, "\t", "%YAML 9.9", "|", "é", "a: &x [1,2]\nb: [*x,*x]", "~", "extends: lab",
         "extends: ./lab.yaml", "extends: ../profiles/lab.yaml", "extends: [a]", "profiles: ['a\\0.yaml']", "null"]


def mutated(kind: str, pick: Pick[Any]) -> bytes:
    """Some damaged example of that kind."""
    return damaged(kind, pick(EXAMPLES[kind]), pick)


def damaged(kind: str, data: bytes, pick: Pick[Any]) -> bytes:
    ways = WAYS[kind]
    try:
        result = pick(ways)(data, pick)
    except Exception:  # `data` is no document any more, and its reader says so in a way of its own
        result = raw(data, pick)
    return raw(result, pick) if pick(range(8)) == 0 else result


def raw(data: bytes, pick: Pick[Any]) -> bytes:
    """Bytes lost, doubled, changed or put in between."""
    for _ in range(pick((1, 1, 2, 4))):
        at, size = pick(range(len(data) + 1)), pick((1, 1, 2, 8, 64, 1000))
        middle = pick((b"", data[at : at + size] * 2, bytes([pick(range(256))]), b"\xff\xfe", b"\0", b"\n", b"9" * 20))
        data = pick((data[:at], data[:at] + middle + data[at + size :], data[:at] + middle + data[at:]))
    return data


def lines(data: bytes, pick: Pick[Any]) -> bytes:
    """Whole lines lost, doubled, swapped, or strange ones put in between."""
    rows = data.split(b"\n")
    for _ in range(pick((1, 1, 2))):
        at, other = pick(range(len(rows))), pick(range(len(rows)))
        row = pick((None, rows[other], pick(LINES).encode(errors="surrogatepass"), rows[at] + b" " + rows[other].strip()))
        rows[at : at + pick((0, 1))] = [] if row is None else [row]
        rows = rows or [b""]
    return b"\n".join(rows)


def yaml_document(data: bytes, pick: Pick[Any]) -> bytes:
    return _json(changed(yaml.safe_load(data), pick))  # JSON is YAML, but for what JSON alone can say


def json_document(data: bytes, pick: Pick[Any]) -> bytes:
    return _json(changed(json.loads(data), pick))


def json_lines(data: bytes, pick: Pick[Any]) -> bytes:
    """A record or two changed, and the notes inside it more often than its own keys."""
    rows = data.splitlines()
    for _ in range(pick((1, 1, 1, 2, 3))):
        at = pick(range(len(rows)))
        rows[at] = _json(changed(json.loads(rows[at]), pick))
        if pick(range(10)) == 0:
            rows.insert(at, rows[pick(range(len(rows)))])
    return b"\n".join(rows) + b"\n"


def cells(data: bytes, pick: Pick[Any]) -> bytes:
    rows = [row.split(",") for row in data.decode().splitlines()]
    for _ in range(pick((1, 1, 2))):
        row = pick(rows)
        value = str(pick([v for v in VALUES if v != 10**400]))
        row[pick(range(len(row)))] = value
        row += [value] if pick(range(5)) == 0 else []
    return "\n".join(map(",".join, rows)).encode(errors="surrogatepass") + b"\n"


def message(data: bytes, pick: Pick[Any]) -> bytes:
    """Fields of a protobuf message set, lost, doubled or taken from elsewhere in it."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(pick((1, 1, 2, 3))):
        inner = pick([part for part in _messages(model) if part.DESCRIPTOR.fields])
        _change_(inner, pick(_fields(inner, pick)), pick, model)
    return model.SerializeToString()


def changed(document: Any, pick: Pick[Any]) -> Any:
    """One to three values of a document lost, renamed, wrapped, or replaced."""
    document = copy.deepcopy(document)
    for _ in range(pick((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return _value(pick)
        holder, key = pick(places)
        how = pick(("value", "value", "value", "other", "lost", "wrapped", "named", "more"))
        if how == "lost":
            del holder[key]
        elif how == "named" and isinstance(holder, dict):
            holder[pick(TEXTS)] = holder.pop(key)
        elif how == "more" and isinstance(holder, list):
            holder.insert(key, _value(pick))
        else:
            old = holder[key]
            source, name = pick(places)
            holder[key] = {"other": copy.deepcopy(source[name]), "wrapped": [old]}.get(how, _value(pick))
    return document


def _value(pick: Pick[Any]) -> Any:
    """A copy: what is put into one document must not be changed by way of the next."""
    return copy.deepcopy(pick(VALUES))


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value; JSON inside a text is not looked into."""
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _places(document[key])


def _json(document: Any) -> bytes:
    return json.dumps(document, default=str).encode()


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if _repeated(field) else [value]:
                yield from _messages(part)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _fields(message: Any, pick: Pick[Any]) -> list[Any]:
    """Those that are there, and now and then any."""
    there = [field for field, _ in message.ListFields()]
    return there if there and pick(range(4)) else list(message.DESCRIPTOR.fields)


def _change_(message: Any, field: Any, pick: Pick[Any], whole: Any) -> None:
    repeated = getattr(message, field.name) if _repeated(field) else None
    if repeated is None:
        message.ClearField(field.name) if pick(range(4)) == 0 else _set_(message, field, pick, whole)
    elif len(repeated) and pick(range(2)) == 0:
        del repeated[pick(range(len(repeated)))]
    elif field.type == field.TYPE_MESSAGE:
        repeated.add().MergeFromString(_other(whole, field, pick))
    elif len(repeated) and pick(range(2)) == 0:
        repeated[pick(range(len(repeated)))] = _scalar(field, pick, whole)
    else:
        repeated.append(_scalar(field, pick, whole))


def _set_(message: Any, field: Any, pick: Pick[Any], whole: Any) -> None:
    if field.type == field.TYPE_MESSAGE:
        part = _other(whole, field, pick)
        message.ClearField(field.name)
        getattr(message, field.name).MergeFromString(part)
    else:
        setattr(message, field.name, _scalar(field, pick, whole))


def _other(whole: Any, field: Any, pick: Pick[Any]) -> bytes:
    """Some message of the type of a field, as bytes: one that held itself would have no end."""
    same = [part for part in _messages(whole) if part.DESCRIPTOR is field.message_type]
    return pick(same).SerializeToString() if same else b""


def _scalar(field: Any, pick: Pick[Any], whole: Any) -> Any:
    if field.type == field.TYPE_STRING:
        names = [*(name for node in whole.graph.node for name in (*node.input, *node.output, node.op_type))]
        return pick([*names, *(t for t in TEXTS if "\ud800" not in t), "Loop", "Scan", "Conv", "MatMulNBits"])
    if field.type == field.TYPE_BYTES:
        return pick((b"", b"\0" * 3, b"\xff" * 64, b"a,b->c", b"../x"))
    if field.type == field.TYPE_ENUM:
        return pick([value.number for value in field.enum_type.values])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return pick([0.0, -1.0, 1e30, float("inf"), float("nan")])
    small = [0, 1, 2, 3, 4, 5, 10, 16, 255, 2**20, 2**31 - 1]
    return pick(small if field.type in (field.TYPE_INT32, field.TYPE_UINT64) else [*small, -1, -2, 2**40, 2**62])


Way = Callable[[bytes, Pick[Any]], bytes]
WAYS: dict[str, tuple[Way, ...]] = {
    "run_file": (yaml_document, yaml_document, lines, raw),
    "profile": (yaml_document, yaml_document, lines, raw),
    "journal": (json_lines, json_lines, json_lines, lines, raw),
    "card": (json_document, json_document, raw),
    "onnx_file": (message, message, message, raw),
    "recipe": (json_document, json_document, raw),
    "table": (cells, lines, raw),
    "cached": (raw,),
    "live": (json_document, json_document, raw),
}
