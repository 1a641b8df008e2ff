"""What an adapter's files come to, all but the numbers: worked out once for all that are alike.

Adapters trained by one recipe have the same config and the same header, and differ in their numbers
alone. Parsing and judging some hundred names takes the interpreter's lock for longer than the loop
beside it should wait; the second adapter of a kind is spared that.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lorax_serve.engine.adapters.finite import all_finite
from lorax_serve.engine.adapters.label_head import HeadNames, LabelHead, check_head_finite
from lorax_serve.engine.adapters.matrices import MatrixPair, check_finite
from lorax_serve.engine.adapters.tensor_file import TensorLayout
from lorax_serve.engine.adapters.weights import LoraMatrices
from lorax_serve.engine.lull import no_pause

_MAX_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Good for every body of the right length below a header that was judged."""

    layout: TensorLayout
    pairs: tuple[MatrixPair, ...]
    num_body_bytes: int
    head: HeadNames | None = None

    @property
    def num_named(self) -> int:
        """Tensors of the file that are the adapter's own."""
        return 2 * len(self.pairs) + (0 if self.head is None else self.head.num_tensors)

    def weights(
        self, body: memoryview, pause: Callable[[], None] = no_pause
    ) -> tuple[dict[str, LoraMatrices], LabelHead | None]:
        """By module, views of `body`, and the head. Raises Refusal where they hold anything but
        numbers.
        """
        runs = self.layout.runs(body)
        all_numbers = all(map(all_finite, runs))
        pause()
        tensors = self.layout.tensors(runs)
        matrices = {pair.module: pair.matrices(tensors) for pair in self.pairs}
        head = None if self.head is None else self.head.head(tensors)
        if not all_numbers:
            check_finite(matrices)
            if head is not None:
                check_head_finite(head)
        return matrices, head


class Blueprints:
    """The latest ones, by the digest of config and header, for one model. Safe on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_digest: OrderedDict[str, Blueprint] = OrderedDict()

    def find(self, digest: str, num_body_bytes: int) -> Blueprint | None:
        with self._lock:
            blueprint = self._by_digest.get(digest)
            if blueprint is None or blueprint.num_body_bytes != num_body_bytes:
                return None
            self._by_digest.move_to_end(digest)
            return blueprint

    def keep(self, digest: str, blueprint: Blueprint) -> None:
        with self._lock:
            self._by_digest[digest] = blueprint
            self._by_digest.move_to_end(digest)
            while len(self._by_digest) > _MAX_REMEMBERED:
                self._by_digest.popitem(last=False)
