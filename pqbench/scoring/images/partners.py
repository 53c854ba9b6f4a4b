"""Images of two sources that belong together: image i of both was made from the same noise."""

from __future__ import annotations

from pathlib import PurePosixPath

from pqbench.base.errors import UserError
from pqbench.scoring.images.sources import ImageSource, in_words


def require_partners(images: ImageSource, partners: ImageSource) -> None:
    """Raise `UserError`, one sentence, when images and the full-precision model's cannot be paired one by one.

    Folders are paired by the names of their files without the endings; else both go by their order.
    """
    if partners.shape != images.shape:
        raise UserError(
            f"{partners.path} has images of {in_words(partners.shape)} and {images.path} of "
            f"{in_words(images.shape)}: pairs are of one size and kind."
        )
    if len(partners) != len(images):
        raise UserError(f"{partners.path} has {len(partners)} images for the {len(images)} of {images.path}: one each.")
    if images.names and partners.names:
        for name, partner in zip(_stems(images), _stems(partners), strict=True):
            if name != partner:
                raise UserError(
                    f"{images.path} has {name} where {partners.path} has {partner}: name the files of pairs alike."
                )
        return
    for source, other in ((images, partners), (partners, images)):
        source.require_order(f"{other.path} can be paired with", "Number them with leading zeros.")


def _stems(source: ImageSource) -> list[str]:
    return [str(PurePosixPath(name).with_suffix("")) for name in source.names]
