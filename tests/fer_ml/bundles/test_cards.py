"""What a card says of its training images."""

from fer_ml.bundles.cards import sessions_in


def test_sessions_are_read_from_the_names_of_a_buffers_images() -> None:
    a, b = "0123456789abcdef", "f" * 16
    names = [f"session-{b}/000001.jpg", f"x/session-{a}/2.png", f"session-{a}/3.png", "session-1/a"]
    assert sessions_in(names) == (a, b)
