"""`st predict`: the classes of image files, for a terminal or as csv."""

from collections.abc import Sequence
from pathlib import Path

from st.core.device import choose
from st.core.errors import StError
from st.core.files import check_apart, write_csv
from st.deploy.model import load
from st.deploy.pictures import image_files


def predict(
    path: Path, images: Sequence[Path], out: Path | None, device: str, threads: int
) -> None:
    """Print probability, class and file of each image, or write them to the csv file `out`.

    `images`: files, and folders of which all images are taken. Raises StError that names the file
    which is missing, can't be read or would be replaced.
    """
    files = image_files(images)
    if out:
        if out.suffix != ".csv":
            raise StError(f"{out}: must end in .csv")
        check_apart(out, [path, *files])
    where = choose(device, threads)
    model = load(path).to(where.name)
    rows = []
    for file, found in zip(files, model.predictions(files), strict=True):
        row = {"file": str(file), "class": found.label, "probability": found.probability}
        if out:
            rows.append(row)
        else:
            print(f"{100 * found.probability:5.1f} %  {found.label}  {file}")
    if out:
        write_csv(out, rows)
        print(f"{out}: {len(rows)} images")
