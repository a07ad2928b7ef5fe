"""The model card beside exported files: what they are, how good, how made, how to load them.

Markdown with YAML front matter as model hubs read it. It is made of the model file and of the
reports of all files in its folder (st/deploy/export.py), and again with each export.
"""

import json
import re
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from st import __version__
from st.core.errors import StError
from st.core.files import read_json
from st.core.registry import architectures, targets
from st.data.split import TESTED
from st.report.columns import reduction, short
from st.report.margins import CONFIDENCE

if TYPE_CHECKING:
    from st.deploy.model import Model

CARD = "MODEL_CARD.md"
FEW = 100  # test images of a class, below which its accuracy is only a hint
MOST_CLASSES = 1000  # rows of the table of classes
DTYPES = {"uint8": "uint8, 0 to 255", "float32": "float32, normalised"}
Report = dict[str, Any]


def check_card(path: Path, weights: str) -> None:
    """Raise StError if there is a card that is about another network, or not made here."""
    if not path.exists():
        return
    if _front(path).get("weights") != weights:
        raise StError(
            f"{path}: is about another network and would be replaced; export to a folder of its own"
        )


def _front(path: Path) -> dict[str, Any]:
    """The card's front matter; empty if it has none."""
    try:
        _, front, _ = path.read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(front)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def other_reports(path: Path, about: Path, weights: str) -> list[Report]:
    """The reports that lie beside the file `path` of others that were exported of the same network.
    `about`: its own."""
    found = []
    for file in sorted(path.parent.glob("*.json")):
        if file == about:
            continue
        try:
            told = read_json(file)
        except StError:  # somebody else's
            continue
        ours = isinstance(told, dict) and told.get("weights") == weights
        if ours and told["file"] != path.name and (path.parent / told["file"]).is_file():
            found.append(told)
    return found


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Wilson's (1927) interval of a fraction, in percent: the images are a sample, the network is
    not."""
    from scipy.stats import binomtest  # takes a second to import

    found = binomtest(correct, count).proportion_ci(CONFIDENCE, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def card(model: "Model", reports: list[Report]) -> str:
    """The card's text. `reports`: of each exported file."""
    facts = _facts(model, reports)
    parts = [
        _header(model, facts),
        f"# {_literal(facts['title'])}\n\n{_what(model, facts)}",
        f"## Data and classes\n\n{_data(model, facts)}",
        f"## Accuracy\n\n{_accuracy(facts)}",
        f"## Size\n\n{_size(model)}",
        f"## How it was made\n\n{_made(model)}",
        f"## Limits\n\n{_limits(facts)}",
        "## Licence\n\nTo be filled in by whoever publishes this file: `license` above is a "
        "placeholder. The rights in the training images are part of it.",
        f"## How to load it\n\n{_usage(model, reports)}",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(model: "Model", reports: list[Report]) -> dict[str, Any]:
    """What several sections say. `measured`: the reports of what was measured on test images."""
    measured = [report for report in reports if "accuracy" in report["check"]]
    data = next((report["data"] for report in measured if report["data"]), None)
    name = f" for {data['name']}" if data and data["name"] else ""
    subnet = "compressed " if model.structure.keep or model.structure.supernet_options else ""
    return {
        "title": f"A {subnet}{model.structure.label}{name}",
        "measured": measured,
        "reports": reports,
        "data": data,
    }


def _header(model: "Model", facts: dict[str, Any]) -> str:
    data = facts["data"]
    front: dict[str, Any] = {
        "license": "unknown",
        "library_name": "search-and-train",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "model-compression", "pruning", model.structure.label],
        "weights": model.provenance["weights"],
    }
    kinds = [report["target"] for report in facts["reports"]]
    front["tags"] += dict.fromkeys(targets.get(kind).tag or kind for kind in kinds)
    if facts["measured"]:
        front["metrics"] = ["accuracy"]
        results = [
            {
                "task": {"type": "image-classification"},
                "dataset": {
                    "name": data["name"] or "unnamed",
                    "type": data["source"],
                    "split": data["split"],
                },
                "metrics": [
                    {
                        "type": "accuracy",
                        "name": f"accuracy of {report['file']}",
                        "value": round(report["check"]["accuracy"] / 100, 6),
                    }
                ],
            }
            for report in facts["measured"]
        ]
        front["model-index"] = [{"name": facts["title"], "results": results}]
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def _what(model: "Model", facts: dict[str, Any]) -> str:
    structure = model.structure
    params, macs = structure.cost()
    full_params, full_macs = structure.full.cost()
    channels, height, width = model.input_shape
    # defaults may be of options that others replace, such as the depth of a list of layers
    known = signature(architectures.get(structure.family)).parameters
    options = [
        f"{key} {_plain(value)}"
        for key, value in structure.options.items()
        if not (key in known and value == known[key].default)
    ]
    given = f" ({', '.join(options)})" if options else ""
    text = (
        f"An image classifier: {structure.label}{given}, for {height}x{width} images "
        f"with {channels} channel{'s' * (channels > 1)}, {structure.classes} classes. "
    )
    if params == full_params:
        return text + f"It is the whole network: {short(params)} parameters, {short(macs)} MACs."
    return text + (
        f"It is a subnet of that network, found by Search-and-Train: {short(params)} of its "
        f"{short(full_params)} parameters ({reduction(params / full_params)} removed) and "
        f"{short(macs)} of its {short(full_macs)} multiply-accumulates for an image "
        f"({reduction(macs / full_macs)} removed)."
    )


def _data(model: "Model", facts: dict[str, Any]) -> str:
    data, normal = facts["data"], model.normalise.given
    resize = f"the shorter side is scaled to {model.resize} pixels and the centre cropped; then " \
        if model.resize else ""  # fmt: skip
    lines = []
    if data:
        named = f" set {_literal(data['name'])}" if data["name"] else ""
        lines.append(
            f"Data{named}: {data['training_images']:,} training images, "
            f"{data['test_images']:,} images in the evaluation (its {data['split']}). "
            f"Contents (sha256): `{data['sha256']}`."
        )
    else:
        lines.append("The data set is not named in the model file, and was not there to be read.")
    lines.append(
        f"Images are prepared so: {resize}values are divided by 255, the mean "
        f"{_numbers(normal['mean'])} is subtracted and the result divided by "
        f"{_numbers(normal['std'])}, channel by channel."
    )
    lines.append(
        "Classes, in the order of the outputs: " + ", ".join(map(_literal, model.classes)) + "."
    )
    return "\n\n".join(lines)


def _accuracy(facts: dict[str, Any]) -> str:
    measured = facts["measured"]
    if not measured:
        return (
            "Not measured: the prepared data set was not there when the file was exported. It was "
            "compared with the network on random images: "
            + "; ".join(
                f"{report['file']} differs by at most {report['check']['largest_difference']:.2g} "
                f"in outputs of at most {report['check']['largest_logit']:.3g}"
                for report in facts["reports"]
            )
            + "."
        )
    rows = [
        f"| file | accuracy (%) | {100 * CONFIDENCE:.0f} % interval | same class as in torch (%) | "
        "largest difference of a logit |",
        "|---|---:|---:|---:|---:|",
    ]
    first = measured[0]["check"]
    correct = round(first["accuracy_torch"] * first["count"] / 100)
    low, high = wilson(correct, first["count"])
    rows.append(
        f"| the network in torch | {first['accuracy_torch']:.2f} | {low:.2f} to {high:.2f} | | |"
    )
    for report in measured:
        check = report["check"]
        low, high = wilson(check["correct"], check["count"])
        rows.append(
            f"| {report['file']} | {check['accuracy']:.2f} | {low:.2f} to {high:.2f} | "
            f"{check['same_class']:.2f} | {check['largest_difference']:.2g} |"
        )
    split, count = facts["data"]["split"], first["count"]
    note = (
        f"Measured on {count:,} images ({split}). The interval (Wilson) holds the sampling of "
        "these images only, not what another training of the same network would change."
    )
    names = [report["file"] for report in measured]
    classes = [f"| class | images | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    amounts = facts["data"]["test_by_class"]
    for label in list(first["class_accuracy"])[:MOST_CLASSES]:
        cells = [f"{report['check']['class_accuracy'][label]:.1f}" for report in measured]
        classes.append(f"| {_literal(label)} | {amounts[label]} | {' | '.join(cells)} |")
    table = "\n".join(rows)
    return f"{table}\n\n{note}\n\nAccuracy of each class (%):\n\n" + "\n".join(classes)


def _size(model: "Model") -> str:
    structure = model.structure
    params, macs = structure.cost()
    full_params, full_macs = structure.full.cost()
    return (
        "| | this network | the whole network |\n|---|---:|---:|\n"
        f"| parameters | {params:,} | {full_params:,} |\n"
        f"| multiply-accumulates, one image | {macs:,} | {full_macs:,} |\n"
        f"| weights in float32, bytes | {4 * params:,} | {4 * full_params:,} |"
    )


def _made(model: "Model") -> str:
    facts = model.provenance
    job, where = facts.get("job") or {}, facts.get("environment") or {}
    recipe = job.get("training") or {}
    text = "Trained"
    if facts.get("epochs"):
        text += f" for {facts['epochs']} epoch{'s' * (facts['epochs'] != 1)}"
    if recipe:
        text += f" in batches of {recipe.get('batch_size')} images"
    losses = [
        f"{options.get('weight', 1):g} x {name}"
        for name, options in (job.get("objective") or {}).items()
    ]
    if losses:
        text += f", minimising {' + '.join(losses)}"
    if job.get("sparsity"):
        text += f", with an L1 penalty of {job['sparsity']:g} on the scales of normalisations"
    if "seed" in job:
        text += f", seed {job['seed']}"
    versions = [
        f"{name} {where[name]}" for name in ("python", "torch", "precision") if where.get(name)
    ]
    if where.get("device"):
        versions.append(f"on {where['device']}")
    text += f" ({', '.join(versions)})." if versions else "."
    text += f" Exported by search-and-train {__version__}."
    told = yaml.safe_dump({"job": job, "environment": where}, sort_keys=False, allow_unicode=True)
    return f"{text} The training's parameters:\n\n```yaml\n{told}```"


def _limits(facts: dict[str, Any]) -> str:
    lines = [
        "It answers with one of its classes for any image, also for those that show none of them. "
        "Its probabilities were not calibrated.",
        "Images that differ from the training images (another camera, light, crop or population) "
        "may be classified worse than the accuracy above says; nothing was measured on such.",
    ]
    if facts["data"]:
        amounts = facts["data"]["test_by_class"]
        few = [name for name, count in amounts.items() if count < FEW]
        if few:
            named = ", ".join(map(_literal, few[:10])) + (", ..." if len(few) > 10 else "")
            lines.append(
                f"Fewer than {FEW} images of {len(few)} of {len(amounts)} classes were evaluated "
                f"({named}): their accuracies are rough."
            )
        if facts["data"]["split"] != TESTED:
            lines.append(
                "The accuracy is one to choose settings by: the test images were not looked at."
            )
    lines.append("Networks with fewer parameters may lose more on rare classes than on others.")
    return "\n".join(f"- {line}" for line in lines)


def _usage(model: "Model", reports: list[Report]) -> str:
    parts = []
    names = repr(model.classes) if len(model.classes) <= 20 else "[...]  # as listed above"
    for report in reports:
        name = json.dumps(report["file"], ensure_ascii=False)[1:-1]  # within quotes
        call = targets.get(report["target"]).call.format(
            file=name, stem=Path(report["file"]).stem, input=report["input"]["name"],
            dtype=DTYPES[report["input"]["type"]],
            shape=", ".join(str(n) for n in report["input"]["shape"][1:]),
        )  # fmt: skip
        parts.append(f"{report['file']}:\n\n```python\nnames = {names}\n{call}\n```")
    parts.append(
        "The classes, the normalisation, the structure and the provenance are also in each file: "
        "`session.get_modelmeta().custom_metadata_map` in onnxruntime, `extra_files` "
        "(`metadata.json`) of `torch.export.load`, `metadata()` of `safetensors.safe_open`."
    )
    return "\n\n".join(parts)


def _literal(name: str) -> str:
    """A name from elsewhere in Markdown, where it is neither markup nor HTML."""
    return re.sub(r"([\\`*_\[\]<>|&~$#])", r"\\\1", name)


def _numbers(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
