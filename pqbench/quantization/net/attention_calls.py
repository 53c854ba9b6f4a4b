"""Which calls of torch are the products of an attention, seen as a forward makes them.

An attention is softmax(q k') v, written as one call (`scaled_dot_product_attention`) or as a product, a softmax and
another product. Both are recognised by what is called, so that no attention class or processor needs to be known.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PRODUCTS = {"matmul": 0, "bmm": 0, "baddbmm": 1}
"""Names of products and the place of their first factor: baddbmm adds its first argument."""
_BETWEEN = {"to", "type", "type_as", "float", "half", "bfloat16", "contiguous", "dropout"}
"""What may stand between a softmax and its product."""


class AttentionCalls(TorchFunctionMode):
    """Hands every product of an attention to a method of its own; all other calls go through as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.softmaxed: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        name = getattr(func, "__name__", "")
        place = _PRODUCTS.get(name)
        if place is not None and len(args) == place + 2:
            return self._product(func, place, args, kwargs)
        result = func(*args, **kwargs)
        if name == "softmax":
            self.softmax(result)
        elif name in _BETWEEN and args and self._is_softmaxed(args[0]):
            self.softmaxed.append(result)
        return result

    def _product(self, func: Callable[..., Any], place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        left, right = args[place:]

        def multiply(left: Tensor, right: Tensor) -> Tensor:
            product: Tensor = func(*args[:place], left, right, **kwargs)
            return product

        if self._is_softmaxed(left):
            return self.mixture(multiply, left, right)
        return self.scores(multiply, left, right)

    def _is_softmaxed(self, value: object) -> bool:
        return any(value is kept for kept in self.softmaxed)

    def softmax(self, result: Tensor) -> None:
        """A softmax was computed."""
        self.softmaxed.append(result)

    @abstractmethod
    def attention(self, *args: Any, **kwargs: Any) -> Tensor:
        """The whole attention in one call, with the arguments of `scaled_dot_product_attention`."""

    @abstractmethod
    def scores(self, multiply: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
        """A product of which no factor is a softmax: q k', if a softmax follows."""

    @abstractmethod
    def mixture(self, multiply: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
        """The product of a softmax with v."""
