"""Let a torchvision that was built for another torch be imported.

"operator torchvision::nms does not exist" is raised when torchvision's compiled operators failed to load and its Python
half then registers shapes for them. timm, torch-fidelity and diffusers import torchvision for parts that never call
these operators, so declaring them (without an implementation) is enough.
"""

from __future__ import annotations

import importlib.util

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[object] = []


def declare_missing_operators() -> bool:
    """Declare the operators if torchvision is installed and cannot provide them itself.

    Returns True when the shim had to act; the state of the installation is what `pqbench env` prints.
    """
    import torch

    if _declared or importlib.util.find_spec("torchvision") is None:
        return bool(_declared)
    if _native_operators_load():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    # The definitions live only as long as the Library object does.
    _declared.append(library)
    return True


def _native_operators_load() -> bool:
    """Whether torchvision's extension, loaded the way torchvision loads it, brings its operators."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.submodule_search_locations
    from pathlib import Path

    for folder in spec.submodule_search_locations:
        for extension in Path(folder).glob("_C*"):
            try:
                torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
            except OSError:
                continue
    return hasattr(torch.ops.torchvision, "nms")
