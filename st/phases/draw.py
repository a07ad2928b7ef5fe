"""Draw: import a torch module as a network that can be pruned."""

from pathlib import Path

from st.core.guest import INSTEAD, guest
from st.core.job import Job
from st.core.progress import say
from st.core.seeds import derive
from st.data.dataset import load_data
from st.networks.checkpoint import save_model
from st.networks.imported.export import imported
from st.networks.imported.modules import fill, made
from st.networks.structure import Structure
from st.networks.weights import fitted

LEAST = 0.2  # of the MACs: with less to prune, it is said


def run(job: Job, data: Path, drawing: Path, weights: Path | None = None) -> None:
    """Write to `drawing` a model file with the imported network and the module's own weights.

    `weights`: a file to fill the module with first. Raises StError that says what cannot be
    imported.
    """
    images, _ = load_data(data)
    options, shape, classes = job["options"], images.input_shape, len(images.classes)
    with guest(f"module '{options['module']}'", "when it is made or run", INSTEAD):
        module, notes = made(
            options["module"], options["arguments"] or {}, shape, classes, derive(0, "draw")
        )
        if weights:
            fill(module, weights)
        program, tensors = imported(
            module, shape, options["stages"], options["streams"] == "prune", classes
        )
    structure = Structure("import", options, shape, classes, program=program)
    if weights:
        tensors, said = fitted(structure, weights, tensors, None)
        notes += said
    for note in (*notes, *program.notes):
        say(f"{options['module']}: {note}")
    params, macs = structure.cost()
    say(f"{params:,} parameters, {macs:,} MACs an image, {len(program.groups)} groups of channels")
    prunable = program.prunable()
    stays = [
        f"{count} because of {operator}"
        for operator, count in sorted(program.pinned.items(), key=lambda found: -found[1])
        if operator != "the output"
    ]
    told = f"; channels that stay: {', '.join(stays)}" if stays else ""
    say(f"prunable: {prunable[0]:.1%} of the parameters, {prunable[1]:.1%} of the MACs{told}")
    if prunable[1] < LEAST:
        say(f"less than {LEAST:.0%} of its MACs can be pruned: smaller budgets will be refused")
    save_model(drawing, structure, tensors, job=job, notes=[*notes, *program.notes])
