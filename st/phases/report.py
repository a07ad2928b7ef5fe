"""Report: all metrics as one table, the figures, and what they say about the paper's claim."""

from pathlib import Path

from st.core.errors import StError
from st.core.files import write_json, write_text
from st.core.job import Job
from st.core.progress import say
from st.report import captions, figures, tables
from st.report.verdicts import claims


def run(job: Job, folder: Path) -> None:
    """Write all tables and figures/ into `folder`, from the results there.

    Raises StError that names the first file that is missing.
    """
    try:
        runs = tables.collect(job, folder)
    except StError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise StError(f"{error}; make it by snakemake, or by `st evaluate`") from error
        raise
    verdicts = claims(job, runs, tables.answers(job, folder))
    table, caption = tables.aggregate(runs), captions.caption(job, runs)
    for dataset, architecture, _ in tables.groups(table):
        drawn = {
            "accuracy": figures.accuracy(job, table, dataset, architecture),
            "margins": figures.margins(job, verdicts, dataset, architecture),
            "channels": figures.channels(job, folder, dataset, architecture),
            "curves": figures.curves(job, folder, dataset, architecture),
        }
        for name, figure in drawn.items():
            for kind in ("png", "pdf"):
                if figure:
                    path = Path(folder, "figures", f"{dataset}-{architecture}-{name}.{kind}")
                    figures.save(figure, path)
    notes = list(captions.notes(job, folder))
    # the tables last: where they are, the figures are too
    write_text(Path(folder, "runs.csv"), runs.to_csv(index=False, float_format="%.6g"))
    write_json(Path(folder, "metrics.json"), tables.to_metrics(table))
    write_json(Path(folder, "environment.json"), tables.environment(job, folder))
    found = [claim.to_json(job["seeds"]) for claim in verdicts]
    write_json(Path(folder, "verdicts.json"), found)
    write_text(Path(folder, "curves.csv"), tables.curves(job, folder).to_csv(index=False))
    write_text(
        Path(folder, "table.md"),
        "\n".join([tables.to_markdown(table, caption), *(f"{note}\n" for note in notes)]),
    )
    write_text(Path(folder, "table.tex"), tables.to_latex(table, caption))
    write_text(Path(folder, "table.csv"), tables.to_csv(table))
    for claim in verdicts:
        say(claim.short)
    if verdicts:
        say("all comparisons and controls: verdicts.json, and comparison.html")
    for note in notes:
        say(note)
