"""`st predict`: the classes of image files, for a terminal or as csv."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st.core.device import choose
from st.core.errors import StError, printable
from st.core.files import check_apart, write_csv
from st.deploy.model import load
from st.deploy.pictures import image_files


def predict(
    path: Path, images: Sequence[Path], out: Path | None, device: str, threads: int
) -> None:
    """Print probability, class and file of each image, or write them to the csv file `out`.

    `images`: files, and folders of which all images are taken; each file once. One that can't be
    read is a row with the reason, and after the last row StError names the first of these. Raises
    StError at once that names a file which is missing or would be replaced.
    """
    named: dict[str, Path] = {}
    for file in image_files(images):
        named.setdefault(os.path.abspath(file), file)
    files = list(named.values())
    if out:
        if out.suffix != ".csv":
            raise StError(f"{out}: must end in .csv")
        check_apart(out, [path, *files])
    where = choose(device, threads)
    model = load(path).to(where.name)
    rows, failed = [], []
    for file, found in zip(files, model.predictions(files), strict=True):
        row: dict[str, Any] = {"file": str(file), "class": "", "probability": "", "error": ""}
        if isinstance(found, StError):
            failed.append(str(found))
            row |= {"error": str(found)}
            line = f"    - %  {found}"
        else:
            row |= {"class": found.label, "probability": found.probability}
            line = f"{100 * found.probability:5.1f} %  {found.label}  {printable(file)}"
        if out:
            rows.append(row)
        else:
            print(line)
    if out:
        write_csv(out, rows)
        print(f"{out}: {len(rows)} images")
    if failed:
        raise StError(f"{len(failed)} of {len(files)} images have no class, the first: {failed[0]}")
