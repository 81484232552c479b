"""The demo: its data, its training, its questions and its picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

demo = pytest.importorskip("jaxobian.demo", reason="needs the extra 'demo'", exc_type=ImportError)

Network = tuple[Callable, Any]


@pytest.fixture(scope="module")
def untrained() -> Network:
    """A LeNet-5 with the parameters that it starts from."""
    variables = demo.LeNet().init(jax.random.key(0), jnp.zeros((28, 28, 1)))
    return demo.jaxobian.flax.functional(demo.LeNet(), variables)


def test_digits_are_scans_of_28_by_28_split_once_for_all() -> None:
    learn, held_out = demo.load_digits()
    assert learn.images.shape == (1437, 28, 28, 1)
    assert held_out.images.shape == (360, 28, 28, 1)
    assert learn.images.dtype == jnp.float32
    assert (learn.images.min(), learn.images.max()) == (0, 1)
    assert set(held_out.labels.tolist()) == set(range(10))
    assert (demo.load_digits()[1].labels == held_out.labels).all()


def test_an_image_has_the_same_scores_alone_and_in_a_batch(untrained: Network) -> None:
    apply, params = untrained
    images = jax.random.uniform(jax.random.key(1), (3, 28, 28, 1))
    assert apply(params, images).shape == (3, 10)
    assert jnp.allclose(apply(params, images)[1], apply(params, images[1]), atol=1e-5)


def test_one_epoch_already_reads_most_digits(untrained: Network) -> None:
    apply, params = untrained
    learn, held_out = demo.load_digits()
    params = demo.train(apply, params, learn, epochs=1)
    assert (apply(params, held_out.images).argmax(-1) == held_out.labels).mean() > 0.6


def test_compare_prints_times_and_differences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SECONDS", 0.01)
    demo.compare({"twice": lambda x: {"y": 2 * x}, "a bit more": lambda x: {"y": 2 * x + 0.5}}, jnp.ones(3))
    twice, more = capsys.readouterr().out.splitlines()[-2:]
    assert twice.split()[-1] == "1.00x"
    assert more.split()[-1] == "5.0e-01"


def test_each_question_is_answered_as_jax_would(
    untrained: Network, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def same_layout(methods: dict[str, Callable], *args: Any) -> None:
        """Stand in for `compare`, without its compiling and timing."""
        ours, *theirs = (jax.eval_shape(method, *args) for method in methods.values())
        assert theirs == [ours] * len(theirs)

    monkeypatch.setattr(demo, "compare", same_layout)
    images = jax.random.uniform(jax.random.key(1), (2, 28, 28, 1))
    demo.one_image(*untrained, images[0])
    demo.batch_of_images(*untrained, images)
    demo.parameters(*untrained, images[0])
    out = capsys.readouterr().out
    assert "J.shape is (784, 10)" in out
    assert "J.shape is (2, 10, 28, 28, 1)" in out
    assert "J['Dense_0']['kernel'].shape is (10, 400, 120)" in out
    assert "61,706 passes at once would take" in out


def test_the_picture_is_as_wide_as_a_page(untrained: Network, tmp_path: Path) -> None:
    images = jax.random.uniform(jax.random.key(1), (2, 28, 28, 1))
    demo.draw(*untrained, images, tmp_path / "new" / "picture.png")
    header = (tmp_path / "new" / "picture.png").read_bytes()[:20]
    assert header[1:4] == b"PNG"
    assert int.from_bytes(header[16:20], "big") == 1600
