"""Search: score the supernet's channels and keep the structure of the best."""

from pathlib import Path

from st import registry
from st.checkpoint import load_model
from st.criteria import Subject
from st.errors import StError
from st.job import Job
from st.progress import say
from st.search import Budget, select_channels
from st.structure import Structure, save_structure


def run(
    job: Job,
    supernet: Path,
    structure: Path,
    data: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> None:
    """Write the subnet's structure to `structure`; no weights are kept.

    `data`: for criteria that look at training images. `device` and `threads` concern those only.
    """
    source = load_model(supernet)
    full = source.structure
    budget = Budget(**job["budget"])
    subject = Subject(full, source.tensors, budget, job["seed"], data, device, threads)
    try:
        found = registry.criteria.get(job["criterion"])(subject, **job["options"])
        if not isinstance(found, Structure):
            keep = select_channels(
                full.graph, found, budget, job["ranking"], job["min_channels"], job["round_to"]
            )
            found = Structure(full.family, full.options, full.input_shape, full.classes, keep)
    except StError as error:
        raise StError(f"{supernet}: {error}") from error
    (params, macs), (full_params, full_macs) = found.cost(), full.cost()
    save_structure(
        structure, found, search=job, params=params, macs=macs,
        params_kept=params / full_params, macs_kept=macs / full_macs,
        widths=found.graph.widths(found.keep), supernet_widths=full.graph.widths({}),
    )  # fmt: skip
    say(
        f"{params:,} of {full_params:,} parameters ({params / full_params:.1%}), "
        f"{macs:,} of {full_macs:,} MACs ({macs / full_macs:.1%})"
    )
