"""Import networks that are not drawn by a family of st.

REQUIRED INPUTS: the prepared data set; the module's own code, and its weights, where it has any
OUTPUTS: results/prepare/{dataset}/{architecture}/drawing.safetensors
"""


rule draw:
    input:
        unpack(inputs("draw")),
        code=code("draw"),
        module=lambda wildcards: [
            os.path.relpath(p) for p in wiring.own_code(GRID, wildcards.architecture)
        ],
    output:
        **layout.OUTPUTS["draw"],
    log:
        "results/logs/draw/{dataset}/{architecture}.log",
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        gpu=0,
        gres=None,
        mem_mb=memory("prepare"),
        runtime=runtime("prepare"),
    params:
        job=job("draw"),
        weights=lambda wildcards, input: option("weights", input.weights),
        plugins=plugins,
    message:
        "draw {wildcards.dataset}/{wildcards.architecture}"
    shell:
        "python -m st draw --job {params.job:q} {params.plugins} --data {input.data:q}"
        " {params.weights} --drawing {output.drawing:q} --log {log:q}"
