"""The user's own pictures: files of a folder, cropped to squares and brought to one size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Arrays, GreyDataset, Raw, Values
from ebm_cli.dataset.held_out import FileSplit, hold_out
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.errors import UserError
from ebm_cli.registry import Later, register

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Other formats of Pillow are left out: some are read by programs that run code of the file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SPLITS = ("train", "valid", "test")
_FEWEST = 3  # images, one for each split
_NAMED = 50  # pictures that cannot be read
_FIRST = 5  # of those that are passed over

Classes = Mapping[str | None, list[Path]]
"""Files of one split by the name of their class, None if there are no classes."""


@register("dataset", "image_folder")
class ImageFolder(GreyDataset):
    """Pictures (BMP, GIF, JPEG, PNG, PPM, TIFF, WebP; 8 bits a channel) of one folder, uint8.

    Layout: the files themselves; or a subfolder for each class, whose label is its place among their sorted names; or
    subfolders train and, if you like, valid and test, each of either kind, all of the same. Files of other types and
    names that begin with a dot are passed over. A picture is turned as its EXIF data say, its largest centred square is
    cut out and brought to `size` x `size` pixels by bicubic interpolation, with antialiasing. Transparency is ignored.
    Pictures that cannot be read are refused all together, by name, or passed over (`broken` skip).

    A test and a validation split that the folder lacks are drawn from train, always the same rows: the share `held_out`
    for testing, then that share of the remainder for validation.
    """

    path: str | None
    size: Annotated[int, Field(ge=1)]
    colour: bool
    broken: Annotated[Literal["refuse", "skip"], Later("refuse")]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    values: ClassVar[Values | None] = "grey"

    @override
    def read(self) -> Raw:
        """Images (n, 3, size, size), or (n, size, size) if grey. Raises UserError naming the first thing wrong."""
        if self.path is None:
            raise UserError("dataset.path = null: name the folder of pictures, dataset.path=FOLDER")
        said = f"dataset.path = {self.path}"
        splits = find_splits(Path(self.path).expanduser(), said)
        names = sorted({name for classes in splits.values() for name in classes if name is not None})
        _check_count(splits, said)
        files = [path for classes in splits.values() for paths in classes.values() for path in paths]
        images, wrong = self._images(files)
        remarks = self._of_broken(wrong, len(files), Path(self.path).expanduser(), said)
        splits = {name: _without(wrong, classes) for name, classes in splits.items()}
        _check_count(splits, said)
        parts = {name: _part(name, classes, names, images) for name, classes in splits.items()}
        for name in ("test", "valid"):
            if name not in parts:
                way = f"put some into a subfolder {name} beside train, or lower dataset.held_out = {self.held_out}"
                parts["train"], parts[name] = hold_out(parts["train"], name, self.held_out, said, way)
        train, valid, test = (Arrays(parts[name].values, parts[name].labels) for name in SPLITS)
        return Raw("grey", train, valid, test, remarks=remarks)

    @override
    def own_rows(self, path: Path, said: str, array: str | None) -> OwnRows:
        """The pictures of a folder, or one, cut out and brought to size alike, with their names as labels."""
        if not path.is_dir() and not _is_image(path):
            return super().own_rows(path, said, array)
        files = [file for file in _visible(path) if _is_image(file)] if path.is_dir() else [path]
        if not files:
            raise UserError(f"{said}: has no image; file names must end in {', '.join(SUFFIXES)}")
        found, wrong = self._images(files)
        _refuse_broken(wrong, len(files), files[0].parent, said)
        images = np.stack(list(found.values()))
        names = [file.name for file in files]
        return OwnRows(images, np.zeros(images.shape, np.bool_), np.array(names), tuple(names))

    def _images(self, files: Sequence[Path]) -> tuple[dict[Path, NDArray[np.uint8]], dict[Path, UserError]]:
        """All that can be read, and what is wrong with the others, so that they need not be found one by one."""
        found, wrong = dict[Path, NDArray[np.uint8]](), dict[Path, UserError]()
        for path in files:
            try:
                found[path] = read_image(path, self.size, self.colour)
            except UserError as error:
                wrong[path] = error
        return found, wrong

    def _of_broken(self, wrong: Mapping[Path, UserError], count: int, folder: Path, said: str) -> tuple[str, ...]:
        """A remark on those that are passed over. Raises UserError where they are not to be."""
        if not wrong:
            return ()
        if self.broken == "refuse":
            _refuse_broken(wrong, count, folder, said)
        which = _listed(wrong, folder, _FIRST)
        return (f"dataset.broken = skip: {len(wrong)} of {count} pictures cannot be read and are passed over: {which}",)


def _check_count(splits: Mapping[str, Classes], said: str) -> None:
    """Raise UserError unless there is a picture for each split."""
    count = sum(len(paths) for paths in splits["train"].values())
    if count + len(splits) - 1 < _FEWEST:
        raise UserError(f"{said}: too few images for training ({count}); the three splits need one each at least")
    empty = [name for name, classes in splits.items() if not any(classes.values())]
    if empty:
        raise UserError(f"{said}: no picture of {empty[0]} can be read; mend them")


def _without(wrong: Mapping[Path, UserError], classes: Classes) -> Classes:
    return {label: [path for path in paths if path not in wrong] for label, paths in classes.items()}


def _refuse_broken(wrong: Mapping[Path, UserError], count: int, folder: Path, said: str) -> None:
    """Raise UserError naming the pictures that cannot be read, if there are any."""
    if len(wrong) == 1:
        raise next(iter(wrong.values()))
    if wrong:
        raise UserError(
            f"{said}: {len(wrong)} of {count} pictures cannot be read; take them out, or pass over them by "
            f"dataset.broken=skip: {_listed(wrong, folder, _NAMED)}"
        )


def _listed(paths: Mapping[Path, UserError], folder: Path, most: int) -> str:
    names = [str(path.relative_to(folder)) for path in paths]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _part(name: str, classes: Classes, names: Sequence[str], images: Mapping[Path, NDArray[np.uint8]]) -> FileSplit:
    """One split, its images in the order of classes and of file names."""
    files = [(path, label) for label, paths in classes.items() for path in paths]
    labels = np.array([names.index(label) for _, label in files if label is not None], np.int64)
    return FileSplit(name, np.stack([images[path] for path, _ in files]), labels if names else None)


def find_splits(folder: Path, said: str) -> dict[str, Classes]:
    """The files of each split that is there, train among them. Raises UserError for any other layout."""
    if not folder.is_dir():
        raise UserError(f"{said}: there is no such folder")
    inside = {path.name for path in _visible(folder) if path.is_dir()}
    if not inside & set(SPLITS):
        return {"train": find_classes(folder, said)}
    others = sorted(path.name for path in _visible(folder) if path.name not in SPLITS)
    others = [name for name in others if name in inside or _is_image(folder / name)]
    if others or "train" not in inside:
        wrong = f"{others[0]} beside" if others else "no train among"
        raise UserError(
            f"{said}: has {wrong} the subfolders {', '.join(sorted(inside & set(SPLITS)))}; with subfolders of these "
            f"names it must have {', '.join(SPLITS)} alone, train at least"
        )
    found = {name: find_classes(folder / name, f"{said}: {name}") for name in SPLITS if name in inside}
    if len({None in classes for classes in found.values()}) > 1:
        raise UserError(f"{said}: some of {', '.join(found)} have a subfolder for each class and some not; use one way")
    return found


def find_classes(folder: Path, said: str) -> Classes:
    """The image files of a folder by class, sorted. Raises UserError if there are none, or more levels of folders."""
    files = [path for path in _visible(folder) if _is_image(path)]
    folders = [path for path in _visible(folder) if path.is_dir()]
    if files and folders:
        raise UserError(
            f"{said}: has images ({files[0].name}, ...) beside subfolders ({folders[0].name}, ...); put all images "
            "into subfolders, one for each class, or none"
        )
    for path in folders:
        deeper = [inner for inner in _visible(path) if inner.is_dir()]
        if deeper:
            raise UserError(f"{said}: {path.name} is a class, yet has a subfolder {deeper[0].name}; take that out")
    found: dict[str | None, list[Path]] = {None: files} if files else {}
    found |= {path.name: [inner for inner in _visible(path) if _is_image(inner)] for path in folders}
    if not any(found.values()):
        raise UserError(f"{said}: has no image; file names must end in {', '.join(SUFFIXES)}")
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_image(path: Path, size: int, colour: bool) -> NDArray[np.uint8]:
    """One picture, (3, size, size) or (size, size). Raises UserError naming the file if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{path}: has more than 8 bits a channel; save it with 8, or take it out")
            upright = ImageOps.exif_transpose(image).convert("RGB" if colour else "L")
        square = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read as a picture ({reason}); mend it or take it out") from error
    pixels = np.array(square, np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if colour else pixels
