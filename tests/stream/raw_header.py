"""A record with a header name that no Python client would send, such as C and Go clients may: sent by librdkafka itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

_POINTER, _TEXT, _SIZE, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
_TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADERS = 1, 3, 4, 5, 7, 10  # rd_kafka_vtype_t


class _Memory(ctypes.Structure):
    _fields_ = (("at", _TEXT), ("size", _SIZE))


class _Any(ctypes.Union):
    _fields_ = (("pointer", _POINTER), ("text", _TEXT), ("number", ctypes.c_int32), ("memory", _Memory), ("all", _TEXT * 8))


class _Argument(ctypes.Structure):
    _fields_ = (("kind", _INT), ("value", _Any))


def send_with_header(bootstrap: str, topic: str, partition: int, key: bytes, value: bytes, name: bytes) -> None:
    """Deliver one record whose only header has these bytes as its name."""
    (path,) = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs").glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new", "rd_kafka_produceva"):
        getattr(library, function).restype = _POINTER
    problem = ctypes.create_string_buffer(512)
    config = _POINTER(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(config, b"bootstrap.servers", bootstrap.encode(), problem, _SIZE(512))
    producer = _POINTER(library.rd_kafka_new(0, config, problem, _SIZE(512)))
    headers = library.rd_kafka_headers_new(_SIZE(1))
    library.rd_kafka_header_add(_POINTER(headers), name, ctypes.c_ssize_t(len(name)), b"x", ctypes.c_ssize_t(1))
    arguments = (
        _Argument(_TOPIC, _Any(text=topic.encode())),
        _Argument(_PARTITION, _Any(number=partition)),
        _Argument(_VALUE, _Any(memory=_Memory(value, len(value)))),
        _Argument(_KEY, _Any(memory=_Memory(key, len(key)))),
        _Argument(_FLAGS, _Any(number=2)),
        _Argument(_HEADERS, _Any(pointer=headers)),
    )
    error = library.rd_kafka_produceva(producer, (_Argument * len(arguments))(*arguments), _SIZE(len(arguments)))
    assert error is None
    assert library.rd_kafka_flush(producer, 20_000) == 0
    library.rd_kafka_destroy(producer)
