"""What the tests of all frames share: the round trip, and the refusal of bytes within bounded memory."""

import tracemalloc
from collections.abc import Callable

import pytest

from schemas.frame import JSON, SAFETENSORS, Frame, FrameError

RoundTrip = Callable[[Frame], None]
Refuse = Callable[..., str]


@pytest.fixture(scope="session")
def round_trip() -> RoundTrip:
    """Asserts that a frame survives both forms, that they are equal, and that its bytes are always the same."""

    def check(frame: Frame) -> None:
        for content_type in (SAFETENSORS, JSON):
            data = frame.encode(content_type)
            read = type(frame).decode(data, content_type)
            assert read == frame
            assert read.frame == f"{type(frame).__name__}.v1"
            assert frame.encode(content_type) == data
            assert read.encode(content_type) == data
            for name in frame.arrays:
                array = getattr(read, name)
                assert array is None or not array.flags.writeable

    return check


@pytest.fixture(scope="session")
def refuse() -> Refuse:
    """Asserts that bytes give a short FrameError and that Python's heap stays within `factor` sizes; returns the message."""

    def check(frame: type[Frame], data: bytes, content_type: str = SAFETENSORS, factor: float = 8.0) -> str:
        tracemalloc.start()
        try:
            with pytest.raises(FrameError) as caught:
                frame.decode(data, content_type)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= factor * len(data) + 100_000
        message = str(caught.value)
        assert message.startswith(frame.tag())
        assert len(message) < 2000
        message.encode()
        return message

    return check
