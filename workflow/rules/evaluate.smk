"""Evaluate: accuracy, size and latency.

One job measures all networks of an architecture and seed, supernets included: their latencies are
then measured side by side, and importing torch is paid once. A rule for each architecture, because
methods may apply to some only.

REQUIRED INPUTS: the prepared data set, all trained networks; the files that are made of some of them
OUTPUTS: results/evaluate/.../{method}/: metrics.json, predictions.safetensors (the class of every
test image); supernets by their row in the table
"""


def measured_files(architecture):
    """The files of these jobs, with wildcards for data set and seed."""
    return wiring.files(GRID, "evaluate", Experiment("{dataset}", architecture, "{seed}"))


for architecture in PARAMS.architectures:

    rule:
        name:
            f"evaluate_{architecture}"
        input:
            **{name: files or [] for name, files in measured_files(architecture).inputs.items()},
            beside=wiring.beside(GRID, Experiment("{dataset}", architecture, "{seed}")),
            code=code("evaluate", architecture),
        output:
            **measured_files(architecture).outputs,
        log:
            f"results/logs/evaluate/{{dataset}}/{architecture}/seed{{seed}}.log",
        conda:
            "../envs/st.yaml"
        threads: 1
        resources:
            gpu=GPU,
            gpu_percent=PARAMS.resources.gpu_percent.get(architecture, 0),
            mem_mb=memory("evaluate"),
            runtime=runtime("evaluate"),
        params:
            job=job("evaluate", architecture),
            exports=lambda wildcards, input: options("exports", input.exports),
            plugins=plugins,
        message:
            f"evaluate {{wildcards.dataset}}/{architecture}/seed{{wildcards.seed}}"
        shell:
            "ST_GPU_PERCENT={resources.gpu_percent}"
            " python -m st evaluate --job {params.job:q} {params.plugins} --data {input.data:q}"
            " --models {input.models:q} {params.exports} --metrics {output.metrics:q}"
            " --predictions {output.predictions:q} --threads {threads} --log {log:q}"
