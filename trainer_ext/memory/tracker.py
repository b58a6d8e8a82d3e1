"""Bytes of live tensors at any time, real or fake."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensorBytes(TorchDispatchMode):
    """Counts the storages that operations allocate inside its block, until they are freed.

    The count is what a caching allocator would be asked for, on any device. torch's own `MemTracker` also counts by
    module and category, in a private module (torch.distributed._tools).

    Args:
        known: existing tensors, which are not counted.

    Attributes:
        live: bytes now.
        peak: the maximum; may be reset.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, Any] = {}
        self._known = list(known)
        for tensor in self._known:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def forget(_: Any) -> None:
            self._storages.pop(key, None)
            self.live -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)
